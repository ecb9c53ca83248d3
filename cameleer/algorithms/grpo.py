"""Group relative policy optimization (Shao et al. 2024, arXiv:2402.03300, eq. 3 and 4).

Sample G completions of a prompt and compare each with its siblings: the advantage of a completion
is how far its reward lies above the mean of its group. There is no value model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from cameleer.algorithms.functional import KLEstimator, kl_estimate
from cameleer.batch import Batch, Loss, Output


@dataclass(frozen=True, kw_only=True)
class GRPO:
    """Group-relative advantages, clipped ratio, KL penalty in the loss."""

    clip_eps: float = 0.2
    """The ratio of new to old probability is held within ``[1 - clip_eps, 1 + clip_eps]``."""
    beta: float = 0.01
    """Weight of the KL penalty to the reference policy. At 0 no reference model is loaded."""
    kl_estimator: KLEstimator = "k3"
    """How KL(policy || reference) is estimated from one sample a token; see `kl_estimate`."""
    scale_by_std: bool = True
    """Divide advantages by the group's standard deviation. Dr. GRPO (arXiv:2503.20783) does not."""

    std_floor: ClassVar[float] = 1e-8
    learns_from: ClassVar[Literal["rollouts"]] = "rollouts"

    @property
    def needs(self) -> tuple[str, ...]:
        """The scores that the loop must put into the batch before `advantages`."""
        return ("old", "reference") if self.beta else ("old",)

    def advantages(self, batch: Batch) -> Batch:
        """Compare each completion with its scored siblings.

        Returns:
            The batch with ``advantages_N``: one number a completion, repeated on its sampled
            tokens. Zero where all scored siblings have equal rewards, where fewer than two are
            scored, and for a completion that is not scored.
        """
        assert batch.rewards_B is not None and batch.scored_B is not None
        assert batch.group_B is not None, "the loop assembles groups before it asks for advantages"
        scored_B = batch.scored_B.to(batch.rewards_B.dtype)
        count_P = batch.group_sum(scored_B)
        mean_P = batch.group_sum(batch.rewards_B) / count_P.clamp(min=1)
        centered_B = (batch.rewards_B - mean_P[batch.group_B]) * scored_B
        if self.scale_by_std:
            # Bessel-corrected, as in the code that trained Tulu 3.1.
            variance_P = batch.group_sum(centered_B.square()) / (count_P - 1).clamp(min=1)
            centered_B = centered_B / (variance_P.sqrt()[batch.group_B] + self.std_floor)
        # The mean of equal rewards can be off by a rounding, which the floor would blow up to O(1).
        centered_B = centered_B * self._has_contrast(batch)
        return replace(batch, advantages_N=batch.per_token(centered_B) * batch.mask_N)

    def loss(self, batch: Batch, output: Output) -> Loss:
        """Clipped policy gradient, plus ``beta`` times the estimate of KL(policy || reference).

        Without ``old_logprobs_N`` the step has one update: the old policy is the current one.
        """
        advantages_N, old_N = batch.advantages_N, batch.old_logprobs_N
        assert advantages_N is not None, "the loop asks for advantages first"
        if old_N is None:
            old_N = output.logprobs_N.detach()

        ratio_N = (output.logprobs_N - old_N).exp()
        clipped_N = ratio_N.clamp(1 - self.clip_eps, 1 + self.clip_eps)
        loss_N = -torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
        metrics_N = {
            "policy/ratio": ratio_N.detach(),
            "policy/clip_fraction": (ratio_N != clipped_N).to(loss_N.dtype),
        }

        if self.beta:
            assert batch.reference_logprobs_N is not None, "the loop fills what `needs` names"
            log_ratio_N = output.logprobs_N - batch.reference_logprobs_N
            kl_N = kl_estimate(self.kl_estimator, log_ratio_N, ratio_N)
            loss_N = loss_N + self.beta * kl_N
            metrics_N["policy/kl"] = kl_N.detach()

        return Loss(values=loss_N, per="token", metrics_N=metrics_N)

    def _has_contrast(self, batch: Batch) -> torch.Tensor:
        """True for sequences whose scored siblings do not all have the same reward. Shape B."""
        assert batch.rewards_B is not None and batch.group_B is not None
        assert batch.scored_B is not None
        num_groups = int(batch.group_B.max()) + 1
        high_P = batch.rewards_B.new_full((num_groups,), -torch.inf)
        low_P = batch.rewards_B.new_full((num_groups,), torch.inf)
        group_B, rewards_B = batch.group_B[batch.scored_B], batch.rewards_B[batch.scored_B]
        high_P = high_P.scatter_reduce(0, group_B, rewards_B, "amax")
        low_P = low_P.scatter_reduce(0, group_B, rewards_B, "amin")
        return (high_P > low_P)[batch.group_B]
