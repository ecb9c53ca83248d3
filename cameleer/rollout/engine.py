"""What the loops ask of an engine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from cameleer.errors import RecipeError
from cameleer.types import Completion
from cameleer.user_files import find


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to continue a prompt."""

    max_tokens: int
    """Longest completion, its end-of-sequence token included."""
    temperature: float = 1.0
    """Divides the logits. 0 is greedy; log-probabilities are then those at temperature 1."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion. They stay in it, as does the token that completed them."""


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to sample. Siblings share prompt and id and differ in `sample`."""

    prompt_id: str
    tokens: tuple[int, ...]
    sample: int = 0
    max_tokens: int | None = None
    """Ends this completion before the sampling's limit does."""
    stop: tuple[str, ...] = ()
    """Strings that end this completion besides the sampling's."""


@runtime_checkable
class RolloutEngine(Protocol):
    """Samples completions with the newest weights it was given."""

    version: int
    """Optimizer steps behind those weights."""

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        seed: int,
        step: int,
        done: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        """One completion for each request, in their order.

        `done` is given a request's place and its completion as soon as it ends.

        The noise of a token is a function of (seed, step, prompt id, sample, position) alone, so
        neither batch nor order changes what is sampled, beyond the rounding of logits.
        """

    def load(self, version: int) -> None:
        """From now on the learner's weights of this version answer."""

    def release(self) -> None:
        """Give back the memory that only generating needs, until it generates again."""


def engine_class(reference: str) -> Callable[..., Any]:
    """The class that ``rollout.engine`` names. Raises RecipeError where it cannot be called so."""
    try:
        kind = find(reference)
    except RecipeError as error:
        raise RecipeError(f"rollout.engine names {reference}: {error}") from error
    if not callable(kind):
        raise RecipeError(
            f"rollout.engine names {reference}, which is no class. Name a `RolloutEngine`, as "
            "module:class or file.py:CLASS."
        )
    try:
        inspect.signature(kind).bind("model", "tokenizer", num_slots=1)
    except TypeError as error:
        raise RecipeError(
            f"rollout.engine names {reference}, which takes other arguments than (model, "
            f"tokenizer, num_slots=…): {error}."
        ) from error
    return kind  # type: ignore[no-any-return]


def make_engine(reference: str, model: Any, tokenizer: Any, *, num_slots: int) -> RolloutEngine:
    """The engine that ``rollout.engine`` names, for the learner's model.

    Raises RecipeError where what is made is no `RolloutEngine`.
    """
    engine = engine_class(reference)(model, tokenizer, num_slots=num_slots)
    if not isinstance(engine, RolloutEngine):
        lacks = [x for x in ("version", "generate", "load", "release") if not hasattr(engine, x)]
        raise RecipeError(
            f"rollout.engine names {reference}, which is no RolloutEngine: it has no "
            f"{', '.join(lacks)}. See cameleer.rollout.engine."
        )
    return engine
