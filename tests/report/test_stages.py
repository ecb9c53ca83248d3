"""Where weights and data came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes import dpo, grpo, sft
from made_runs import made, made_ladder

from cameleer.data.sources import Source
from cameleer.errors import RunError
from cameleer.files import read_json, write_json
from cameleer.recipe_files import to_json
from cameleer.report.stages import ancestors, flat, read_tree


def names(directory: Path) -> list[str]:
    return [stage.name for stage in ancestors(read_tree(directory).stages[0])]


def ladder(root: Path) -> Path:
    """SFT, pairs that it made, DPO on them, a reward model, GRPO with both."""
    pairs = {
        "class": "cameleer.recipe:Curate", "name": "pairs", "policy": {"source": "stage:sft"},
        "data": [{"path": "x/y"}],
    }  # fmt: skip
    preferences = (Source(path="stage:pairs", format="preference"),)
    last = to_json(grpo(Path("stage:dpo"), root))
    last |= {"value_model": {"source": "stage:rm"}, "reward_model": {"source": "stage:rm"}}
    stages = {
        "sft": sft(Path("owner/base"), root),
        "pairs": pairs,
        "dpo": dpo(Path("stage:sft"), root, data=preferences),
        "rm": dpo(Path("owner/other"), root, name="rm"),
        "grpo": last,
    }
    made_ladder(root / "l", *stages.values())
    for name, recipe in stages.items():
        made(root / "l" / name, recipe=recipe)
    return root / "l"


def test_a_stage_is_told_with_all_that_it_came_from(tmp_path: Path):
    root = ladder(tmp_path)
    assert names(root / "sft") == ["sft"]
    assert names(root / "dpo") == ["sft", "pairs", "dpo"]
    assert names(root / "grpo") == ["sft", "pairs", "dpo", "rm", "grpo"]


def test_paths_of_checkpoints_lead_to_stages_wherever_the_ladder_lies_now(tmp_path: Path):
    root = tmp_path / "l"
    first, last = (
        sft(Path("owner/base"), root),
        grpo(Path("runs/l/sft/checkpoints/step_4/model"), root),
    )
    made_ladder(root, first, last)
    made(root / "sft", recipe=first)
    made(root / "grpo", recipe=last)
    assert names(root / "grpo") == ["sft", "grpo"]


def test_a_run_that_started_from_another_run_leads_to_it(tmp_path: Path):
    made(tmp_path / "one", recipe=sft(Path("owner/base"), tmp_path))
    source = tmp_path / "one/checkpoints/step_4/model"
    made(tmp_path / "two", recipe=replace(grpo(source, tmp_path), name="two"))
    assert names(tmp_path / "two") == ["one", "two"]
    (tmp_path / "one/recipe.json").unlink()
    assert names(tmp_path / "two") == ["two"]


def test_a_run_that_was_made_anew_since_is_not_where_another_began(tmp_path: Path):
    first = made(tmp_path / "first", recipe=sft(Path("owner/base"), tmp_path))
    model = first / "checkpoints/step_4/model"
    model.mkdir(parents=True)
    (model.parent / "state.json").write_text('{"run": "old"}')
    second = made(tmp_path / "second", recipe=grpo(model, tmp_path))
    manifest = read_json(second / "manifest.json")
    write_json(second / "manifest.json", {**manifest, "origins": {"model": "old"}})
    assert names(second) == ["first", "second"]
    (model.parent / "state.json").write_text('{"run": "new"}')
    assert names(second) == ["second"]


def test_the_lines_of_a_step_are_one_record(tmp_path: Path):
    lines = [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 2.0}, {"step": 2, "kl": 0.5}]
    (stage,) = read_tree(made(tmp_path / "run", lines)).stages
    assert stage.metrics == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "kl": 0.5}]


def test_leaves_are_written_as_a_person_would():
    recipe = {"class": "a:B", "model": {"class": "a:Model", "source": "x"}, "stop": [], "n": None,
              "data": [{"path": "y"}], "betas": [0.9, 0.98], "name": ""}  # fmt: skip
    assert dict(flat(recipe)) == {
        "model": "Model", "model.source": "x", "stop": "[]", "n": "null", "data.0.path": "y",
        "betas": "[0.9, 0.98]", "name": '""',
    }  # fmt: skip


def test_a_recipe_json_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "recipe.json").write_text('["flour", "water"]')
    with pytest.raises(RunError, match="is not what `cameleer run` writes"):
        read_tree(tmp_path)
