"""Formulas that several objectives share."""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from torch import Tensor

from cameleer.batch import Batch

KLEstimator = Literal["k1", "k2", "k3", "k4"]


def kl_estimate(estimator: KLEstimator, log_ratio_N: Tensor, ratio_to_old_N: Tensor) -> Tensor:
    """One-sample estimates of KL(policy || reference) a token, in nats.

    With d = log policy - log reference, held within 40 nats so that no exponential overflows:
    k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d (http://joschu.net/blog/kl-approx.html), and
    k4 = ratio * d, where ratio is policy over the policy that sampled. k1 and k3 have the right
    mean under the sampling policy; only k2 and k3 are never negative. The four are those of the
    code that trained Tulu 3.1 (allenai/open-instruct@3f37c29d), which used k3.

    Args:
        log_ratio_N: log policy - log reference, with gradient.
        ratio_to_old_N: policy / old policy, with gradient; only k4 reads it.
    """
    d_N = log_ratio_N.clamp(-40.0, 40.0)
    match estimator:
        case "k1":
            return d_N
        case "k2":
            return d_N.square() / 2
        case "k3":
            return (-d_N).expm1() + d_N
        case "k4":
            return ratio_to_old_N * d_N
    assert_never(estimator)


def completion_means(batch: Batch, values_N: Tensor) -> Tensor:
    """Mean over the masked tokens of each sequence, 0 where there are none: [N] -> [B]."""
    num_tokens_B = batch.per_sequence(batch.mask_N.to(values_N.dtype))
    return batch.per_sequence(values_N * batch.mask_N) / num_tokens_B.clamp(min=1)


def whiten(values_N: Tensor, counted_N: Tensor) -> Tensor:
    """Values with mean 0 and variance 1 where they are counted, 0 elsewhere.

    The variance is Bessel-corrected, and 1e-8 is added to it under the root, as in the PPO code
    that trained Tulu 3.
    """
    counted = values_N[counted_N]
    centered_N = torch.where(counted_N, values_N - counted.mean(), 0.0)
    variance = centered_N.square().sum() / max(len(counted) - 1, 1)
    return centered_N * torch.rsqrt(variance + 1e-8)


def at_chosen(batch: Batch, values: Tensor) -> Tensor:
    """One number a pair, at the chosen sequence of each and 0 at the rejected one: shape B."""
    chosen, _ = batch.pairs
    return values.new_zeros(batch.num_sequences).index_add(0, chosen, values)


def pair_metrics(batch: Batch, rewards_B: Tensor) -> dict[str, Tensor]:
    """How the two sequences of each pair are rewarded, standing at the chosen one.

    Args:
        rewards_B: Without gradient. A tie counts as wrong.
    """
    chosen, rejected = (rewards_B[rows] for rows in batch.pairs)
    found = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).to(rewards_B.dtype),
    }
    return {name: at_chosen(batch, values) for name, values in found.items()}
