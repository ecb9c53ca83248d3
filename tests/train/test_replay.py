"""A step executed again is the step, or what differs is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fakes import Breaks, Even, Explodes, grpo, sft

from cameleer.algorithms.grpo import GRPO
from cameleer.cli import main
from cameleer.distributed.launch import run
from cameleer.errors import RunError, TrainingError
from cameleer.recipe import Optim, Recipe, Rollout
from cameleer.train.replay import Finding, replay

KEEPS_ALL: dict[str, Any] = {"save_every": 1, "keep_last": 0}


def recorded(recipe: Recipe, **output: Any) -> tuple[Path, Recipe]:
    recipe = replace(recipe, output=replace(recipe.output, sample_every=0, **output))
    return run(recipe)[0], recipe


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


@pytest.mark.parametrize("staleness", [0, 1, 2])
@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_step_of_grpo_comes_out_again(model: Path, tmp_path: Path, staleness: int, step: int):
    recipe = grpo(model, tmp_path)
    rollout = replace(recipe.rollout, max_staleness=staleness)  # type: ignore[type-var]
    directory, recipe = recorded(replace(recipe, rollout=rollout), **KEEPS_ALL)
    before = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    findings = replay(directory, step, recipe)
    names = ["tokens", "verdicts", "loss", "optim/grad_norm", "other metrics"]
    assert [f.what for f in findings] == names
    assert all(f.same for f in findings), findings
    assert {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()} == before


def test_a_step_of_sft_comes_out_again_through_the_command(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    directory, _ = recorded(sft(model, tmp_path), save_every=2)
    assert main(["replay", str(directory), "--step", "4"]) == 0
    out = capsys.readouterr().out
    # The newest checkpoint at or before step 3 is that of step 2.
    assert "running through step 3" in out and "running through step 2" not in out
    assert "The step is as it was written down." in out


def test_without_the_checkpoint_before_it_runs_through_the_steps(model: Path, tmp_path: Path):
    directory, recipe = recorded(grpo(model, tmp_path), keep_last=1)
    assert [p.name for p in (directory / "checkpoints").iterdir()] == ["step_4"]
    assert all(f.same for f in replay(directory, 3, recipe))


def test_without_the_weights_that_sampled_tokens_are_not_compared(model: Path, tmp_path: Path):
    recipe = grpo(model, tmp_path)
    rollout = replace(recipe.rollout, max_staleness=1)  # type: ignore[type-var]
    directory, recipe = recorded(replace(recipe, rollout=rollout), **KEEPS_ALL)
    for step in (1, 2):
        shutil.rmtree(directory / "checkpoints" / f"step_{step}")
    found = by_name(replay(directory, 4, recipe))
    assert found["tokens"].same is None and "step 2, whose weights" in found["tokens"].detail
    assert found["loss"].same and found["verdicts"].same


def changed(directory: Path, step: int, column: str, change: Any) -> None:
    path = directory / "rollouts" / f"step_{step:06d}.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[5][column] = change(rows[5][column])
    pq.write_table(table.from_pylist(rows, table.schema), path)


def test_another_token_is_named_with_its_place(model: Path, tmp_path: Path):
    directory, recipe = recorded(grpo(model, tmp_path), **KEEPS_ALL)
    changed(directory, 3, "tokens", lambda tokens: [*tokens[:1], (tokens[1] + 1) % 60, *tokens[2:]])
    finding = by_name(replay(directory, 3, recipe))["tokens"]
    # Row 5 is the second completion of the second prompt: groups have four.
    assert not finding.same and "sample 1, token 1: " in finding.detail


def test_another_verdict_is_named(model: Path, tmp_path: Path):
    directory, recipe = recorded(grpo(model, tmp_path), **KEEPS_ALL)
    flip = {0.0: 1.0, 1.0: 0.0}
    changed(directory, 2, "scores", lambda s: [{**s[0], "value": flip[s[0]["value"]]}])
    found = by_name(replay(directory, 2, recipe))
    assert not found["verdicts"].same and "sample 1, gsm8k: " in found["verdicts"].detail
    assert found["tokens"].same
    assert found["other metrics"].detail.startswith("verifiable_rate: ")


def test_another_loss_is_told_with_both_values(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    directory, _ = recorded(sft(model, tmp_path), **KEEPS_ALL)
    path = directory / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["loss"] *= 1 + 1e-7
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["replay", str(directory), "--step", "2"]) == 1
    out = capsys.readouterr().out
    assert f"{lines[1]['loss']!r} was written down, and now it is" in out
    assert "first difference: loss" in out


def test_a_step_that_failed_fails_again_in_the_same_way(model: Path, tmp_path: Path):
    recipe = grpo(model, tmp_path, algorithm=Explodes())
    Explodes.fuse["left"] = 5  # Two updates a step: the sixth is in step 3.
    with pytest.raises(
        TrainingError, match=r"Step 3: the loss is nan.*cameleer replay .* --step 3"
    ):
        run(recipe)
    Explodes.fuse["left"] = 1
    (failure,) = [f for f in replay(tmp_path / "grpo", 3, recipe) if f.what == "failure"]
    assert failure.same and failure.detail == "Step 3: the loss is nan, so no update was made."
    Explodes.fuse["left"] = 100
    (failure,) = [f for f in replay(tmp_path / "grpo", 3, recipe) if f.what == "failure"]
    assert not failure.same and failure.detail.endswith("now it is: no failure")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (0, "has the steps 1 to 4, and 0 is none"),
        (5, "has the steps 1 to 4, and 5 is none"),
        (4, "got to step 2: of step 4 nothing is written down"),
    ],
)
def test_a_step_that_is_not_there_is_refused(model: Path, tmp_path: Path, step: int, message: str):
    directory, recipe = recorded(grpo(model, tmp_path, num_steps=2))
    with pytest.raises(RunError, match=message):
        replay(directory, step, replace(recipe, num_steps=4))


def test_half_a_file_of_rollouts_is_named(model: Path, tmp_path: Path):
    directory, recipe = recorded(grpo(model, tmp_path), **KEEPS_ALL)
    path = directory / "rollouts/step_000003.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"Cannot read the rollouts .*step_000003\.parquet"):
        replay(directory, 3, recipe)


def test_another_recipe_is_refused(model: Path, tmp_path: Path):
    directory, recipe = recorded(sft(model, tmp_path))
    with pytest.raises(RunError, match=r"was started with optim\.learning_rate=0\.01"):
        replay(directory, 1, replace(recipe, optim=Optim(learning_rate=1.0)))


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["replay", str(tmp_path), "--step", "1"]) == 1
    assert "holds no run" in capsys.readouterr().out


def test_undecided_verdicts_come_out_again(model: Path, tmp_path: Path):
    directory, recipe = recorded(grpo(model, tmp_path, verifiers={"gsm8k": Breaks()}), **KEEPS_ALL)
    assert all(f.same for f in replay(directory, 2, recipe))


def test_another_verifier_is_seen(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    directory, recipe = recorded(grpo(model, tmp_path), **KEEPS_ALL)
    once = Even.score
    monkeypatch.setattr(Even, "score", lambda self, text, truth: once(self, text + " x", truth))
    assert not by_name(replay(directory, 2, recipe))["verdicts"].same


def test_other_verdicts_that_ask_for_other_groups_are_a_difference(model: Path, tmp_path: Path):
    recipe = grpo(model, tmp_path, algorithm=GRPO(beta=0.05, drop_equal_groups=True))
    rollout = Rollout(num_prompts=4, group_size=2, max_tokens=8, max_refills=3)
    directory, recipe = recorded(replace(recipe, rollout=rollout), **KEEPS_ALL)
    assert all(finding.same for finding in replay(directory, 2, recipe))
    # As if a verifier said the same of all answers now: every group is to be replaced.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cameleer.train.online.has_contrast", lambda group, reward: False)
        found = by_name(replay(directory, 2, recipe))
    assert found["tokens"].same is False
    assert "groups were written down, and now there are 16" in found["tokens"].detail
