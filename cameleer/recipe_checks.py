"""What is wrong with a recipe by itself, without looking at model or data: one sentence each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cameleer.algorithms.normalize import Normalize
from cameleer.recipe_types import type_problems

if TYPE_CHECKING:
    from cameleer.recipe import Curate, LoRA, Recipe


def recipe_problems(recipe: Recipe) -> Iterator[str]:
    yield from type_problems(recipe)
    try:
        Normalize.parse(recipe.normalize)
    except ValueError as error:
        yield str(error)
    rollout = recipe.rollout
    for name in _not_numbers(recipe):
        yield f"{name} is not a number (NaN). Give it a value."
    algorithm = recipe.algorithm
    yield from _out_of_range(recipe)
    if "value" in algorithm.needs and recipe.value_model is None:
        yield (
            f"{type(algorithm).__name__} needs a value model, and the recipe has no `value_model`. "
            "Name what it starts from: a reward model's checkpoint, or the policy's."
        )
    if recipe.value_model and "value" not in algorithm.needs:
        yield f"{type(algorithm).__name__} has no use for the recipe's `value_model`. Remove it."
    if recipe.value_optim and not recipe.value_model:
        yield "The recipe has a `value_optim` and no `value_model`. Remove it, or add the model."
    for name, model in (("model", recipe.model), ("value_model", recipe.value_model)):
        if model and model.lora:
            yield from _lora_problems(model.lora, f"{name}.lora")
    if algorithm.trains == "reward_model" and recipe.evals:
        yield "A reward model answers no benchmark. Remove `evals`; `heldout` takes pairs."
    dual_clip: float | None = getattr(algorithm, "dual_clip", None)
    if dual_clip is not None:
        high: float | None = getattr(algorithm, "clip_eps_high", None)
        high = getattr(algorithm, "clip_eps", 0.0) if high is None else high
        if dual_clip <= 1 + high:
            yield (
                f"algorithm.dual_clip is {dual_clip}, and ratios are held below {1 + high:g} "
                "anyway. Set it above that, or to None."
            )
    if recipe.reward_model and rollout is None:
        yield "The recipe has a `reward_model` and no `rollout` to reward. Remove one of the two."
    if not 0 <= recipe.seed < 1 << 63:
        yield f"seed is {recipe.seed}; give a whole number from 0 on."
    for source in (*recipe.data, *(recipe.heldout.sources if recipe.heldout else ())):
        yield from source.problems()
    if not recipe.data:
        yield "The recipe has no `data`. Name at least one Source."
    if recipe.num_steps < 1:
        yield f"num_steps is {recipe.num_steps}, so nothing would be trained. Set it to 1 or more."
    if "/" in recipe.name or recipe.name.strip() in ("", ".", ".."):
        yield f"name is {recipe.name!r}, and has to be usable as a directory's name."
    for name in ("num_threads", "micro_batch_tokens", "num_verifier_workers"):
        if getattr(recipe.runtime, name) < 1:
            yield f"runtime.{name} is {getattr(recipe.runtime, name)}; it has to be 1 or more."
    if recipe.num_minibatches < 1 or recipe.num_epochs < 1:
        yield (
            f"num_minibatches is {recipe.num_minibatches} and num_epochs {recipe.num_epochs}; "
            "both have to be 1 or more."
        )
    if min(recipe.output.save_every, recipe.output.log_every) < 1:
        yield "output.save_every and output.log_every count steps, and have to be 1 or more."
    if recipe.output.keep_last < 0:
        yield f"output.keep_last is {recipe.output.keep_last}; it has to be 0 (all) or more."
    if recipe.heldout and recipe.heldout.num_prompts < 1:
        yield f"heldout.num_prompts is {recipe.heldout.num_prompts}; it has to be 1 or more."
    if recipe.heldout and recipe.heldout.temperature < 0:
        yield f"heldout.temperature is {recipe.heldout.temperature}; 0 is greedy, the least."
    if recipe.evals and (recipe.evals.every < 0 or not recipe.evals.benchmarks):
        yield (
            f"evals.every is {recipe.evals.every} and evals.benchmarks names "
            f"{len(recipe.evals.benchmarks)}: steps count from 0, and one benchmark is the least."
        )
    if recipe.evals and recipe.evals.floors and not recipe.evals.at_start:
        yield "evals.floors are shares of the score at the start, and evals.at_start is False."
    if rollout is None:
        if recipe.num_minibatches > 1 or recipe.num_epochs > 1:
            yield (
                f"num_minibatches is {recipe.num_minibatches} and num_epochs {recipe.num_epochs}, "
                "which divide and repeat rollouts, and the recipe has no `rollout`. Set both to 1: "
                "imitation takes one update a step, on batch_size examples."
            )
        if recipe.batch_size < 1:
            yield (
                "The recipe has neither `rollout` (reinforcement learning) nor a `batch_size` "
                "(imitation). Set one of them."
            )
        if recipe.algorithm.learns_from == "rollouts":
            yield (
                f"{type(recipe.algorithm).__name__} compares completions that the policy sampled, "
                "and the recipe has no `rollout`. Add Rollout(num_prompts=…, group_size=…)."
            )
        return
    if recipe.algorithm.learns_from != "rollouts":
        yield (
            f"{type(recipe.algorithm).__name__} learns from {recipe.algorithm.learns_from}, and "
            "the recipe has a `rollout`. Remove it, and set batch_size instead."
        )
    compares = "value" not in algorithm.needs and getattr(algorithm, "baseline", "none") != "none"
    if rollout.group_size < 2 and compares:
        yield (
            "GRPO compares completions of the same prompt, and rollout.group_size is "
            f"{rollout.group_size}. Set it to 2 or more (Tulu 3.1 used 16), or use PPO."
        )
    if rollout.group_size < 2 and getattr(algorithm, "drop_equal_groups", False):
        yield (
            "algorithm.drop_equal_groups leaves out groups whose rewards are equal, and every "
            "group of one is such. Set it to False, or rollout.group_size to 2 or more."
        )
    if rollout.temperature <= 0 or not math.isfinite(rollout.temperature):
        yield (
            f"rollout.temperature is {rollout.temperature}: all siblings would be equal, and "
            "log-probabilities undefined. Set it above 0 (Tulu 3.1 used 1)."
        )
    if rollout.num_slots < 1 or rollout.max_tokens < 1 or rollout.num_prompts < 1:
        yield "rollout.num_prompts, num_slots and max_tokens have to be 1 or more."
    if rollout.max_staleness < 0:
        yield f"rollout.max_staleness is {rollout.max_staleness}; it counts steps, from 0."
    if rollout.max_refills < 0:
        yield f"rollout.max_refills is {rollout.max_refills}; it counts rounds, from 0."
    elif rollout.max_refills and not getattr(algorithm, "drop_equal_groups", False):
        yield (
            f"rollout.max_refills is {rollout.max_refills}, and {type(algorithm).__name__} would "
            "learn from the groups that were to be replaced. Set algorithm.drop_equal_groups, "
            "which GRPO has, or max_refills=0."
        )
    elif rollout.max_refills and recipe.reward_model:
        yield (
            f"rollout.max_refills is {rollout.max_refills}, and a `reward_model` gives no two "
            "answers the same reward: there would be nothing to replace. Set max_refills=0."
        )
    num_sequences = rollout.num_prompts * rollout.group_size
    if recipe.split == "sequence" and recipe.num_minibatches > num_sequences:
        yield (
            f"num_minibatches is {recipe.num_minibatches}, but a step has only {num_sequences} "
            "completions to divide. Lower it."
        )
    if recipe.split == "group" and recipe.num_minibatches > rollout.num_prompts:
        yield (
            f"num_minibatches is {recipe.num_minibatches}, but a step has only "
            f"{rollout.num_prompts} groups to divide. Lower it, or set split='sequence'."
        )
    if not recipe.verifiers and not recipe.reward_model:
        yield (
            "The recipe has neither `verifiers` nor a `reward_model`, so no completion could be "
            "rated. Add one."
        )
    yield from _without_truths(recipe)


def _out_of_range(recipe: Recipe) -> Iterator[str]:
    for name, optim in (("optim", recipe.optim), ("value_optim", recipe.value_optim)):
        if optim is None:
            continue
        yield from _between(f"{name}.learning_rate", optim.learning_rate, above=True)
        yield from _between(f"{name}.eps", optim.eps)
        yield from _between(f"{name}.weight_decay", optim.weight_decay)
        for beta in optim.betas:
            yield from _between(f"{name}.betas", beta, most=1, below=True)
        if optim.warmup_steps < 0:
            yield f"{name}.warmup_steps is {optim.warmup_steps}; it counts updates, from 0."
        if not optim.max_grad_norm > 0:
            yield (
                f"{name}.max_grad_norm is {optim.max_grad_norm}, which would scale every gradient "
                "to nothing. Set it above 0; a large number never clips."
            )
    for name in ("correct", "without_eos"):
        yield from _between(f"reward.{name}", getattr(recipe.reward, name), least=-math.inf)
    algorithm = recipe.algorithm
    if not type(algorithm).__module__.startswith("cameleer."):
        return
    gamma_at_most = 1 if "value" in algorithm.needs else math.inf
    for field, most, above in (
        ("beta", math.inf, algorithm.learns_from == "pairs"),
        ("gamma", gamma_at_most, False),
        ("lam", 1, False),
        ("value_coef", math.inf, True),
        ("label_smoothing", 0.5, False),
        ("margin", math.inf, False),
        ("center", math.inf, False),
    ):
        value = getattr(algorithm, field, None)
        yield from _between(f"algorithm.{field}", value, most=most, above=above)
    for field in ("clip_eps", "clip_eps_high", "value_clip", "importance_cap"):
        bound = getattr(algorithm, field, None)
        if bound is not None and not bound > 0:
            yield f"algorithm.{field} is {bound}; it has to be above 0."


def _between(
    name: str,
    value: float | None,
    *,
    least: float = 0,
    most: float = math.inf,
    above: bool = False,
    below: bool = False,
) -> Iterator[str]:
    """A sentence where a number is infinite or out of its range.

    Args:
        above: The least is out of range itself.
        below: And so is the most.
    """
    if value is None:
        return
    low = value > least if above else value >= least
    high = value < most if below else value <= most
    if low and high and math.isfinite(value):
        return
    ends = [f"{'above' if above else 'at least'} {least:g}"] if math.isfinite(least) else []
    ends += [f"{'below' if below else 'at most'} {most:g}"] if math.isfinite(most) else ["finite"]
    yield f"{name} is {value}; it has to be {' and '.join(ends)}."


def curate_problems(stage: Curate) -> Iterator[str]:
    yield from type_problems(stage)
    for name in _not_numbers(stage):
        yield f"{name} is not a number (NaN). Give it a value."
    if stage.rollout.group_size < 2:
        yield f"rollout.group_size is {stage.rollout.group_size}; a pair takes 2 answers or more."
    if stage.rollout.temperature <= 0:
        yield (
            f"rollout.temperature is {stage.rollout.temperature}: all answers would be equal. Set "
            "it above 0."
        )
    if min(stage.rollout.num_prompts, stage.rollout.num_slots, stage.rollout.max_tokens) < 1:
        yield "rollout.num_prompts, num_slots and max_tokens have to be 1 or more."
    if not stage.data:
        yield "The stage has no `data`. Name at least one Source of questions."
    if not stage.verifiers and not stage.reward_model:
        yield "The stage has neither `verifiers` nor a `reward_model`, which rate the answers."
    yield from _without_truths(stage)
    if stage.model.lora:
        yield "A Curate stage trains nothing. Remove `lora` from its `model`."


def _without_truths(stage: Recipe | Curate) -> Iterator[str]:
    """Questions that nothing of the stage could rate the answers to."""
    for source in stage.data:
        if source.format == "chat" and not stage.reward_model:
            yield (
                f"{source.path} has rows of format 'chat', which have no ground truth to reward. "
                "Add a `reward_model`, which rates answers without one, or name another source."
            )


def _lora_problems(lora: LoRA, name: str) -> Iterator[str]:
    if lora.rank < 1:
        yield f"{name}.rank is {lora.rank}; it has to be 1 or more (16 is common), or lora None."
    if not 0 < lora.alpha < math.inf:
        yield f"{name}.alpha is {lora.alpha}, which scales the updates; it has to be above 0."
    if not lora.targets:
        yield (
            f"{name}.targets is {lora.targets!r}. Set it to 'all-linear', or to the names of one "
            "layer or more, such as ('q_proj', 'v_proj')."
        )


def _not_numbers(value: Any, path: str = "") -> Iterator[str]:
    """Fields that hold NaN, which passes every comparison that would refuse it."""
    if isinstance(value, float) and math.isnan(value):
        yield path
    if dataclasses.is_dataclass(value):
        for field_ in dataclasses.fields(value):
            below = f"{path}.{field_.name}" if path else field_.name
            yield from _not_numbers(getattr(value, field_.name), below)
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _not_numbers(item, f"{path}.{number}")
