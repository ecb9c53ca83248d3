"""A stage's hyperparameters, in the names and the order of the cards of Tulu 3 and 3.1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cameleer.report.stages import Stage

_OF_ALGORITHM = {
    "gamma": "Discount factor (gamma)",
    "lam": "Generalized advantage estimation (lambda)",
    "clip_eps": "PPO clipping coefficient (epsilon)",
    "clip_eps_high": "Upper clipping coefficient",
    "value_coef": "Value function coefficient",
    "value_clip": "Value clipping",
    "beta": "KL penalty coefficient (beta)",
    "kl_estimator": "KL estimator",
    "length_normalized": "Length-normalized",
}
_NAMES_OF_DPO = {"beta": "DPO penalty coefficient (beta)", "gamma": "Target margin (gamma)"}


def hyperparameters(stage: Stage) -> dict[str, str]:
    """By label, as text. Fields of the algorithm that no card has go by their own names."""
    return {label: _shown(value) for label, value in _rows(stage) if value is not None}


def _rows(stage: Stage) -> Iterator[tuple[str, Any]]:
    recipe = stage.recipe
    optim, rollout = recipe["optim"], recipe.get("rollout")
    value_optim: Mapping[str, Any] = recipe.get("value_optim") or {}
    yield "Learning rate", optim["learning_rate"]
    yield "Learning rate of the value model", value_optim.get("learning_rate")
    yield "Learning rate schedule", optim["schedule"]
    yield "Warmup updates", optim["warmup_steps"]
    yield "Optimizer", f"AdamW, betas {_shown(optim['betas'])}, eps {optim['eps']:g}"
    yield "Weight decay", optim["weight_decay"]
    yield "Gradient norm threshold", optim["max_grad_norm"]
    yield from _amounts(stage, rollout)
    for key, value in recipe["algorithm"].items():
        if key != "class":
            names = _OF_ALGORITHM | (_NAMES_OF_DPO if stage.algorithm == "DPO" else {})
            yield names.get(key, key), value
    if rollout:
        reward = recipe.get("reward") or {}
        yield "Generation temperature", rollout["temperature"]
        yield "Response length", rollout["max_tokens"]
        yield "Max prompt token length", rollout["max_prompt_tokens"]
        yield "Verification reward (alpha)", reward.get("correct")
        yield "Reward of responses without an EOS token", reward.get("without_eos")
        yield "Steps that rollouts are collected ahead", rollout["max_staleness"]
    else:
        yield "Max token length", recipe["max_tokens"]
    yield "Loss normalization", recipe["normalize"]
    yield "Compute precision", recipe["model"]["dtype"]
    yield "Chat template", recipe["model"]["chat_template"]
    yield "Seed", recipe["seed"]


def _amounts(stage: Stage, rollout: Mapping[str, Any] | None) -> Iterator[tuple[str, Any]]:
    """How much was seen: episodes of reinforcement learning, or examples."""
    recipe, steps = stage.recipe, stage.num_steps
    yield "Steps", steps
    if rollout is None:
        size, count = recipe["batch_size"], stage.manifest.get("examples")
        yield "Batch size (effective)", size
        yield "Number of epochs", round(steps * size / count, 2) if count else None
        return
    size = rollout["num_prompts"] * rollout["group_size"]
    yield "Batch size (effective)", size
    yield "Prompts a step", rollout["num_prompts"]
    yield "Samples per prompt", rollout["group_size"]
    yield "Total episodes", steps * size
    yield "Mini-batches", recipe["num_minibatches"]
    yield "Update iterations (K)", recipe["num_epochs"]
    yield "Minibatches of", {"group": "whole groups"}.get(recipe["split"], "any sequences")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
