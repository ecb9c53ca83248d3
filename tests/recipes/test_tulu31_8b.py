"""The published run, value by value, and two steps of it on a model of a few thousand weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fakes import tiny_llama

from cameleer.algorithms.grpo import GRPO
from cameleer.data.sources import Source
from cameleer.distributed.launch import run
from cameleer.recipe import Model, Recipe, Rollout, Runtime
from cameleer.recipes.tulu31_8b import tulu31_8b
from cameleer.report.curve import read_metrics


def card() -> Recipe:
    return tulu31_8b()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.source", "allenai/Llama-3.1-Tulu-3-8B-DPO"),
        ("model.dtype", "bfloat16"),
        ("model.chat_template", "tulu"),
        ("algorithm.beta", 0.01),
        ("algorithm.kl_estimator", "k3"),
        ("algorithm.clip_eps", 0.2),
        ("algorithm.scale_by_std", True),
        ("reward.correct", 10.0),
        ("reward.without_eos", 0.0),
        ("optim.learning_rate", 5e-7),
        ("optim.betas", (0.9, 0.999)),
        ("optim.eps", 1e-8),
        ("optim.weight_decay", 0.01),
        ("optim.max_grad_norm", 1.0),
        ("optim.warmup_steps", 0),
        ("rollout.num_prompts", 48),
        ("rollout.group_size", 16),
        ("rollout.max_tokens", 2048),
        ("rollout.max_prompt_tokens", 2048),
        ("rollout.temperature", 1.0),
        ("rollout.stop", ()),
        ("num_steps", 1920),
        ("num_minibatches", 2),
        ("rollout.max_staleness", 1),
        ("num_epochs", 1),
        ("split", "sequence"),
        ("normalize", "micro_batch(2)"),
        ("seed", 1),
        ("output.save_every", 40),
    ],
)
def test_every_value_is_the_cards_or_its_scripts(path: str, value: object):
    found: object = card()
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_the_data_is_the_published_mixture_and_nothing_else():
    (source,) = card().data
    assert source.path == "allenai/RLVR-GSM-MATH-IF-Mixed-Constraints"
    assert (source.split, source.count, source.few_shot) == ("train", None, False)
    assert sorted(card().verifiers) == ["gsm8k", "ifeval", "math"]
    assert card().heldout is None


def test_episodes_and_updates_are_those_of_the_released_checkpoint():
    recipe = card()
    rollout = recipe.rollout
    assert rollout is not None
    # 48 prompts * 16 = 768 episodes a step; 64 of 128 sequences on each of 6 learners an update.
    assert rollout.num_prompts * rollout.group_size == 768
    assert recipe.num_steps * 768 == 1_474_560
    assert recipe.num_steps * recipe.num_minibatches * recipe.num_epochs == 3_840
    assert 768 // recipe.num_minibatches == 64 * 6


def test_the_reference_is_kept_for_the_penalty():
    algorithm = card().algorithm
    assert isinstance(algorithm, GRPO) and algorithm.needs == ("old", "reference")


def test_two_steps_of_it_train_a_tiny_model_with_all_three_verifiers(
    tmp_path: Path, shared_data: Path
):
    rows = shared_data / "rlvr" / "schema_sample.jsonl"
    if not rows.exists():
        pytest.skip("rlvr/schema_sample.jsonl is not among the data sets beside the repository")
    recipe = card()
    start = tiny_llama(tmp_path / "model", max_tokens=2048)
    recipe = replace(
        recipe,
        model=replace(recipe.model, source=str(start)),
        data=(Source(path=str(rows), format="rlvr"),),
        # All 45 rows in two steps, so each of the verifiers has its turn.
        rollout=Rollout(num_prompts=23, group_size=2, max_tokens=8),
        num_steps=2,
        runtime=Runtime(device="cpu"),
        output=replace(recipe.output, directory=str(tmp_path)),
    )
    (directory,) = run(recipe)
    table = pq.read_table(directory / "rollouts").to_pylist()
    used = Counter(score["verifier"] for row in table for score in row["scores"])
    assert used.keys() == {"gsm8k", "math", "ifeval"}
    assert all(score["status"] == "scored" for row in table for score in row["scores"])
    first, second = read_metrics(directory)
    assert {"reward/mean/gsm8k", "reward/mean/math", "reward/mean/ifeval"} <= {*first, *second}
    # Old and new log-probabilities are equal in the first of two minibatches, and the policy
    # starts as its own reference.
    assert first["policy/ratio"] == pytest.approx(1.0, abs=1e-3)
    assert first["policy/kl"] == pytest.approx(0.0, abs=1e-3)
    assert first["optim/learning_rate"] == 5e-7
    assert [row["version"] for row in table if row["step"] == 2] == [2] * 46
    assert isinstance(recipe.model, Model) and recipe.model.dtype == "bfloat16"
