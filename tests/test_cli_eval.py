"""`cameleer eval` and `cameleer report compare`, as a user types them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import tiny_llama
from small_evals import write_sums

from cameleer.cli import main
from cameleer.evals.store import Store, read_rows
from cameleer.evaluate import short_name

OWN = """
import os
import signal
from dataclasses import replace

from fakes import Says
from small_evals import CHATTY, SUMS

from cameleer.evals.base import Metric
from cameleer.evals.store import Store

OTHER = replace(SUMS, metrics=(Metric(name="pens", verifier=Says("pens"), about=""),))
add, num_kept = Store.add, 0


def dying(self, *answer):
    global num_kept
    add(self, *answer)
    num_kept += 1
    if num_kept == int(os.environ["DIE_AFTER"]):
        os.kill(os.getpid(), signal.SIGKILL)


if "DIE_AFTER" in os.environ:
    Store.add = dying
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def own(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> SimpleNamespace:
    """A file of a user's own benchmarks, and how to evaluate one of them."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    file = tmp_path / ("own_" + re.sub(r"\W", "_", request.node.name) + ".py")
    file.write_text(OWN)
    data = write_sums(tmp_path / "data")

    def arguments(benchmark: str = "CHATTY", *more: str) -> list[str]:
        options = ["--data", str(data), "--threads", "1", "--slots", "3", *more]
        return ["eval", str(model), "--benchmarks", f"{file}:{benchmark}", *options]

    return SimpleNamespace(file=file, arguments=arguments, model=model, root=tmp_path)


def flat(said: str) -> str:
    return " ".join(said.split())


def test_a_killed_evaluation_goes_on_by_the_same_command(
    own: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    here = Path(__file__).parent
    arguments = own.arguments("CHATTY", "--output", "out")
    found = subprocess.run(
        [sys.executable, "-m", "cameleer.cli", *arguments],
        env={**os.environ, "DIE_AFTER": "6", "PYTHONPATH": f"{here.parent}:{here}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == -signal.SIGKILL, found.stderr
    lines = (own.root / "out/answers.jsonl").read_text().splitlines()
    before = {(line["instance"], line["sample"]) for line in map(json.loads, lines)}
    # Half a line more, as a full pipe would have left it.
    with (own.root / "out/answers.jsonl").open("a") as file:
        file.write('{"benchmark": "sums", "inst')
    assert len(before) == 6 and not (own.root / "out/results.json").exists()

    after: list[tuple[str, int]] = []
    adds = Store.add

    def noted(self: Store, benchmark: str, instance: str, sample: int, answer: object) -> None:
        after.append((instance, sample))
        adds(self, benchmark, instance, sample, answer)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", noted)
        assert main(arguments) == 0
    assert before.isdisjoint(after)
    assert sorted(before | set(after)) == [(f"sums:{n}", s) for n in range(8) for s in range(2)]
    assert main(own.arguments("CHATTY", "--output", "whole")) == 0
    for name in ("results.json", "config.json"):
        assert (own.root / "out" / name).read_bytes() == (own.root / "whole" / name).read_bytes()
    assert read_rows(own.root / "out", "sums") == read_rows(own.root / "whole", "sums")
    assert capsys.readouterr().out.count("sums: 8 of 8 asked, 2 times each, ") == 2


def test_scores_are_printed_with_their_errors_and_what_a_reader_has_to_know(
    own: SimpleNamespace, capsys: pytest.CaptureFixture[str]
):
    assert main(own.arguments("CHATTY")) == 0
    said = capsys.readouterr().out
    directory = own.root / "evals/tiny/full"
    assert said.startswith(f"{own.model}: sums -> evals/tiny/full\n{own.model}, profile full\n")
    score = json.loads((directory / "results.json").read_text())["benchmarks"]["sums"]
    seven = score["metrics"]["seven"]
    value, error = 100 * seven["value"], 100 * seven["standard_error"]
    assert f"sums seven {value:.1f} ± {error:.1f} {100 * seven['low']:.1f} to" in flat(said)
    assert f"pass@2 {100 * seven['pass_at']['2']:.1f}" in flat(said)
    # A finished one is read and shown again.
    assert main(own.arguments("CHATTY")) == 0
    assert capsys.readouterr().out == said


def test_a_smoke_run_is_called_no_score_and_is_not_compared(
    own: SimpleNamespace, capsys: pytest.CaptureFixture[str]
):
    assert main(own.arguments("SUMS", "--profile", "smoke")) == 0
    assert "profile smoke: a few shortened answers, which are no score" in capsys.readouterr().out
    smoke = str(own.root / "evals/tiny/smoke")
    assert main(["report", "compare", smoke, smoke]) == 1
    assert "is a smoke run, which shows that all works" in capsys.readouterr().out


def test_samples_stay_when_they_are_scored_again(
    own: SimpleNamespace, capsys: pytest.CaptureFixture[str]
):
    more = ("--samples", "3", "--temperature", "1", "--output", "out")
    assert main(own.arguments("SUMS", *more)) == 0
    said = capsys.readouterr().out
    assert main(["eval", "--rescore", "out", "--benchmarks", f"{own.file}:SUMS"]) == 0
    assert capsys.readouterr().out == said.partition("\n")[2]
    assert len(read_rows(own.root / "out", "sums")) == 24
    assert main(["eval", "--rescore", "out", "--benchmarks", f"{own.file}:OTHER"]) == 0
    assert "sums pens" in flat(capsys.readouterr().out)
    assert main(["eval", "--rescore", "out"]) == 1
    assert "has answers to sums, which is not among the bench" in capsys.readouterr().out
    assert main(["eval", "--rescore", "nowhere"]) == 1
    assert "RunError: nowhere has no results.json" in capsys.readouterr().out


def test_two_evaluations_are_compared_pair_by_pair(
    own: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = own.arguments("CHATTY", "--output", "after")
    other[1] = str(tiny_llama(tmp_path / "trained", seed=5))
    assert main(own.arguments("CHATTY", "--output", "before")) == 0
    assert main(other) == 0
    results = [json.loads(Path(f"{name}/results.json").read_text()) for name in ("before", "after")]
    before, after = (100 * r["benchmarks"]["sums"]["metrics"]["seven"]["value"] for r in results)
    capsys.readouterr()
    assert main(["report", "compare", "before", "after"]) == 0
    said = flat(capsys.readouterr().out)
    assert f"{before:.1f} ±" in said and f"{after:.1f} ±" in said
    assert f"{after - before:+.1f} ±" in said and "(paired, 8 instances)" in said
    assert main(own.arguments("SUMS", "--output", "greedy")) == 0
    assert main(["report", "compare", "before", "greedy"]) == 1
    assert "sums was made in two ways: samples is 2 in before, and 1" in flat(
        capsys.readouterr().out
    )


def test_ctrl_c_says_how_to_go_on(
    own: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", interrupted)
        assert main(own.arguments("SUMS")) == 130
    said = capsys.readouterr().out
    assert said.endswith("stopped; the same command goes on with the answers that are there\n")
    assert main(own.arguments("SUMS")) == 0


def test_another_model_in_the_same_directory_is_refused(
    own: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(own.arguments("SUMS")) == 0
    other = own.arguments("SUMS")
    other[1] = str(tiny_llama(tmp_path / "other/tiny", seed=5))
    assert main(other) == 1
    said = capsys.readouterr().out
    assert "evals/tiny/full holds another evaluation: its model.weights is '" in said
    assert said.endswith("Give this one another --output, or delete that one.\n")


def test_the_benchmarks_are_listed_with_the_rule_behind_each_number(
    capsys: pytest.CaptureFixture[str],
):
    assert main(["eval", "--list"]) == 0
    said = flat(re.sub("[│┃]", " ", capsys.readouterr().out))
    for line in ("gsm8k v1", "math v1", "math500 v1", "ifeval v1", "exact_match", "math_verify"):
        assert line in said
    assert "the number given as the answer" in said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "RecipeError: Name a model to evaluate, or give --list or --rescore DIR."),
        (["M", "--benchmarks", "gsm8"], "no benchmark 'gsm8'. Did you mean 'gsm8k'?"),
        (["M", "--benchmarks", ","], "RecipeError: No benchmark is named."),
        (["M", "--samples", "2"], "--samples 2 at temperature 0 would be the same answer 2 times"),
        (["M", "--samples", "0"], "--samples is 0; it has to be 1 or more."),
        (["M", "--max-tokens", "-1"], "--max-tokens is -1; it has to be 1 or more."),
        (["M", "--slots", "0"], "--slots is 0; it has to be 1 or more."),
        (["M", "--threads", "0"], "--threads is 0; it has to be 1 or more."),
        (["M", "--workers", "0"], "--workers is 0; it has to be 1 or more."),
        (["M", "--concurrency", "0"], "--concurrency is 0; it has to be 1 or more."),
        (["M", "--temperature", "-1"], "--temperature is -1.0; 0 is greedy, the least."),
        (["./M", "--device", "cpu", "--benchmarks", "gsm8k"], "ModelError: "),
    ],
)
def test_a_mistake_is_told_in_one_line(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["eval", *arguments]) == 1
    said = capsys.readouterr().out
    assert complaint in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--profile=quick", "--sample=x", "--lisst"])
def test_an_unknown_option_is_refused(option: str):
    with pytest.raises(SystemExit) as status:
        main(["eval", "M", option])
    assert status.value.code == 2


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("org/name", "name"),
        ("name/", "name"),
        ("runs/ladder/grpo/checkpoints/step_40/model", "grpo-step_40"),
        ("somewhere/model", "model"),
    ],
)
def test_results_of_a_runs_checkpoints_have_directories_of_their_own(model: str, name: str):
    assert short_name(model) == name
