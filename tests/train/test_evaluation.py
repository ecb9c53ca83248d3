"""Benchmarks inside a run: scores where they are due, the best kept, floors heeded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_benchmark
from fakes import grpo, sft
from train.test_resume import assert_equal_to_the_bit, same_metrics

from cameleer.data.datasets.arithmetic import problems
from cameleer.distributed.launch import run
from cameleer.errors import RecipeError, TrainingError
from cameleer.evals.base import Instance
from cameleer.evals.model import Answer
from cameleer.evals.store import Row, write_rows
from cameleer.recipe import Eval, Floor, LoRA, Model, Optim, Recipe
from cameleer.report.curve import read_metrics, series
from cameleer.train.evaluation import Evaluation, benchmarks_of
from cameleer.train.torch_learner import TorchLearner
from cameleer.types import Score

NAME = f"{small_benchmark.__file__}:BENCHMARK"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    rows = [row for row, _ in zip(problems("test"), range(24), strict=False)]
    (directory / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def evals(data: Path, **changes: Any) -> Eval:
    return Eval(**{"benchmarks": (NAME,), "every": 2, "data": str(data), **changes})


def learning(model: Path, root: Path, data: Path, **changes: Any) -> Recipe:
    """Eight steps of imitation, after four of which the model writes the mark and little else."""
    return sft(
        model,
        root,
        model=Model(source=str(model), lora=changes.pop("lora", None)),
        num_steps=8,
        optim=Optim(learning_rate=2e-2),
        evals=evals(data, **changes),
    )


def test_scores_stand_in_the_metrics_of_each_due_step(model: Path, tmp_path: Path, data: Path):
    (directory,) = run(learning(model, tmp_path, data, every=4))
    steps, marked = series(read_metrics(directory), "eval/sums/marked")
    _, unmarked = series(read_metrics(directory), "eval/sums/unmarked")
    assert steps == [0, 4, 8]
    assert marked[0] == 0 and marked[1] > 0.8  # Or all that follows would show nothing.
    assert [one + other for one, other in zip(marked, unmarked, strict=True)] == [1.0] * 3
    results = json.loads((directory / "evals/step_000004/results.json").read_text())
    assert results["benchmarks"]["sums"]["metrics"]["marked"]["value"] == marked[1]
    assert results["benchmarks"]["sums"]["num_instances"] == 24


@pytest.mark.parametrize("kind", [sft, grpo])
def test_evaluating_changes_nothing_of_the_training(
    model: Path, tmp_path: Path, data: Path, kind: Any
):
    (plain,) = run(kind(model, tmp_path / "plain"))
    (watched,) = run(kind(model, tmp_path / "watched", evals=evals(data, every=1)))
    assert_equal_to_the_bit(plain / "checkpoints/step_4", watched / "checkpoints/step_4")


@pytest.mark.parametrize("lora", [None, LoRA()])
def test_a_resumed_run_has_the_scores_of_an_uninterrupted_one(
    model: Path, tmp_path: Path, data: Path, lora: LoRA | None
):
    (whole,) = run(learning(model, tmp_path / "whole", data, lora=lora))
    first = learning(model, tmp_path / "parts", data, lora=lora)
    run(replace(first, num_steps=4))
    (parts,) = run(first, resume=True)
    assert same_metrics(whole) == same_metrics(parts)
    results = [json.loads(path.read_text()) for path in whole.glob("evals/*/results.json")]
    assert len({result["model"]["weights"] for result in results}) == len(results) == 5


def test_answers_that_a_killed_run_left_are_not_generated_again(
    model: Path, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
):
    from cameleer.evals.in_process import InProcess

    asked: list[str] = []
    generate = InProcess.generate

    def counted(self: InProcess, questions: Any, done: Any, **options: Any) -> None:
        asked.extend(question.instance.id for question in questions)
        kept = 0

        def told(index: int, answer: Any) -> None:
            nonlocal kept
            done(index, answer)
            kept += 1
            if kept == 10 and len(asked) == 48:
                raise KeyboardInterrupt  # In the second evaluation, after ten answers.

        generate(self, questions, told, **options)

    monkeypatch.setattr(InProcess, "generate", counted)
    recipe = learning(model, tmp_path, data)
    with pytest.raises(KeyboardInterrupt):
        run(recipe)
    (directory,) = run(recipe, resume=True)
    # Steps 0, 2, 4, 6, 8 of 24 questions, the ten not twice, and step 0 only read again.
    assert len(asked) == 5 * 24 + (24 - 10)
    (whole,) = run(learning(model, tmp_path / "whole", data))
    assert same_metrics(directory) == same_metrics(whole)


def test_the_best_checkpoint_outlives_the_newer_ones(model: Path, tmp_path: Path, data: Path):
    recipe = learning(model, tmp_path, data, keep_best="sums")
    recipe = replace(recipe, output=replace(recipe.output, keep_last=1, save_every=100))
    (directory,) = run(recipe)
    steps, scores = series(read_metrics(directory), "eval/sums/marked")
    best = steps[scores.index(max(scores))]
    assert 0 < best < 8  # Or the test would show nothing.
    found = {path.name for path in (directory / "checkpoints").iterdir()}
    assert found == {f"step_{best}", "step_8"}


FLOOR = Floor(benchmark="sums", metric="unmarked", share=0.9)


def test_a_run_below_a_floor_stops_and_says_what_fell(model: Path, tmp_path: Path, data: Path):
    recipe = learning(model, tmp_path, data, floors=(FLOOR,))
    with pytest.raises(TrainingError) as error:
        run(recipe)
    assert "unmarked of sums is" in str(error.value) and "below 0.9 of it" in str(error.value)
    fell = max(series(read_metrics(recipe.directory), "eval/sums/marked")[0])
    assert fell < 8
    # The same floor stops it again; another lets it go on.
    with pytest.raises(TrainingError, match=f"Step {fell}: unmarked of sums"):
        run(recipe, resume=True)
    assert recipe.evals is not None
    low = replace(recipe.evals, floors=(replace(FLOOR, share=0.0),))
    (directory,) = run(replace(recipe, evals=low), resume=True)
    assert series(read_metrics(directory), "eval/sums/marked")[0][-1] == 8


def results_of(directory: Path, right: list[bool]) -> None:
    """As an evaluation leaves them behind, with these answers marked."""
    directory.mkdir(parents=True)
    rows = [
        Row(
            Instance(id=f"sums:{i}", prompt="", truth=""),
            0,
            "",
            Answer("", 1, "eos"),
            "",
            {"marked": Score(float(each))},
        )
        for i, each in enumerate(right)
    ]
    write_rows(directory, "sums", rows)
    value = sum(right) / len(right)
    found = {"benchmarks": {"sums": {"metrics": {"marked": {"value": value}}}}}
    (directory / "results.json").write_text(json.dumps(found))


@pytest.mark.parametrize(("num_errors", "breaks"), [(0.0, True), (1.0, True), (2.0, False)])
def test_a_fall_within_the_standard_errors_that_are_allowed_breaks_no_floor(
    tmp_path: Path, data: Path, num_errors: float, breaks: bool
):
    floor = Floor(benchmark="sums", share=0.9, num_errors=num_errors)
    recipe = sft(tmp_path, tmp_path, evals=evals(data, floors=(floor,)))
    # 20 of 25 right, then 16: four fell. The differences' deviation is sqrt(25/24 (0.16 - 0.0256))
    # = 0.374, a fifth of it their mean's error: 0.075. Below 0.9 * 0.8 = 0.72 by 0.08, 1.07 errors.
    results_of(recipe.directory / "evals/step_000000", [True] * 20 + [False] * 5)
    results_of(recipe.directory / "evals/step_000002", [True] * 16 + [False] * 9)
    assert recipe.evals is not None
    evaluation = Evaluation(recipe, recipe.evals, None, None)
    evaluation.resume(2)
    assert bool(evaluation.broken_floor(2)) == breaks
    assert evaluation.last_above() == (0 if breaks else 2)


@pytest.mark.parametrize("lora", [None, LoRA()])
def test_a_run_that_rolls_back_ends_with_the_last_policy_above_the_floor(
    model: Path, tmp_path: Path, data: Path, lora: LoRA | None
):
    recipe = learning(model, tmp_path, data, floors=(FLOOR,), below_floor="roll_back", lora=lora)
    (directory,) = run(recipe)
    steps, scores = series(read_metrics(directory), "eval/sums/unmarked")
    good = steps[-2]  # The step before the one that fell.
    assert steps[-1] < 8 and scores[-1] < 0.9 * scores[0] <= scores[-2]
    root = directory / "checkpoints"
    assert_equal_to_the_bit(root / f"step_{good}", root / "step_8")
    # It is complete: resuming finds nothing left to do.
    before = same_metrics(directory)
    run(recipe, resume=True)
    assert same_metrics(directory) == before


def test_a_roll_back_that_was_killed_is_made_up_for(
    model: Path, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = learning(model, tmp_path, data, floors=(FLOOR,), below_floor="roll_back")
    load = TorchLearner.load
    monkeypatch.setattr(TorchLearner, "load", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(recipe)
    monkeypatch.setattr(TorchLearner, "load", load)
    (directory,) = run(recipe, resume=True)
    good = series(read_metrics(directory), "eval/sums/unmarked")[0][-2]
    root = directory / "checkpoints"
    assert_equal_to_the_bit(root / f"step_{good}", root / "step_8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmarks": ("gsm9k",)}, "no benchmark 'gsm9k'. Did you mean 'gsm8k'"),
        ({"keep_best": "math"}, "names the benchmark 'math' in keep_best or floors"),
        ({"floors": (Floor(benchmark="ifeval"),)}, "names the benchmark 'ifeval'"),
        (
            {"floors": (Floor(benchmark="sums", metric="marks"),)},
            "the metric 'marks' of sums, which has marked, unmarked. Did you mean 'marked'",
        ),
    ],
)
def test_names_that_are_not_there_are_refused_before_training(
    model: Path, tmp_path: Path, data: Path, changes: dict[str, Any], message: str
):
    with pytest.raises(RecipeError, match=message):
        run(learning(model, tmp_path, data, **changes))
    assert not (tmp_path / "sft").exists()


def test_a_metric_that_cannot_run_here_is_refused_before_training(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cameleer.verifiers.tulu3._antlr", lambda: "4.9.3")
    with pytest.raises(RecipeError, match=r"antlr4-python3-runtime 4\.11, and 4\.9\.3"):
        run(learning(model, tmp_path, Path(), benchmarks=("math500",)))


def test_a_runs_own_limit_of_tokens_is_never_above_the_benchmarks(data: Path):
    assert [b.max_tokens for b in benchmarks_of(evals(data, max_tokens=5))] == [5]
    assert [b.max_tokens for b in benchmarks_of(evals(data, max_tokens=500))] == [12]
