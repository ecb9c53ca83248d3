"""Objectives: pure functions of tensors. They import torch and `batch` only."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from cameleer.batch import Batch, Loss, Output


@runtime_checkable
class Algorithm(Protocol):
    """What the loops ask of an objective."""

    @property
    def learns_from(self) -> Literal["conversations", "pairs", "rollouts"]:
        """What the recipe's data and loop have to bring."""

    @property
    def trains(self) -> Literal["policy", "reward_model"]:
        """A language model, whose ``logprobs_N`` the loss reads, or a model of one number, whose
        ``scores_B`` it reads."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Scores that the loop must put into the batch first, of "old", "reference" and "value"."""

    def advantages(self, batch: Batch) -> Batch:
        """The batch with what the loss compares; objectives without advantages return it as is."""

    def loss(self, batch: Batch, output: Output) -> Loss:
        """The unreduced loss, with gradient through `output`."""


@runtime_checkable
class ActorCritic(Algorithm, Protocol):
    """An objective that also trains a value model: it `needs` "value"."""

    def value_loss(self, batch: Batch, output: Output) -> Loss:
        """The unreduced loss of the value model, with gradient through ``output.values_N``."""
