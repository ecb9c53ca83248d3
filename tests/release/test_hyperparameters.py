"""A stage's hyperparameters: as Tulu's cards list them, and only those that were read."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from fakes import curate, dpo, grpo, ppo, reward_model, sft
from made_runs import made, made_ladder

from cameleer.algorithms.dpo import DPO
from cameleer.algorithms.grpo import GRPO
from cameleer.algorithms.ppo import PPO
from cameleer.algorithms.reward_model import RewardModel
from cameleer.algorithms.sft import SFT
from cameleer.recipe import Curate, LoRA, Model, Optim, Recipe, RewardTerm, Rollout
from cameleer.recipe_files import to_json
from cameleer.recipes import tulu31_8b
from cameleer.release.hyperparameters import curation, hyperparameters
from cameleer.report.stages import read_tree


def listed(root: Path, recipe: Recipe | dict[str, Any], **manifest: Any) -> dict[str, str]:
    return hyperparameters(
        read_tree(made(root / "run", recipe=recipe, manifest=manifest)).stages[0]
    )


def test_the_card_s_values_of_tulu_31_are_listed_as_the_card_lists_them(tmp_path: Path):
    found = listed(tmp_path, tulu31_8b())
    for label, value in {
        "Learning rate": "5e-07",
        "Learning rate schedule": "constant",
        "Batch size (effective)": "768",
        "Samples per prompt": "16",
        "Total episodes": "1,474,560",
        "Mini-batches": "2",
        "Update iterations (K)": "1",
        "PPO clipping coefficient (epsilon)": "0.2",
        "KL penalty coefficient (beta)": "0.01",
        "KL estimator": "k3",
        "Gradient norm threshold": "1",
        "Generation temperature": "1",
        "Response length": "2,048",
        "Max prompt token length": "2,048",
        "Verification reward (alpha)": "10",
        "Reward of responses without an EOS token": "0",
        "Warmup updates": "0",
    }.items():
        assert found[label] == value


def test_other_algorithms_list_their_own(tmp_path: Path):
    pairs = listed(tmp_path, dpo(Path("a/b"), tmp_path))
    assert pairs["DPO penalty coefficient (beta)"] == "1"
    # 4 steps of 8 out of 64 pairs.
    pairs = listed(tmp_path, dpo(Path("a/b"), tmp_path), examples=64)
    assert pairs["Number of epochs"] == "0.5"
    found = listed(tmp_path, ppo(Path("a/b"), tmp_path))
    assert found["Generalized advantage estimation (lambda)"] == "0.95"
    assert found["Value function coefficient"] == "0.1"


def test_refills_are_not_among_the_episodes_that_are_counted(tmp_path: Path):
    rollout = Rollout(num_prompts=4, group_size=4, max_tokens=8, max_refills=3)
    found = listed(tmp_path, grpo(Path("a/b"), tmp_path, rollout=rollout))
    # 4 steps of 4 prompts x 4 samples.
    assert found["Total episodes (without refills)"] == "64" and "Total episodes" not in found
    assert found["Rounds of refills a step, at most"] == "3"


def test_an_adapter_is_listed(tmp_path: Path):
    model = Model(source="a/b", lora=LoRA(rank=8, alpha=16.0, targets=("q_proj", "v_proj")))
    found = listed(tmp_path, sft(Path("a/b"), tmp_path, model=model))
    assert found["LoRA rank"] == "8" and found["LoRA alpha"] == "16"
    assert found["LoRA targets"] == "q_proj, v_proj" and found["LoRA scale"] == "alpha / rank"
    plain = listed(tmp_path, sft(Path("a/b"), tmp_path))
    assert not any("LoRA" in label for label in plain)


@pytest.mark.parametrize(
    ("algorithm", "absent", "present"),
    [
        (DPO(), "Target margin (gamma)", "Label smoothing"),
        (DPO(variant="ipo"), "Label smoothing", "DPO penalty coefficient (beta)"),
        (DPO(variant="simpo"), "", "Target margin (gamma)"),
        (GRPO(beta=0.0), "KL estimator", "KL penalty coefficient (beta)"),
        (GRPO(baseline="none"), "Advantages divided by the group's standard deviation", ""),
        (
            GRPO(surrogate="cispo", clip_eps_high=4.0, dual_clip=3.0),
            "Dual clipping coefficient",
            "Upper clipping coefficient",
        ),
    ],
)
def test_what_an_algorithm_does_not_read_is_not_listed(
    tmp_path: Path, algorithm: Any, absent: str, present: str
):
    found = listed(tmp_path, sft(Path("a/b"), tmp_path, algorithm=algorithm))
    assert absent not in found and (not present or present in found)


@pytest.mark.parametrize("algorithm", [SFT(), DPO(), GRPO(), PPO(), RewardModel()])
def test_every_field_of_cameleer_s_algorithms_has_words(tmp_path: Path, algorithm: Any):
    every = {field.name: 0.5 for field in fields(algorithm)}
    recipe = to_json(sft(Path("a/b"), tmp_path, algorithm=algorithm))
    recipe["algorithm"] |= every
    assert not every.keys() & listed(tmp_path, recipe).keys()


def test_the_models_that_rate_and_their_weight_are_listed(tmp_path: Path):
    stages = (
        sft(Path("a/b"), tmp_path),
        grpo(
            Path("stage:sft"),
            tmp_path,
            reward_model=RewardTerm(source="stage:sft", weight=0.5),
            value_model=Model(source="/home/me/scorer"),
        ),
    )
    root = made_ladder(tmp_path / "l", *stages)
    found = hyperparameters(read_tree(root).stages[1])
    assert (found["Reward model"], found["Reward model multiplier"]) == ("sft", "0.5")
    assert found["Value model"] == "scorer"


def test_the_value_model_s_optimizer_is_listed_where_it_is_another(tmp_path: Path):
    of_policy = Optim(learning_rate=1e-2, weight_decay=0.0, warmup_steps=3)
    recipe = ppo(Path("a/b"), tmp_path, optim=of_policy, value_optim=of_policy)
    assert not any("value model" in label for label in listed(tmp_path, recipe))
    every = Optim(
        learning_rate=3e-6,
        betas=(0.9, 0.95),
        eps=1e-5,
        weight_decay=0.1,
        max_grad_norm=0.5,
        warmup_steps=7,
        schedule="cosine",
    )
    found = listed(tmp_path, replace(recipe, value_optim=every))
    assert {label: value for label, value in found.items() if "of the value model" in label} == {
        "Learning rate of the value model": "3e-06",
        "Learning rate schedule of the value model": "cosine",
        "Warmup updates of the value model": "7",
        "Optimizer of the value model": "AdamW, betas 0.9, 0.95, eps 1e-05",
        "Weight decay of the value model": "0.1",
        "Gradient norm threshold of the value model": "0.5",
    }
    one = listed(tmp_path, replace(recipe, value_optim=replace(of_policy, warmup_steps=7)))
    assert [label for label in one if "of the value model" in label] == [
        "Warmup updates of the value model"
    ]


def test_losses_of_pairs_have_no_normalization(tmp_path: Path):
    def normalization(recipe: Recipe) -> str | None:
        return listed(tmp_path, replace(recipe, normalize="sequence")).get("Loss normalization")

    for make in (dpo, reward_model):
        assert normalization(make(Path("a/b"), tmp_path)) is None
    for make in (sft, grpo, ppo):
        assert normalization(make(Path("a/b"), tmp_path)) == "sequence"


def test_stop_strings_are_listed_so_that_line_breaks_are_seen(tmp_path: Path):
    rollout = Rollout(num_prompts=4, group_size=4, max_tokens=8, stop=("/END", "\n\n"))
    found = listed(tmp_path, grpo(Path("a/b"), tmp_path, rollout=rollout))
    assert found["Stop strings"] == r'"/END", "\n\n"'
    assert "Stop strings" not in listed(tmp_path, grpo(Path("a/b"), tmp_path))


COUNTS = {"pairs": 1205, "right": 31, "all answers equally wrong": 4}


def curated(root: Path, stage: Curate, **manifest: Any) -> dict[str, str]:
    """Its rows, behind the stage that made its policy."""
    directory = made_ladder(root / "l", sft(Path("a/b"), root), to_json(stage))
    made(directory / "pairs", recipe=to_json(stage), manifest=manifest)
    return curation(read_tree(directory).stages[1])


def test_a_stage_that_made_data_says_from_what_and_how_much(tmp_path: Path):
    rollout = Rollout(num_prompts=2000, group_size=4, max_tokens=40, temperature=0.7, stop=("\n",))
    stage = curate(tmp_path, rollout=rollout)
    found = curated(tmp_path, stage, prompts=1300, prompts_too_long=2, counts=COUNTS)
    assert found == {
        "Policy": "sft",
        "Questions": "1,300",
        "Questions left out as too long": "2",
        "Answers per question": "4",
        "Generation temperature": "0.7",
        "Response length": "40",
        "Stop strings": r'"\n"',
        "Max prompt token length": "2,048",
        "Verifiers": "gsm8k (Even)",
        "Pairs made": "1,205",
        "Right answers made": "31",
        "Questions without a pair: all answers equally wrong": "4",
        "Compute precision": "float32",
        "Chat template": "tokenizer",
        "Seed": "1",
    }


def test_a_reward_model_that_rated_is_named(tmp_path: Path):
    judge = RewardTerm(source="/home/me/scorer", weight=0.5)
    found = curated(tmp_path, curate(tmp_path, verifiers={}, reward_model=judge), counts=COUNTS)
    assert found["Verifiers"] == "none"
    assert (found["Reward model"], found["Reward model multiplier"]) == ("scorer", "0.5")
    # What no verifier checked is not called right.
    assert found["Right or best-rated answers made"] == "31" and "Right answers made" not in found


def test_a_stage_without_counts_does_not_say_that_it_made_nothing(tmp_path: Path):
    assert curated(tmp_path, curate(tmp_path))["Pairs made"] == "not recorded"
