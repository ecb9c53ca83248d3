"""Proximal policy optimization (Schulman et al. 2017, arXiv:1707.06347) with a value model.

The rewards of a completion are ``-beta * (log p_old - log p_reference)`` at each sampled token, and
what it earned on top at the last of them. Advantages are generalized advantage estimates (Schulman
et al. 2016, arXiv:1506.02438, eq. 16), with V = 0 after the last token, cut off or not.

The code that trained Tulu 3 (allenai/open-instruct@3f37c29d) pays the reward one slot later, on the
padding behind the end-of-sequence token, and learns that slot's value too. Nothing is padded here:
the last token earns the reward. At gamma 1 advantages are the same if V in that slot is the reward,
or if lam is 1 as well. Its whitening counts the tokens of a rank, ours those of the step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cameleer.algorithms.functional import whiten
from cameleer.batch import Batch, Loss, Output


@dataclass(frozen=True, kw_only=True)
class PPO:
    """Clipped ratio, KL penalty in the reward, and a value model with a loss of its own.

    The defaults are those of Tulu 3 8B (`beta` was 0.05 there and at 405B, 0.07 at 70B).
    """

    clip_eps: float = 0.2
    """The ratio of new to old probability is held within ``[1 - clip_eps, 1 + clip_eps]``."""
    beta: float = 0.05
    """Weight of the KL penalty in the reward. At 0 no reference model is loaded."""
    gamma: float = 1.0
    """What a reward is worth one token earlier."""
    lam: float = 0.95
    """How far advantages trust rewards (1) over the value model (0)."""
    whiten_advantages: bool = True
    """Shift and scale them to mean 0 and variance 1 over the step's learned tokens."""
    value_clip: float | None = 0.2
    """A value gains nothing by moving further than this in a step; None lets it move freely."""
    value_coef: float = 0.1
    """What the value model's loss is multiplied by."""

    learns_from: ClassVar[Literal["rollouts"]] = "rollouts"
    trains: ClassVar[Literal["policy"]] = "policy"

    @property
    def needs(self) -> tuple[str, ...]:
        """Unless `beta` is 0, `advantages` reads "old", also where a step has one update."""
        return ("old", "reference", "value") if self.beta else ("old", "value")

    def advantages(self, batch: Batch) -> Batch:
        """Estimate how much better than expected each sampled token was.

        Returns:
            The batch with ``advantages_N``, and with ``returns_N`` from advantages before they are
            whitened. Both are zero off the mask and for completions that are not scored.
        """
        values_N = batch.values_N
        assert batch.rewards_B is not None and values_N is not None
        # M counts the tokens learned from: a token's successor is the next of those.
        places_M = batch.learned_N.nonzero().squeeze(1)
        sequence_M = batch.per_token(torch.arange(batch.num_sequences, device=values_N.device))
        sequence_M = sequence_M[places_M]
        is_last_M = torch.ones_like(sequence_M, dtype=torch.bool)
        is_last_M[:-1] = sequence_M[:-1] != sequence_M[1:]

        values_M = values_N[places_M]
        rewards_M = torch.where(is_last_M, batch.rewards_B[sequence_M], 0.0)
        if self.beta:
            old_N, reference_N = batch.old_logprobs_N, batch.reference_logprobs_N
            assert old_N is not None and reference_N is not None, "rewards hold the KL penalty"
            rewards_M = rewards_M - self.beta * (old_N - reference_N)[places_M]
        next_values_M = torch.where(is_last_M, 0.0, values_M.roll(-1))
        errors_M = rewards_M + self.gamma * next_values_M - values_M
        advantages_M = discounted_sums(errors_M, sequence_M, self.gamma * self.lam)

        nothing_N = torch.zeros_like(values_N)
        advantages_N = nothing_N.index_copy(0, places_M, advantages_M)
        returns_N = nothing_N.index_copy(0, places_M, advantages_M + values_M)
        if self.whiten_advantages:
            advantages_N = whiten(advantages_N, batch.learned_N)
        return replace(batch, advantages_N=advantages_N, returns_N=returns_N)

    def loss(self, batch: Batch, output: Output) -> Loss:
        """The policy's: clipped policy gradient.

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
        if batch.reference_logprobs_N is not None:
            # k1, as in the reward.
            metrics_N["policy/kl"] = output.logprobs_N.detach() - batch.reference_logprobs_N
        return Loss(values=loss_N, per="token", metrics_N=metrics_N)

    def value_loss(self, batch: Batch, output: Output) -> Loss:
        """The value model's: `value_coef` times half the squared error, or that of the value held
        near the old one where it is larger. Weighed as the policy's is."""
        old_N, returns_N, values_N = batch.values_N, batch.returns_N, output.values_N
        assert old_N is not None and returns_N is not None and values_N is not None
        error_N = (values_N - returns_N).square()
        worse_N = error_N
        if self.value_clip is not None:
            near_N = torch.clamp(values_N, old_N - self.value_clip, old_N + self.value_clip)
            worse_N = torch.maximum(error_N, (near_N - returns_N).square())
        metrics_N = {
            "value/loss": worse_N.detach() / 2,
            "value/mean": values_N.detach(),
            "value/clip_fraction": (worse_N > error_N).to(error_N.dtype),
        }
        return Loss(values=self.value_coef / 2 * worse_N, per="token", metrics_N=metrics_N)


def discounted_sums(values_M: Tensor, sequence_M: Tensor, discount: float) -> Tensor:
    """``x_i + d x_(i+1) + d^2 x_(i+2) + ...`` up to the end of each sequence.

    A pass doubles how many terms each sum holds, so the longest sequence takes log2 of its length.

    Args:
        sequence_M: Which sequence an element belongs to, in order.
    """
    sums_M, reach = values_M.clone(), 1
    while (same_M := sequence_M[reach:] == sequence_M[:-reach]).any():
        later_M = discount**reach * sums_M[reach:]
        sums_M[:-reach] += torch.where(same_M, later_M, 0.0)
        reach *= 2
    return sums_M
