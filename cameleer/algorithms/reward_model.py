"""A reward model from preference pairs: the chosen answer's score is to lie above the other's.

Bradley and Terry 1952, as in Ouyang et al. 2022, arXiv:2203.02155, eq. 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch.nn.functional import logsigmoid

from cameleer.algorithms.functional import at_chosen, pair_metrics
from cameleer.batch import Batch, Loss, Output


@dataclass(frozen=True, kw_only=True)
class RewardModel:
    """``-log sigmoid(r_chosen - r_rejected - margin) + center * (r_chosen + r_rejected)^2`` a pair.

    Tulu 3's reward model had neither margin nor centering. A margin of each pair's own, which
    Llama 2 used, is not covered.
    """

    margin: float = 0.0
    """What the chosen answer's score has to lie above the other's before the loss is log 2."""
    center: float = 0.0
    """Draws scores towards a mean of 0, which the loss alone leaves open (Eisenstein et al. 2023,
    arXiv:2312.09244). TRL's ``center_rewards_coefficient``, for which it recommends 0.01."""

    learns_from: ClassVar[Literal["pairs"]] = "pairs"
    trains: ClassVar[Literal["reward_model"]] = "reward_model"

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def advantages(self, batch: Batch) -> Batch:
        return batch

    def loss(self, batch: Batch, output: Output) -> Loss:
        assert output.scores_B is not None, "the learner scores sequences for a reward model"
        chosen, rejected = (output.scores_B[rows] for rows in batch.pairs)
        loss = -logsigmoid(chosen - rejected - self.margin)
        loss = loss + self.center * (chosen + rejected).square()
        return Loss(
            values=at_chosen(batch, loss),
            per="pair",
            metrics_B=pair_metrics(batch, output.scores_B.detach()),
        )
