"""Fields that hold another type than they say, however the recipe came about."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fakes import Even, curate, dpo, grpo, sft

from cameleer.algorithms.dpo import DPO
from cameleer.algorithms.grpo import GRPO
from cameleer.algorithms.ppo import PPO
from cameleer.errors import RecipeError
from cameleer.overrides import override
from cameleer.recipe import Eval, Ladder, Model, Optim, Output, Recipe, Reward, Rollout, Runtime
from cameleer.recipe_files import load, named_recipes, to_json
from cameleer.recipe_types import type_problems

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"num_steps": 2.5}, "num_steps is 2.5, and has to be a whole number."),
    ({"num_steps": True}, "num_steps is True, and has to be a whole number."),
    ({"split": "seq"}, "split is 'seq', and has to be 'group' or 'sequence'."),
    ({"name": None}, "name is None, and has to be text."),
    ({"data": None}, "data is None, and has to be a tuple (a Source, …)."),
    ({"data": ("rows.jsonl",)}, "data.0 is 'rows.jsonl', and has to be a Source."),
    ({"model": "a/b"}, "model is 'a/b', and has to be a Model."),
    (
        {"model": Model(source="a/b", dtype="fp16")},  # type: ignore[arg-type]
        "model.dtype is 'fp16', and has to be 'float32' or 'bfloat16'.",
    ),
    (
        {"optim": Optim(learning_rate="1e-4")},  # type: ignore[arg-type]
        "optim.learning_rate is '1e-4', and has to be a number.",
    ),
    (
        {"optim": Optim(learning_rate=1, betas=(0.9,))},  # type: ignore[arg-type]
        "optim.betas is (0.9,), and has to be a tuple (a number, a number).",
    ),
    (
        {"optim": Optim(learning_rate=1, schedule="lineal")},  # type: ignore[arg-type]
        "'constant' or 'linear' or 'cosine'. Did you mean 'linear'?",
    ),
    (
        {"runtime": Runtime(compile="no")},  # type: ignore[arg-type]
        "runtime.compile is 'no', and has to be True or False.",
    ),
    (
        {"output": Output(sinks=("tensorbord",))},  # type: ignore[arg-type]
        "output.sinks.0 is 'tensorbord', and has to be 'tensorboard' or 'wandb' or 'trackio'. Did "
        "you mean 'tensorboard'?",
    ),
    (
        {"evals": Eval(max_tokens="many")},  # type: ignore[arg-type]
        "evals.max_tokens is 'many', and has to be a whole number or None.",
    ),
    ({"verifiers": [Even()]}, "verifiers is [Even()], and has to be a mapping from text to"),
    (
        {"verifiers": {"gsm8k": 5}},
        "verifiers.gsm8k is 5, and has to be a Verifier. It lacks score, validate.",
    ),
    ({"verifiers": {"gsm8k": Even}}, "verifiers.gsm8k is the class Even, and has to be a"),
    ({"algorithm": GRPO}, "algorithm is the class GRPO, and has to be an Algorithm."),
    ({"algorithm": "grpo"}, "algorithm is 'grpo', and has to be an Algorithm."),
    (
        {"algorithm": GRPO(kl_estimator="kl3")},  # type: ignore[arg-type]
        "algorithm.kl_estimator is 'kl3', and has to be 'k1' or 'k2' or 'k3' or 'k4'. Did you mean "
        "'k3'?",
    ),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_a_field_of_another_type_is_named_with_what_it_has_to_be(
    changes: dict[str, Any], message: str, tmp_path: Path
):
    recipe = grpo(tmp_path / "model", tmp_path, **changes)
    with pytest.raises(RecipeError) as error:
        recipe.validate()
    assert message in str(error.value)
    first = sft(tmp_path / "model", tmp_path)
    with pytest.raises(RecipeError, match=r"^stages\.1\."):
        Ladder(name="ladder", stages=(first, recipe)).validate()


def test_a_curate_stage_is_looked_at_as_well(tmp_path: Path):
    stage = curate(tmp_path, seed="1")
    with pytest.raises(RecipeError, match="seed is '1', and has to be a whole number"):
        stage.validate()


def test_a_recipe_json_and_a_file_are_read_with_the_same_care(tmp_path: Path):
    stored = to_json(named_recipes()["tulu31_8b"]())
    stored["optim"]["schedule"] = "lineal"
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(stored))
    with pytest.raises(RecipeError, match=r"recipe\.json: optim\.schedule is 'lineal'"):
        load(str(path))
    file = tmp_path / "typed_recipe.py"
    file.write_text(
        "from dataclasses import replace\n"
        "from cameleer.recipes import quickstart\n"
        "def mine():\n"
        "    return replace(quickstart(), seed='first')\n"
    )
    with pytest.raises(RecipeError, match=r"mine: seed is 'first', and has to be a whole number"):
        load(f"{file}:mine")


def test_the_recipes_that_come_along_hold_what_they_say():
    for make in named_recipes().values():
        assert list(type_problems(make())) == []


def test_a_list_is_as_good_as_a_tuple_and_a_whole_number_as_a_number(tmp_path: Path):
    recipe = grpo(tmp_path / "model", tmp_path)
    listed: Any = list(recipe.data)
    assert list(type_problems(replace(recipe, data=listed, reward=Reward(correct=1)))) == []


@dataclass(frozen=True)
class Mine:
    """An algorithm of a user's, with a field that cannot be looked into."""

    words: "Unknown" = ()  # type: ignore[name-defined] # noqa: F821, UP037
    learns_from: ClassVar[Any] = "rollouts"
    trains: ClassVar[Any] = "policy"
    needs: ClassVar[Any] = ()

    def advantages(self, batch: Any) -> Any:
        return batch

    def loss(self, batch: Any, output: Any) -> Any: ...


def test_fields_of_users_own_classes_are_theirs(tmp_path: Path):
    @dataclass(frozen=True)
    class Own(GRPO):
        beta: float = -1.0
        kl_estimator: Any = "mine"

    for algorithm in (Mine(), Own()):
        grpo(tmp_path / "model", tmp_path, algorithm=algorithm).validate()


def test_none_may_wait_for_the_command_line(tmp_path: Path):
    file = tmp_path / "unset_recipe.py"
    file.write_text(
        "from dataclasses import replace\n"
        "from cameleer.recipes import tulu31_8b\n"
        "def mine():\n"
        "    recipe = tulu31_8b()\n"
        "    model = replace(recipe.model, source=None)\n"
        "    return replace(recipe, num_steps=None, model=model, rollout=replace(\n"
        "        recipe.rollout, stop=['####']))\n"
    )
    recipe = load(f"{file}:mine")
    with pytest.raises(RecipeError, match=r"model\.source is None, and has to be text"):
        recipe.validate()
    given = override(recipe, ["--num-steps", "3", "--model.source", "a/b"], prog="")
    given.validate()
    assert isinstance(given, Recipe) and given.num_steps == 3
    assert given.rollout is not None and given.rollout.stop == ("####",)


def with_value(tmp_path: Path, algorithm: PPO) -> Recipe:
    rollout = Rollout(num_prompts=4, group_size=1, max_tokens=8)
    value = Model(source="a/b")
    return grpo(tmp_path, tmp_path, algorithm=algorithm, value_model=value, rollout=rollout)


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (GRPO(beta=-1.0), "algorithm.beta is -1.0; it has to be at least 0 and finite."),
        (GRPO(clip_eps=0.0), "algorithm.clip_eps is 0.0; it has to be above 0."),
        (GRPO(clip_eps_high=-0.1), "algorithm.clip_eps_high is -0.1"),
        (GRPO(importance_cap=0.0), "algorithm.importance_cap is 0.0"),
        (PPO(lam=5.0), "algorithm.lam is 5.0; it has to be at least 0 and at most 1."),
        (PPO(gamma=1.5), "algorithm.gamma is 1.5; it has to be at least 0 and at most 1."),
        (PPO(value_coef=-1.0), "algorithm.value_coef is -1.0"),
        (PPO(value_clip=0.0), "algorithm.value_clip is 0.0"),
        (DPO(beta=0.0), "algorithm.beta is 0.0; it has to be above 0 and finite."),
        (DPO(beta=-5.0), "algorithm.beta is -5.0"),
        (DPO(label_smoothing=2.0), "algorithm.label_smoothing is 2.0; it has to be at least 0"),
        (DPO(gamma=-1.0), "algorithm.gamma is -1.0; it has to be at least 0 and finite."),
    ],
)
def test_a_number_that_no_objective_means_is_refused(algorithm: Any, message: str, tmp_path: Path):
    if isinstance(algorithm, PPO):
        recipe = with_value(tmp_path, algorithm)
    else:
        make = dpo if isinstance(algorithm, DPO) else grpo
        recipe = make(tmp_path, tmp_path, algorithm=algorithm)
    with pytest.raises(RecipeError) as error:
        recipe.validate()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": Optim(learning_rate=float("inf"))}, "optim.learning_rate is inf"),
        ({"optim": Optim(learning_rate=1, betas=(1.0, 0.9))}, "optim.betas is 1.0"),
        ({"optim": Optim(learning_rate=1, eps=-1.0)}, "optim.eps is -1.0"),
        ({"optim": Optim(learning_rate=1, weight_decay=-1.0)}, "optim.weight_decay is -1.0"),
        ({"reward": Reward(correct=float("inf"))}, "reward.correct is inf; it has to be finite."),
        ({"name": ".."}, "name is '..'"),
        (
            {
                "algorithm": GRPO(drop_equal_groups=True, baseline="none"),
                "rollout": Rollout(num_prompts=4, group_size=1, max_tokens=8),
            },
            "every group of one is such",
        ),
    ],
)
def test_a_number_that_could_train_nothing_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
):
    with pytest.raises(RecipeError) as error:
        grpo(tmp_path, tmp_path, **changes).validate()
    assert message in str(error.value)
    dpo(tmp_path, tmp_path, algorithm=DPO(gamma=3.0, variant="simpo")).validate()
    unbounded = GRPO(clip_eps_high=float("inf"), importance_cap=float("inf"))
    grpo(tmp_path, tmp_path, algorithm=unbounded).validate()
