"""``--field value`` for any field of any recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes import grpo, sft

from cameleer.overrides import leaves, override
from cameleer.recipe import Ladder, Recipe
from cameleer.recipe_files import load, named_recipes


def changed(recipe: Any, *arguments: str) -> Any:
    return override(recipe, arguments, prog="cameleer run x")


@pytest.fixture
def recipe() -> Recipe:
    return grpo(Path("model"), Path("runs"))


def ladder() -> Ladder:
    stages = (sft(Path("model"), Path("runs")), grpo(Path("model"), Path("runs")))
    return Ladder(name="both", stages=stages)


def test_without_arguments_nothing_changes(recipe: Recipe):
    assert changed(recipe) is recipe


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        (("--num-steps", "3"), "num_steps", 3),
        (("--num_steps", "3"), "num_steps", 3),
        (("--optim.learning-rate", "5e-7"), "optim.learning_rate", 5e-7),
        (("--optim.betas", "0.8", "0.95"), "optim.betas", (0.8, 0.95)),
        (("--algorithm.beta", "0.5"), "algorithm.beta", 0.5),
        (("--rollout.stop", "Question:", "Answer:"), "rollout.stop", ("Question:", "Answer:")),
        (("--output.sinks", "wandb", "trackio"), "output.sinks", ("wandb", "trackio")),
        (("--reward.without-eos", "None"), "reward.without_eos", None),
        (("--reward.without-eos", "-10"), "reward.without_eos", -10.0),
        (("--model.dtype", "bfloat16"), "model.dtype", "bfloat16"),
        (("--normalize", "micro_batch(2)"), "normalize", "micro_batch(2)"),
    ],
)
def test_a_field_by_its_path(recipe: Recipe, arguments: tuple[str, ...], path: str, value: object):
    found: Any = changed(recipe, *arguments)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    # And nothing else.
    before = {leaf.path: leaf.value for leaf in leaves(recipe)}
    after = {leaf.path: leaf.value for leaf in leaves(changed(recipe, *arguments))}
    assert [".".join(p) for p in before if before[p] != after[p]] == [path]


def test_a_member_of_a_tuple_by_its_place(recipe: Recipe):
    found = changed(recipe, "--data.0.path", "rows.jsonl", "--data.0.count", "7")
    assert (found.data[0].path, found.data[0].count) == ("rows.jsonl", 7)
    assert found.data[0].format == "gsm8k"


def test_a_stage_by_its_name():
    found = changed(ladder(), "--stages.sft.num-steps", "7", "--stages.grpo.algorithm.beta", "0.5")
    assert [stage.num_steps for stage in found.stages] == [7, 4]
    assert found.stages[1].algorithm.beta == 0.5


def test_the_seed_of_all_stages_can_be_set():
    assert changed(ladder(), "--seed", "9").seed == 9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--optim.learnin-rate", "1"), "--optim.learning-rate"),
        (("--num-step", "1"), "--num-steps"),
        (("--num-steps", "many"), "many"),
        (("--model.dtype", "float16"), "bfloat16"),
    ],
)
def test_what_cannot_be_set_ends_the_program_with_the_nearest(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
):
    with pytest.raises(SystemExit) as status:
        changed(recipe, *arguments)
    assert status.value.code == 2
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def test_help_has_every_field_with_its_value_and_purpose(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as status:
        changed(recipe, "--help")
    assert status.value.code == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--optim.learning-rate FLOAT (default: 0.01)" in said
    assert "--rollout.group-size INT Completions of each prompt. (default: 4)" in said


@pytest.mark.parametrize("name", named_recipes())
def test_every_field_of_the_recipes_has_a_name_of_its_own(name: str):
    paths = [leaf.path for leaf in leaves(load(name))]
    assert len(paths) == len(set(paths)) > 20
