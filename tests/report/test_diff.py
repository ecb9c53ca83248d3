"""Two runs are the same, or the first thing that parts them is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import grpo, sft, tiny_llama

from cameleer.cli import main
from cameleer.distributed.launch import run
from cameleer.recipe import Optim, Recipe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "llama")


def trained(recipe: Recipe, name: str) -> Path:
    recipe = replace(recipe, name=name, num_steps=3, output=replace(recipe.output, sample_every=0))
    return run(recipe)[0]


def shown(one: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    status = main(["diff", str(one), str(other)])
    return status, capsys.readouterr().out


@pytest.mark.parametrize("kind", [sft, grpo])
def test_the_same_run_twice_is_the_same(
    model: Path, tmp_path: Path, kind: Any, capsys: pytest.CaptureFixture[str]
):
    one, other = (trained(kind(model, tmp_path), name) for name in ("one", "other"))
    status, out = shown(one, other, capsys)
    words = " ".join(out.split())
    assert (status, words) == (0, "recipe the same start the same steps the same")


def test_another_field_is_named_and_the_step_where_it_tells(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    one = trained(grpo(model, tmp_path), "one")
    other = trained(grpo(model, tmp_path, optim=Optim(learning_rate=2e-2)), "other")
    status, out = shown(one, other, capsys)
    assert status == 1
    assert "optim.learning_rate: 0.01, and 0.02" in out
    # The first step samples the same and updates by another rate.
    assert "step 1 is the first that differs" in out
    assert "  rollouts:" not in out and "optim/learning_rate: 0.01, and 0.02" in out


def test_another_seed_parts_the_first_rollouts(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    one, other = trained(grpo(model, tmp_path), "one"), trained(grpo(model, tmp_path, seed=2), "b")
    _, out = shown(one, other, capsys)
    assert "seed: 1, and 2" in out and "rollouts: prompt arithmetic:" in out


def test_a_shorter_run_ends_where_it_ends(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    one = trained(sft(model, tmp_path), "one")
    recipe = replace(sft(model, tmp_path), name="short", num_steps=2)
    (other,) = run(replace(recipe, output=replace(recipe.output, sample_every=0)))
    status, out = shown(one, other, capsys)
    assert status == 1 and "num_steps: 3, and 2" in out
    assert f"step 3 and what follows is in {one} only" in out


def test_what_is_no_run_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one = trained(sft(model, tmp_path), "one")
    status, out = shown(one, tmp_path / "nothing", capsys)
    assert status == 1 and "nothing is not a run: cannot read recipe.json" in out
