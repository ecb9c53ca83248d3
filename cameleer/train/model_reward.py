"""A trained reward model's part of the reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from cameleer.batch import Batch
from cameleer.models.heads import forward_scores
from cameleer.models.load import weights_hash
from cameleer.recipe import RewardTerm
from cameleer.train import ranks
from cameleer.train.torch_learner import micro_batches
from cameleer.types import Group


class ModelReward:
    """Scores prompts with completions; frozen."""

    def __init__(self, term: RewardTerm, model: Any, micro_batch_tokens: int) -> None:
        self._term, self._model = term, model
        self._micro_batch_tokens = micro_batch_tokens
        self.hash = weights_hash(model)

    @torch.no_grad()
    def add(
        self, batch: Batch, groups: Sequence[Group], without_eos: float | None
    ) -> tuple[Batch, dict[str, float]]:
        """The batch with `weight` times the score added to its rewards, and the mean score.

        A completion that met its limit keeps the reward `without_eos` alone, unless that is None.
        """
        assert batch.rewards_B is not None
        device = next(self._model.parameters()).device
        scores_B = torch.zeros(batch.num_sequences)
        for rows in micro_batches(batch, self._micro_batch_tokens):
            scores_B[rows] = forward_scores(self._model, batch.select(rows).to(device)).cpu()
        ranks.sum_tensor(scores_B)
        counts_B = torch.tensor(
            [
                without_eos is None or completion.finish_reason == "eos"
                for group in groups
                for completion in group.completions
            ]
        )
        rewards_B = batch.rewards_B + self._term.weight * scores_B * counts_B
        return replace(batch, rewards_B=rewards_B), {"reward/model": float(scores_B.mean())}
