"""What a recipe reads before any weights: tokenizer, configuration and data. It writes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cameleer.data.chat import with_template
from cameleer.data.mixture import Tally
from cameleer.data.preference import load_pairs
from cameleer.data.prompts import (
    Examples,
    Prompts,
    check_truths,
    load_examples,
    load_prompts,
    reasons,
)
from cameleer.data.sources import Source, local_file, sha256_of
from cameleer.errors import ModelError, RecipeError
from cameleer.log import quiet_libraries
from cameleer.models.heads import add_pad_token
from cameleer.models.load import (
    check_same_tokens,
    check_vocabulary,
    load_config,
    load_tokenizer,
)
from cameleer.models.tiny import cache_directory
from cameleer.recipe import Recipe
from cameleer.train.guards import (
    checkpoint_bytes,
    count_parameters,
    refuse_overlap,
    refuse_scorer,
    refuse_unchecked,
)
from cameleer.user_files import call
from cameleer.verifiers.base import Verifier


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Enough to check everything but memory."""

    tokenizer: Any
    config: Any
    prompts: Prompts
    examples: Examples
    heldout: Prompts
    heldout_pairs: Examples
    """What a reward model is measured on."""
    longest: int
    """Tokens of the longest sequence that the run can meet."""
    longest_answer: int
    """Those of them that are sampled or trained."""

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """What became of the rows of each source of the recipe's data."""
        return self.prompts.sources or self.examples.sources


def read_inputs(recipe: Recipe) -> Inputs:
    """Tokenizer, configuration and data, checked against each other."""
    source = resolve(recipe.model.source)
    config, tokenizer = load_config(source), load_tokenizer(source)
    check_vocabulary(tokenizer, config, source)
    refuse_scorer(config, recipe, source)
    with_template(tokenizer, recipe.model.chat_template, source)
    ranks_pairs = recipe.algorithm.trains == "reward_model"
    add_pad_token(tokenizer, apart_from_eos=ranks_pairs)
    for what, other in other_models(recipe).items():
        check_same_tokens(tokenizer, load_tokenizer(resolve(other)), other, what)
    prompts, examples = read_data(recipe, tokenizer)
    prompts = check_truths(prompts, recipe.verifiers, recipe.data)
    heldout, heldout_pairs = Prompts(()), Examples(())
    if recipe.heldout:
        sources, count = recipe.heldout.sources, recipe.heldout.num_prompts
        limit = recipe.rollout.max_prompt_tokens if recipe.rollout else recipe.max_tokens
        if ranks_pairs:
            heldout_pairs = load_pairs(
                sources, tokenizer, max_tokens=limit, seed=recipe.seed, cache=_prepared()
            )
            some = [heldout_pairs.items[i] for i in range(min(count, len(heldout_pairs.items)))]
            heldout_pairs = dataclasses.replace(heldout_pairs, items=some)
        else:
            heldout = checked_prompts(sources, recipe.verifiers, tokenizer, limit, recipe.seed)
            heldout = dataclasses.replace(heldout, prompts=heldout.prompts[:count])
            refuse_unchecked(heldout)
    answer, its_name = recipe.rollout.max_tokens if recipe.rollout else 0, "rollout.max_tokens"
    if recipe.heldout and not recipe.rollout:
        answer, its_name = longest_answer(examples), "the longest answer in the data"
    longest = max((len(p.tokens) for p in (*prompts.prompts, *heldout.prompts)), default=0) + answer
    longest = max(longest, examples.longest)
    window = getattr(config, "max_position_embeddings", None)
    lower = "max_prompt_tokens or max_tokens" if recipe.rollout else "max_tokens"
    if window and longest > window:
        parts = f" (its prompt, and {answer} of {its_name})" if longest > examples.longest else ""
        raise ModelError(
            f"The longest sequence has {longest} tokens{parts}, and {source} was made for "
            f"{window}. Lower {lower}."
        )
    sliding = getattr(config, "sliding_window", None)
    if sliding and longest > sliding:
        raise ModelError(
            f"The longest sequence has {longest} tokens, and {source} attends to the last "
            f"{sliding} only, which is not implemented. Lower {lower}."
        )
    refuse_overlap(prompts, examples, heldout, heldout_pairs)
    answer = answer or examples.longest_trained
    return Inputs(tokenizer, config, prompts, examples, heldout, heldout_pairs, longest, answer)


def read_data(recipe: Recipe, tokenizer: Any) -> tuple[Prompts, Examples]:
    """What a recipe trains on: prompts, or examples or pairs. The other has none."""
    seed, cache = recipe.seed, _prepared()
    if recipe.rollout:
        limit = recipe.rollout.max_prompt_tokens
        found = load_prompts(recipe.data, tokenizer, max_tokens=limit, seed=seed, cache=cache)
        return found, Examples(())
    load = load_pairs if recipe.algorithm.learns_from == "pairs" else load_examples
    limit = recipe.max_tokens
    return Prompts(()), load(recipe.data, tokenizer, max_tokens=limit, seed=seed, cache=cache)


def checked_prompts(
    sources: Sequence[Source],
    verifiers: Mapping[str, Verifier],
    tokenizer: Any,
    max_tokens: int,
    seed: int,
) -> Prompts:
    """The prompts of all sources. Raises DataError where a truth cannot be read."""
    found = load_prompts(sources, tokenizer, max_tokens=max_tokens, seed=seed, cache=_prepared())
    return check_truths(found, verifiers, sources)


def _prepared() -> Path:
    return cache_directory() / "prepared"


def resolve(source: str) -> str:
    """The directory or hub id of a model, or what a function that is named instead returns."""
    if ":" not in source:
        return source
    try:
        return str(call(source))
    except RecipeError as error:
        raise RecipeError(f"model.source names {source}: {error}") from error


def other_models(recipe: Recipe) -> dict[str, str]:
    """Sources of the models that read the policy's tokens, by what they are."""
    found = {}
    if recipe.value_model:
        found["value model"] = recipe.value_model.source
    if recipe.reward_model:
        found["reward model"] = recipe.reward_model.source
    return found


def checkpoint_size(recipe: Recipe) -> int:
    """Bytes of all models and optimizers that a checkpoint holds, without loading them.

    Raises ModelError for a model that is none, or that LoRA cannot adapt.
    """
    size = 0
    scores = recipe.algorithm.trains == "reward_model"
    for model, is_scorer in ((recipe.model, scores), (recipe.value_model, True)):
        if model:
            with quiet_libraries():
                config = load_config(resolve(model.source))
                counts = count_parameters(model, config, scores=is_scorer)
            size += checkpoint_bytes(model, *counts)
    return size


def longest_answer(examples: Examples) -> int:
    """A model that imitates has no reason to answer longer than it was shown."""
    return examples.longest_trained + 8


# For people, and for a manifest.


def described(found: Prompts | Examples) -> str:
    """How many there are, and what became of the other rows, for people."""
    if isinstance(found, Prompts):
        text = f"{len(found.prompts):,} prompts"
    else:
        kind = "pairs" if len(found.items[0]) == 2 else "examples"
        text = f"{len(found.items):,} {kind}"
    notes = [reasons(found.sources)] if any(tally.dropped for tally in found.sources) else []
    truncated = sum(tally.truncated for tally in found.sources)
    if truncated:
        notes.insert(0, f"{truncated:,} cut at max_tokens")
    return f"{text} ({'; '.join(notes)})" if notes else text


def per_source(sources: Sequence[Source], tallies: Sequence[Tally]) -> list[str]:
    """A line for each source of a mixture; none where there is nothing to tell apart."""
    if len(sources) == 1 and tallies[0].taken == tallies[0].rows:
        return []
    total = sum(tally.tokens for tally in tallies)
    return [
        f"{source.name or source.path}: {tally.taken:,} taken of {tally.rows:,} rows, "
        f"{tally.kept:,} kept, {tally.tokens:,} tokens ({tally.tokens / total:.1%})"
        for source, tally in zip(sources, tallies, strict=True)
    ]


def fingerprint(source: Source) -> dict[str, Any]:
    path, known = local_file(source), dataclasses.asdict(source)
    if path is not None and path.is_file():
        known["sha256"] = sha256_of(path)
    return known
