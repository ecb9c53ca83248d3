"""What the runner asks of a model, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol, runtime_checkable

from cameleer.errors import ModelError
from cameleer.evals.base import Instance
from cameleer.types import FinishReason


@dataclass(frozen=True, slots=True)
class Question:
    """One answer to generate: the instance, and which of its samples."""

    instance: Instance
    sample: int
    max_tokens: int
    stop: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, cut before its first stop string."""

    text: str
    num_tokens: int
    """Tokens generated, those of a stop string included."""
    finish_reason: FinishReason
    """`length` is a truncated answer."""


@runtime_checkable
class Model(Protocol):
    """Something that answers: a checkpoint in this process, or an endpoint."""

    name: str
    """A directory, hub id or model name, for people."""
    context: int | None
    """Tokens of prompt and answer together, where somebody says."""

    def identity(self) -> dict[str, Any]:
        """What tells this model from another, such as a hash of its weights. Stored, compared."""

    def prompt(self, instance: Instance) -> tuple[str, int | None]:
        """The prompt as the model reads it, and its length in tokens where it can be known.

        Raises ModelError where the model cannot read it: messages without a chat template.
        """

    def generate(
        self,
        questions: Sequence[Question],
        done: Callable[[int, Answer], None],
        *,
        temperature: float,
        seed: int,
    ) -> None:
        """Answer all questions, in any order; `done` gets each one's index once it is answered.

        Raises ModelError where some cannot be answered; those that were stay with `done`.
        """

    def loglikelihoods(
        self, instances: Sequence[Instance], done: Callable[[int, list[float]], None]
    ) -> None:
        """For each instance, the summed log-probability of each of its choices after its prompt,
        in nats; `done` gets them with the instance's index.

        Raises ModelError where they cannot be had.
        """


def num_shared(one: Sequence[object], other: Sequence[object]) -> int:
    """Tokens, or characters, that both begin with."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def unpredicted(instance: Instance) -> ModelError:
    """Why a choice after an empty prompt has no log-probability."""
    return ModelError(
        f"The prompt of {instance.id} has no tokens, so nothing predicts the first of a choice. "
        "Render it with a chat template, or begin it with a BOS token."
    )
