"""Supervised fine-tuning: the negative log-likelihood of the assistant's turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cameleer.batch import Batch, Loss, Output


@dataclass(frozen=True)
class SFT:
    """Cross-entropy on masked tokens. How tokens are averaged is the recipe's `normalize`."""

    learns_from: ClassVar[Literal["conversations"]] = "conversations"
    trains: ClassVar[Literal["policy"]] = "policy"

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def advantages(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, output: Output) -> Loss:
        loss_N = -output.logprobs_N
        return Loss(values=loss_N, per="token", metrics_N={"sft/nll": loss_N.detach()})
