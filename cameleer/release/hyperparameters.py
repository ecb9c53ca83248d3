"""A stage's hyperparameters, in the names and the order of the cards of Tulu 3 and 3.1."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cameleer.release.terms import shown
from cameleer.report.stages import Stage, parent_of

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
    "dual_clip": "Dual clipping coefficient",
    "ratio": "Probability ratio of a",
    "surrogate": "Surrogate loss",
    "baseline": "Baseline of the advantages",
    "scale_by_std": "Advantages divided by the group's standard deviation",
    "whiten_advantages": "Advantages whitened over the step",
    "drop_equal_groups": "Groups of equal rewards left out",
    "drop_truncated": "Truncated responses left out",
    "importance_cap": "Truncated importance sampling (cap)",
    "variant": "Loss",
    "label_smoothing": "Label smoothing",
    "margin": "Margin between the scores",
    "center": "Penalty on the sum of the scores",
}
_NAMES_OF_DPO = {"beta": "DPO penalty coefficient (beta)", "gamma": "Target margin (gamma)"}


def hyperparameters(stage: Stage) -> dict[str, str]:
    """By label, as text, without what the algorithm does not read as it is set.

    Fields of a user's own algorithm go by their own names.
    """
    return {label: _shown(value) for label, value in _rows(stage) if value is not None}


def curation(stage: Stage) -> dict[str, str]:
    """How a Curate stage made its data and how much of it, by label, as text."""
    return {label: _shown(value) for label, value in _rows_of_curate(stage) if value is not None}


def _rows(stage: Stage) -> Iterator[tuple[str, Any]]:
    recipe = stage.recipe
    rollout = recipe.get("rollout")
    of_value = _optimizer({**recipe["optim"], **(recipe.get("value_optim") or {})})
    for label, setting in _optimizer(recipe["optim"]).items():
        yield label, setting
        if of_value[label] != setting:
            yield f"{label} of the value model", of_value[label]
    yield from _lora(recipe["model"].get("lora"))
    yield from _amounts(stage, rollout)
    for key, value in recipe["algorithm"].items():
        if key not in _unread(recipe["algorithm"]):
            names = _OF_ALGORITHM | (_NAMES_OF_DPO if stage.algorithm == "DPO" else {})
            yield names.get(key, key), value
    if rollout:
        reward = recipe.get("reward") or {}
        yield from _sampling(rollout)
        yield (
            "Verification reward (alpha)",
            reward.get("correct") if recipe.get("verifiers") else None,
        )
        yield "Reward of responses without an EOS token", reward.get("without_eos")
        yield "Reward model", _model(stage, "reward_model")
        yield "Reward model multiplier", (recipe.get("reward_model") or {}).get("weight")
        yield "Value model", _model(stage, "value_model")
        yield "Steps that rollouts are collected ahead", rollout["max_staleness"]
    else:
        yield "Max token length", recipe["max_tokens"]
    # Losses of a pair are averaged over pairs, however many tokens they have.
    is_of_tokens = stage.algorithm not in ("DPO", "RewardModel")
    yield "Loss normalization", recipe["normalize"] if is_of_tokens else None
    yield "Compute precision", recipe["model"]["dtype"]
    yield "Chat template", recipe["model"]["chat_template"]
    yield "Seed", recipe["seed"]


def _rows_of_curate(stage: Stage) -> Iterator[tuple[str, Any]]:
    recipe, manifest, rollout = stage.recipe, stage.manifest, stage.recipe["rollout"]
    dropped = dict(manifest.get("counts") or {})
    pairs, right = (dropped.pop(name, "not recorded") for name in ("pairs", "right"))
    verifiers = recipe.get("verifiers") or {}
    named = [f"{name} ({str(v['class']).rpartition(':')[2]})" for name, v in verifiers.items()]
    yield "Policy", _model(stage, "model")
    yield "Questions", manifest.get("prompts", "not recorded")
    yield "Questions left out as too long", manifest.get("prompts_too_long") or None
    yield "Answers per question", rollout["group_size"]
    yield from _sampling(rollout)
    yield "Verifiers", ", ".join(named) or "none"
    yield "Reward model", _model(stage, "reward_model")
    yield "Reward model multiplier", (recipe.get("reward_model") or {}).get("weight")
    yield "Pairs made", pairs
    # Of a question that a reward model alone rates, the best answer is there, right or not.
    kind = "Right or best-rated" if recipe.get("reward_model") else "Right"
    yield f"{kind} answers made", right
    for reason, count in dropped.items():
        yield f"Questions without a pair: {reason}", count
    yield "Compute precision", recipe["model"]["dtype"]
    yield "Chat template", recipe["model"]["chat_template"]
    yield "Seed", recipe["seed"]


def _optimizer(optim: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Learning rate": optim["learning_rate"],
        "Learning rate schedule": optim["schedule"],
        "Warmup updates": optim["warmup_steps"],
        "Optimizer": f"AdamW, betas {_shown(optim['betas'])}, eps {optim['eps']:g}",
        "Weight decay": optim["weight_decay"],
        "Gradient norm threshold": optim["max_grad_norm"],
    }


def _sampling(rollout: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "Generation temperature", rollout["temperature"]
    yield "Response length", rollout["max_tokens"]
    # Quoted as in JSON, for many are line breaks.
    stop = [json.dumps(text, ensure_ascii=False) for text in rollout.get("stop") or ()]
    yield "Stop strings", stop or None
    yield "Max prompt token length", rollout["max_prompt_tokens"]


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
    refills = rollout.get("max_refills")
    yield f"Total episodes{' (without refills)' if refills else ''}", steps * size
    yield "Rounds of refills a step, at most", refills or None
    yield "Mini-batches", recipe["num_minibatches"]
    yield "Update iterations (K)", recipe["num_epochs"]
    yield "Minibatches of", {"group": "whole groups"}.get(recipe["split"], "any sequences")


def _lora(lora: Mapping[str, Any] | None) -> Iterator[tuple[str, Any]]:
    if lora:
        yield "LoRA rank", lora["rank"]
        yield "LoRA alpha", lora["alpha"]
        yield "LoRA targets", lora["targets"]
        yield "LoRA scale", "alpha / sqrt(rank)" if lora["rslora"] else "alpha / rank"


def _unread(algorithm: Mapping[str, Any]) -> set[str]:
    """Fields that the algorithm does not read as its others are set."""
    kind = str(algorithm["class"]).rpartition(":")[2]
    is_unread = {"class": True}
    if kind == "DPO":
        is_unread["gamma"] = algorithm.get("variant") != "simpo"
        is_unread["label_smoothing"] = algorithm.get("variant") == "ipo"
    if kind == "GRPO":
        is_cispo = algorithm.get("surrogate") == "cispo"
        is_unread["kl_estimator"] = not algorithm.get("beta")
        is_unread["scale_by_std"] = algorithm.get("baseline") == "none"
        is_unread["dual_clip"] = is_cispo
        is_unread["clip_eps"] = is_cispo and algorithm.get("clip_eps_high") is not None
    return {name for name, unread in is_unread.items() if unread}


def _model(stage: Stage, role: str) -> str | None:
    """The name of the stage that made it, or what else it is called."""
    source = (stage.recipe.get(role) or {}).get("source")
    if not source:
        return None
    parent = parent_of(stage, source)
    return parent.name if parent else shown(source)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
