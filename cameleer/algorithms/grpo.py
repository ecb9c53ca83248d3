"""Group relative policy optimization (Shao et al. 2024, arXiv:2402.03300, eq. 3 and 4).

Sample G completions of a prompt and compare each with its siblings: the advantage of a completion
is how far its reward lies above the mean of its group. There is no value model.

The relatives are options, named by what they change. `normalize` is a field of the recipe:

    DAPO (arXiv:2503.14476)        clip_eps_high=0.28, drop_equal_groups=True, beta=0, and a
                                   `Rollout` with max_refills; without its penalty by length
    Dr. GRPO (arXiv:2503.20783)    scale_by_std=False, beta=0; normalize="constant(L)"
    GSPO (arXiv:2507.18071)        ratio="sequence", clip_eps=3e-4, clip_eps_high=4e-4;
                                   normalize="sequence"
    CISPO (arXiv:2506.13585)       surrogate="cispo", beta=0
    RLOO (arXiv:2402.14740)        baseline="leave_one_out", scale_by_std=False; normalize="sum"
    REINFORCE++ (arXiv:2501.03262) baseline="none", whiten_advantages=True
    REINFORCE++ with its baseline  scale_by_std=False, whiten_advantages=True, kl_estimator="k2"

RLOO and the first REINFORCE++ subtract their KL from the reward; here it stays in the loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cameleer.algorithms.functional import KLEstimator, completion_means, kl_estimate, whiten
from cameleer.batch import Batch, Loss, Output


@dataclass(frozen=True, kw_only=True)
class GRPO:
    """Group-relative advantages, clipped ratio, KL penalty in the loss."""

    clip_eps: float = 0.2
    """The ratio of new to old probability is held within ``[1 - clip_eps, 1 + clip_eps]``."""
    clip_eps_high: float | None = None
    """Of the upper end, where it is another (DAPO's clip-higher)."""
    dual_clip: float | None = None
    """Ratios count up to this where the advantage is negative, which `clip_eps` leaves unbounded
    (Ye et al. 2019, arXiv:1912.09729, with 3). Has to lie above the upper end. TRL's ``delta``.
    CISPO does not read it."""
    ratio: Literal["token", "sequence"] = "token"
    """What is compared with the old policy: each token, or the completion's geometric mean over
    its tokens (GSPO), which wants far narrower bounds."""
    surrogate: Literal["clip", "cispo"] = "clip"
    """``clip``: a token beyond the bounds has no gradient. ``cispo``: every token has that of
    log p, times advantage and a ratio that is cut at the upper end only. TRL states that end
    itself, ``1 + clip_eps_high`` here."""
    baseline: Literal["group", "leave_one_out", "none"] = "group"
    """The reward that an advantage is measured from: the mean of the scored siblings, that of the
    others, or 0, where `scale_by_std` is not read."""
    scale_by_std: bool = True
    """Divide advantages by the group's standard deviation."""
    whiten_advantages: bool = False
    """Then shift and scale advantages to mean 0 and variance 1 over the step's learned tokens."""
    drop_equal_groups: bool = False
    """Leave groups whose rewards are all equal out of the KL and of what `normalize` divides by.
    Others are sampled in their stead where the recipe's rollout has `max_refills`."""
    drop_truncated: bool = False
    """Leave completions that met their limit of tokens out likewise (DAPO's overlong filtering).
    Their rewards count in their group's mean."""
    importance_cap: float | None = None
    """Weigh the policy loss of a token by ``min(p_old / p_sampler, importance_cap)``, for an engine
    whose probabilities are not the learner's (truncated importance sampling, Yao et al. 2025,
    https://fengyao.notion.site/off-policy-rl; open-instruct: 2). The KL is not weighed."""
    beta: float = 0.01
    """Weight of the KL penalty to the reference policy. At 0 no reference model is loaded."""
    kl_estimator: KLEstimator = "k3"
    """How KL(policy || reference) is estimated from one sample a token; see `kl_estimate`."""

    std_floor: ClassVar[float] = 1e-8
    learns_from: ClassVar[Literal["rollouts"]] = "rollouts"
    trains: ClassVar[Literal["policy"]] = "policy"

    @property
    def needs(self) -> tuple[str, ...]:
        """The scores that the loop must put into the batch before `advantages`."""
        return ("old", "reference") if self.beta else ("old",)

    def advantages(self, batch: Batch) -> Batch:
        """Compare each completion with its scored siblings.

        Returns:
            The batch with ``advantages_N``: one number a completion, repeated on its sampled
            tokens. With a baseline, zero where all scored siblings have equal rewards and where
            fewer than two are scored (whitening may move such zeros). Always zero for a completion
            that is not scored. Completions to drop are marked in ``left_out_B``.
        """
        batch = replace(batch, left_out_B=self._left_out(batch))
        assert batch.rewards_B is not None and batch.scored_B is not None
        if self.baseline == "none":
            advantages_B = batch.rewards_B * batch.scored_B
        else:
            advantages_B = self._compared(batch)
        advantages_N = batch.per_token(advantages_B) * batch.mask_N
        if self.whiten_advantages:
            advantages_N = whiten(advantages_N, batch.learned_N)
        return replace(batch, advantages_N=advantages_N)

    def loss(self, batch: Batch, output: Output) -> Loss:
        """Clipped policy gradient, plus ``beta`` times the estimate of KL(policy || reference).

        Without ``old_logprobs_N`` the step has one update: the old policy is the current one.
        """
        advantages_N, old_N = batch.advantages_N, batch.old_logprobs_N
        assert advantages_N is not None, "the loop asks for advantages first"
        if old_N is None:
            old_N = output.logprobs_N.detach()

        log_ratio_N = output.logprobs_N - old_N
        if self.ratio == "sequence":
            log_ratio_N = batch.per_token(completion_means(batch, log_ratio_N))
        ratio_N = log_ratio_N.exp()
        high = 1 + (self.clip_eps if self.clip_eps_high is None else self.clip_eps_high)
        if self.surrogate == "cispo":
            clipped_N = ratio_N.clamp(max=high)
            loss_N = -clipped_N.detach() * advantages_N * output.logprobs_N
        else:
            clipped_N = ratio_N.clamp(1 - self.clip_eps, high)
            # Where the advantage is positive, `clipped_N` bounds the ratio from above already.
            counted_N = ratio_N if self.dual_clip is None else ratio_N.clamp(max=self.dual_clip)
            loss_N = -torch.minimum(counted_N * advantages_N, clipped_N * advantages_N)
        metrics_N = {
            "policy/ratio": ratio_N.detach(),
            "policy/clip_fraction": (ratio_N != clipped_N).to(loss_N.dtype),
        }

        if self.importance_cap is not None:
            assert batch.sampler_logprobs_N is not None, "rollouts keep what the engine sampled"
            weight_N = (old_N - batch.sampler_logprobs_N).exp().clamp(max=self.importance_cap)
            loss_N = loss_N * weight_N
            metrics_N["policy/importance_weight"] = weight_N

        if self.beta:
            assert batch.reference_logprobs_N is not None, "the loop fills what `needs` names"
            moved_N = output.logprobs_N - batch.reference_logprobs_N
            kl_N = kl_estimate(self.kl_estimator, moved_N, ratio_N)
            loss_N = loss_N + self.beta * kl_N
            metrics_N["policy/kl"] = kl_N.detach()

        return Loss(values=loss_N, per="token", metrics_N=metrics_N)

    def _compared(self, batch: Batch) -> Tensor:
        """How far each completion's reward lies above that of its siblings. Shape B."""
        assert batch.rewards_B is not None and batch.scored_B is not None
        assert batch.group_B is not None, "the loop assembles groups before it asks for advantages"
        scored_B = batch.scored_B.to(batch.rewards_B.dtype)
        count_P = batch.group_sum(scored_B)
        mean_P = batch.group_sum(batch.rewards_B) / count_P.clamp(min=1)
        centered_B = (batch.rewards_B - mean_P[batch.group_B]) * scored_B
        # Bessel-corrected, as in the code that trained Tulu 3.1.
        others_P = (count_P - 1).clamp(min=1)
        variance_P = batch.group_sum(centered_B.square()) / others_P
        if self.baseline == "leave_one_out":
            # A reward lies n / (n - 1) times as far above the mean of the others as of all n.
            centered_B = centered_B * (count_P / others_P)[batch.group_B]
        if self.scale_by_std:
            centered_B = centered_B / (variance_P.sqrt()[batch.group_B] + self.std_floor)
        # The mean of equal rewards can be off by a rounding, which the floor would blow up to O(1).
        return centered_B * self._has_contrast(batch)

    def _left_out(self, batch: Batch) -> Tensor | None:
        """The completions that the options drop. Shape B."""
        dropped = []
        if self.drop_equal_groups:
            dropped.append(~self._has_contrast(batch))
        if self.drop_truncated:
            assert batch.truncated_B is not None, "rollouts know what was cut off"
            dropped.append(batch.truncated_B)
        return torch.stack(dropped).any(0) if dropped else None

    def _has_contrast(self, batch: Batch) -> Tensor:
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
