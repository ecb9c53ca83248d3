"""What the loops ask of a learner, on one process or many."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from cameleer.batch import Batch


@dataclass
class Sums:
    """Sums of metrics over the values they were taken from, so that parts can be added up."""

    total: dict[str, float] = field(default_factory=dict)
    count: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, total: float, count: float = 1.0) -> None:
        self.total[name] = self.total.get(name, 0.0) + total
        self.count[name] = self.count.get(name, 0.0) + count

    def means(self) -> dict[str, float]:
        """Metrics nothing was counted for are left out."""
        return {k: v / self.count[k] for k, v in self.total.items() if self.count[k]}


@runtime_checkable
class Learner(Protocol):
    """Holds what is trained, its optimizers and the reference. Each rank is given whole batches."""

    version: int
    """Optimizer steps taken."""

    def score(self, name: str, batch: Batch) -> Batch:
        """The batch with the log-probabilities of "old" (this policy now) or of "reference", or
        with the "value" model's values."""

    def rewards(self, batch: Batch) -> Tensor:
        """What the reward model that it trains gives to each sequence, [B]."""

    def forward_backward(self, minibatch: Batch) -> tuple[Sums, Tensor]:
        """Add the gradient of ``sum(loss values * weights)``.

        Returns:
            Metrics over all ranks, and the log-probabilities of the forward, without gradient, [N].
        """

    def step(self) -> dict[str, float]:
        """Clip, update, forget the gradients. Returns gradient norms and learning rates; the norms
        alone, and without an update, where one is not finite."""

    def save(self, directory: Path) -> None:
        """Write the state that `load` continues from, bit for bit, and a Hugging Face export."""

    def load(self, directory: Path) -> None:
        """Continue from what `save` wrote."""

    def identity(self) -> dict[str, Any]:
        """Hashes of the models it began with, for the manifest."""
