"""The published ladders, value by value, and one of them on a model of a few thousand weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import ARITHMETIC, ONE_THREAD, tiny_llama

from cameleer.data.sources import Source
from cameleer.distributed.launch import run
from cameleer.recipe import Ladder, Output, Recipe
from cameleer.recipe_files import load
from cameleer.report.curve import read_metrics
from cameleer.verifiers.gsm8k import GSM8K

VALUES = {
    "tulu3_8b": {
        "sft.model.source": "meta-llama/Llama-3.1-8B",
        "sft.optim.learning_rate": 5e-6,
        "sft.optim.schedule": "linear",
        "sft.optim.weight_decay": 0.0,
        "sft.batch_size": 128,
        "sft.max_tokens": 4096,
        "sft.normalize": "sum",
        "sft.seed": 123,
        "dpo.algorithm.beta": 5.0,
        "dpo.algorithm.length_normalized": True,
        "dpo.optim.learning_rate": 5e-7,
        "dpo.optim.weight_decay": 0.0,
        "dpo.batch_size": 128,
        "dpo.max_tokens": 2048,
        "reward_model.model.source": "stage:sft",
        "reward_model.optim.learning_rate": 3e-6,
        "reward_model.optim.eps": 1e-5,
        "reward_model.batch_size": 256,
        "reward_model.max_tokens": 2048,
        "ppo.model.source": "stage:dpo",
        "ppo.value_model.source": "stage:reward_model",
        "ppo.algorithm.beta": 0.05,
        "ppo.algorithm.gamma": 1.0,
        "ppo.algorithm.lam": 0.95,
        "ppo.algorithm.value_coef": 0.1,
        "ppo.optim.learning_rate": 3e-7,
        "ppo.rollout.num_prompts": 224,
        "ppo.rollout.group_size": 1,
        "ppo.rollout.max_tokens": 2048,
        "ppo.num_epochs": 4,
        "ppo.num_minibatches": 1,
        "ppo.reward.without_eos": -10.0,
        "ppo.normalize": "micro_batch(2)",
        "ppo.seed": 3,
        "ppo.output.save_every": 100,
    },
    "tulu3_70b": {
        "sft.optim.learning_rate": 2e-6,
        "sft.seed": 456,
        "dpo.optim.learning_rate": 2e-7,
        "dpo.batch_size": 128,
        "ppo.value_model.source": "allenai/Llama-3.1-Tulu-3-8B-RM",
        "ppo.algorithm.beta": 0.07,
        "ppo.optim.learning_rate": 1e-7,
        "ppo.optim.warmup_steps": 250,
        "ppo.rollout.num_prompts": 640,
        "ppo.num_steps": 625,
        "ppo.seed": 8,
    },
    "tulu3_405b": {
        "dpo.optim.learning_rate": 2e-7,
        "dpo.batch_size": 256,
        "ppo.data.0.path": "allenai/RLVR-MATH",
        "ppo.algorithm.beta": 0.05,
        "ppo.rollout.num_prompts": 1856,
        "ppo.rollout.max_tokens": 1024,
        "ppo.num_steps": 215,
        "ppo.seed": 3,
    },
}


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [(name, path, value) for name, values in VALUES.items() for path, value in values.items()],
)
def test_every_value_is_the_commands_or_its_scripts(name: str, path: str, value: Any):
    ladder = load(name)
    assert isinstance(ladder, Ladder)
    stage, *fields = path.split(".")
    found: Any = {each.name: each for each in ladder.stages}[stage]
    for field in fields:
        found = found[int(field)] if field.isdecimal() else getattr(found, field)
    assert found == value


def test_warmup_is_the_commands_share_of_the_steps():
    ladder = load("tulu3_8b")
    assert isinstance(ladder, Ladder)
    for stage, ratio in zip(ladder.stages, (0.03, 0.1, 0.0, 0.0), strict=True):
        assert isinstance(stage, Recipe)
        assert stage.optim.warmup_steps == round(ratio * stage.num_steps)


def test_the_ladder_runs_on_a_tiny_model(tmp_path: Path):
    ladder = load("tulu3_8b")
    assert isinstance(ladder, Ladder)
    model = str(tiny_llama(tmp_path / "model"))
    pairs = Source(path="fakes:preferences", format="preference", count=32, take="first")

    def small(stage: Recipe) -> Recipe:
        source = stage.model.source
        changes: dict[str, Any] = {
            "model": replace(stage.model, source=model if "/" in source else source),
            "data": (pairs,) if stage.algorithm.learns_from == "pairs" else (ARITHMETIC,),
            "optim": replace(stage.optim, warmup_steps=0),
            "num_steps": 2,
            "batch_size": min(stage.batch_size, 8),
            "max_tokens": 100,
            "verifiers": {"gsm8k": GSM8K()},
            "runtime": ONE_THREAD,
            "output": Output(directory=str(tmp_path), sample_every=0),
        }
        if stage.rollout:
            rollout = replace(stage.rollout, num_prompts=8, max_tokens=8, max_prompt_tokens=100)
            changes["rollout"] = rollout
        return replace(stage, **changes)

    stages = tuple(small(stage) for stage in ladder.stages if isinstance(stage, Recipe))
    # The benchmarks are on the hub.
    directories = run(replace(ladder, stages=stages, evals=None))
    assert [d.name for d in directories] == ["sft", "dpo", "reward_model", "ppo"]
    # Nothing ends within eight tokens, which costs 10, and the KL penalty is paid a token.
    last = read_metrics(directories[-1])[-1]
    assert last["reward/mean"] == -10.0 and last["optim/value_learning_rate"] > 0
