"""A resumed run is the same run, to the bit, or it is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from fakes import ARITHMETIC, Explodes, dpo, grpo, held_out, ppo, reward_model, sft, tiny_llama
from safetensors.torch import load_file

from cameleer.algorithms.grpo import GRPO
from cameleer.data.sources import Source
from cameleer.distributed.launch import run
from cameleer.errors import RunError, TrainingError
from cameleer.files import read_json, write_json
from cameleer.recipe import LoRA, Model, Optim, Recipe, Runtime
from cameleer.recipe_files import to_json
from cameleer.report.curve import read_metrics


def same_metrics(directory: Path) -> list[dict[str, Any]]:
    """What has to be equal between two runs: all but the clock."""
    return [
        {k: v for k, v in line.items() if not k.startswith(("time/", "throughput/"))}
        for line in read_metrics(directory)
    ]


def assert_equal_to_the_bit(one: Path, other: Path) -> None:
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*.safetensors"))
    assert names == sorted(str(path.relative_to(other)) for path in other.rglob("*.safetensors"))
    for name in names:
        ours, theirs = load_file(one / name), load_file(other / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.equal(ours[key], theirs[key]), f"{name}: {key}"


def in_two_parts(recipe: Recipe, first: int) -> Path:
    """Runs to step `first`, then resumes to the recipe's end."""
    run(replace(recipe, num_steps=first))
    (directory,) = run(recipe, resume=True)
    return directory


@pytest.mark.parametrize("lora", [None, LoRA(rank=4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [sft, dpo, reward_model, ppo, grpo])
def test_a_resumed_run_equals_an_uninterrupted_one(
    model: Path, tmp_path: Path, kind: Any, dtype: Any, lora: LoRA | None
):
    start = Model(source=str(model), dtype=dtype, lora=lora)
    changes = {"model": start, **({"value_model": start} if kind is ppo else {})}
    (whole,) = run(kind(model, tmp_path / "whole", **changes))
    parts = in_two_parts(kind(model, tmp_path / "parts", **changes), 2)
    assert_equal_to_the_bit(whole / "checkpoints/step_4", parts / "checkpoints/step_4")
    assert same_metrics(whole) == same_metrics(parts)
    for file in sorted((whole / "rollouts").iterdir()):
        assert pq.read_table(file).equals(pq.read_table(parts / "rollouts" / file.name))
    for directory in ("", "value_") if kind is ppo else ("",):
        stored = whole / "checkpoints/step_4" / f"{directory}adapter/adapter_model.safetensors"
        assert (stored.parent.parent / f"{directory}model/model.safetensors").exists()
        assert stored.exists() == bool(lora)


def test_a_crash_after_the_checkpoint_leaves_nothing_behind(model: Path, tmp_path: Path):
    recipe = grpo(model, tmp_path / "crashed", heldout=held_out())
    (whole,) = run(replace(recipe, output=replace(recipe.output, directory=str(tmp_path))))
    (directory,) = run(recipe)
    # As if step 3 had been run, and the machine had died while it wrote step 4.
    shutil.rmtree(directory / "checkpoints/step_4")
    (directory / "checkpoints/.step_3.partial").mkdir()
    (directory / "checkpoints/.step_3.partial/state.json").write_text("{")
    metrics = directory / "metrics.jsonl"
    metrics.write_text(metrics.read_text().rstrip()[:-30])
    (directory / "rollouts/step_000004.parquet").rename(directory / "rollouts/step_000004.partial")

    run(recipe, resume=True)
    assert_equal_to_the_bit(whole / "checkpoints/step_4", directory / "checkpoints/step_4")
    assert same_metrics(directory) == same_metrics(whole)
    assert [p.name for p in sorted((directory / "rollouts").iterdir())] == [
        f"step_00000{step}.parquet" for step in (1, 2, 3, 4)
    ]
    assert sorted(p.name for p in (directory / "checkpoints").iterdir()) == ["step_2", "step_4"]
    samples = (directory / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in samples] == [2, 2, 4, 4]


def test_a_run_that_stopped_before_its_first_checkpoint_starts_again(model: Path, tmp_path: Path):
    recipe = grpo(model, tmp_path, algorithm=Explodes(), heldout=held_out())
    Explodes.fuse["left"] = 3  # Two updates a step, and the first checkpoint after step 2.
    with pytest.raises(TrainingError, match="Step 2"):
        run(recipe)
    assert not (tmp_path / "grpo/checkpoints").exists()
    Explodes.fuse["left"] = 100
    (directory,) = run(recipe, resume=True)
    whole = replace(recipe, output=replace(recipe.output, directory=str(tmp_path / "whole")))
    assert same_metrics(directory) == same_metrics(run(whole)[0])


def test_a_run_of_which_no_checkpoint_is_whole_is_not_started_again(model: Path, tmp_path: Path):
    (directory,) = run(sft(model, tmp_path, num_steps=1))
    (directory / "checkpoints/step_1/state.json").unlink()
    with pytest.raises(RunError, match="holds no complete checkpoint to resume from"):
        run(sft(model, tmp_path), resume=True)


@pytest.mark.parametrize("lost", ["optimizer.safetensors", "model/config.json", "state.json"])
def test_a_checkpoint_missing_a_file_is_passed_over_and_made_again(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: str
):
    (directory,) = run(grpo(model, tmp_path))
    shutil.copytree(directory / "checkpoints/step_4", tmp_path / "kept")
    (directory / "checkpoints/step_4" / lost).unlink()
    run(grpo(model, tmp_path), resume=True)
    assert "resuming grpo after step 2" in capsys.readouterr().out
    assert_equal_to_the_bit(directory / "checkpoints/step_4", tmp_path / "kept")


def test_a_checkpoint_cut_short_is_passed_over(model: Path, tmp_path: Path):
    (directory,) = run(sft(model, tmp_path))
    weights = directory / "checkpoints/step_4/model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    run(sft(model, tmp_path), resume=True)
    assert load_file(weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2}, "was started with seed=1, and is to go on with 2"),
        (
            {"optim": Optim(learning_rate=3e-3)},
            "was started with optim.learning_rate=0.01, and is to go on with 0.003",
        ),
        ({"algorithm": GRPO(beta=0.0)}, "algorithm.beta=0.05, and is to go on with 0.0"),
        (
            {"runtime": Runtime(num_threads=2)},
            "runtime.num_threads=1, and is to go on with 2",
        ),
        ({"data": (replace(ARITHMETIC, count=63),)}, "data.0.count=64, and is to go on with 63"),
    ],
)
def test_another_recipe_is_refused_with_the_field_and_both_values(
    model: Path, tmp_path: Path, changes: dict[str, Any], message: str
):
    run(grpo(model, tmp_path, num_steps=1))
    stored = (tmp_path / "grpo/recipe.json").read_bytes()
    with pytest.raises(RunError) as error:
        run(grpo(model, tmp_path, **changes), resume=True)
    assert message in str(error.value)
    assert (tmp_path / "grpo/recipe.json").read_bytes() == stored


def test_other_starting_weights_are_refused(tmp_path: Path):
    start = tiny_llama(tmp_path / "start")
    run(grpo(start, tmp_path, num_steps=1))
    tiny_llama(start, seed=1)
    with pytest.raises(RunError, match=f"{start} is not the policy that this run started from"):
        run(grpo(start, tmp_path), resume=True)


def test_other_reference_weights_are_refused(model: Path, tmp_path: Path):
    (directory,) = run(grpo(model, tmp_path, num_steps=1))
    manifest = read_json(directory / "manifest.json")
    manifest["weights"]["reference"] = "0" * 64
    write_json(directory / "manifest.json", manifest)
    with pytest.raises(RunError, match=r"is not the reference .* did to 000000000000\."):
        run(grpo(model, tmp_path), resume=True)


def test_other_rows_in_a_data_file_are_refused(model: Path, tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "How many ?", "answer": "#### 7"}\n' * 4)
    recipe = grpo(model, tmp_path, data=(Source(path=str(rows), format="gsm8k"),), num_steps=1)
    run(recipe)
    run(replace(recipe, num_steps=2), resume=True)
    rows.write_text('{"question": "How many ?", "answer": "#### 8"}\n' * 4)
    with pytest.raises(RunError, match=r"rows\.jsonl is not the file that this run started from"):
        run(replace(recipe, num_steps=3), resume=True)


def rows_of_today(split: str) -> Iterator[dict[str, str]]:
    """The same questions, whose answers are as old as the day."""
    for number in range(40):
        yield {"question": f"How many ? {number}", "answer": f"#### {number + DAYS[-1]}"}


DAYS = [0]


@pytest.mark.parametrize("make", [grpo, sft])
def test_other_rows_of_a_function_are_refused(
    make: Callable[..., Recipe], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = Source(path=f"{__name__}:rows_of_today", format="gsm8k")
    recipe = make(model, tmp_path, data=(rows,), num_steps=2)
    run(recipe)
    with monkeypatch.context() as patch:
        # Other ground truths, or other answers, to the same questions.
        patch.setattr(f"{__name__}.DAYS", [1])
        with pytest.raises(RunError, match=r"rows_of_today give other tokens than when this run"):
            run(replace(recipe, num_steps=4), resume=True)
    run(replace(recipe, num_steps=4), resume=True)


def test_another_chat_template_is_refused(tmp_path: Path):
    model = tiny_llama(tmp_path / "model")
    recipe = sft(model, tmp_path, num_steps=2)
    run(recipe)
    template = model / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|user|>", "<|system|>"))
    with pytest.raises(RunError, match="the tokenizer or its chat template has changed"):
        run(replace(recipe, num_steps=4), resume=True)


def test_a_template_that_writes_the_date_does_not_end_a_run_at_midnight(tmp_path: Path):
    model = tiny_llama(tmp_path / "model")
    template = model / "chat_template.jinja"
    dated = template.read_text() + "{% if false %}{{ strftime_now('%d') }}{% endif %}"
    template.write_text(dated)
    recipe = sft(model, tmp_path, num_steps=2)
    run(recipe)
    # As on another day.
    template.write_text(dated.replace("<|user|>", "<|system|>"))
    run(replace(recipe, num_steps=4), resume=True)


def test_steps_that_are_done_are_not_taken_back(model: Path, tmp_path: Path):
    recipe = sft(model, tmp_path)
    (directory,) = run(recipe)
    with pytest.raises(RunError, match=r"has done 4 steps, and num_steps is 2 now"):
        run(replace(recipe, num_steps=2), resume=True)
    assert read_json(directory / "recipe.json")["num_steps"] == 4


def test_only_a_run_can_be_resumed(model: Path, tmp_path: Path):
    with pytest.raises(
        RunError, match=r"grpo holds no run to resume\. Start it without --resume\."
    ):
        run(grpo(model, tmp_path), resume=True)
    assert not (tmp_path / "grpo").exists()


def test_a_finished_run_has_nothing_left_to_do(model: Path, tmp_path: Path):
    (directory,) = run(grpo(model, tmp_path, heldout=held_out()))
    before = {p: p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}
    run(grpo(model, tmp_path, heldout=held_out()), resume=True)
    assert {p: p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()} == before


def test_where_and_how_long_may_change(model: Path, tmp_path: Path):
    recipe = sft(model, tmp_path, num_steps=2)
    run(recipe)
    output = replace(recipe.output, save_every=1, keep_last=0)
    longer = replace(recipe, num_steps=3, output=output, heldout=held_out())
    (directory,) = run(longer, resume=True)
    assert read_json(directory / "recipe.json") == to_json(longer)
    assert [line["step"] for line in read_metrics(directory)] == [1, 2, 3]


def test_another_end_is_refused_where_the_learning_rate_falls_towards_it(
    model: Path, tmp_path: Path
):
    falling = Optim(learning_rate=1e-2, schedule="linear")
    run(sft(model, tmp_path, num_steps=2, optim=falling))
    with pytest.raises(RunError, match="over which its learning rate falls"):
        run(sft(model, tmp_path, num_steps=4, optim=falling), resume=True)
