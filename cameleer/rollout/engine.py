"""What the loops ask of an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cameleer.types import Completion


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
