"""Drawing tokens: counter-based noise, inverted through the distribution in a fixed order."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

_BLOCK = 128
"""Tokens summed at a time: the inversion first finds a block, then a token in it."""


def noise(seed: int, step: int, prompt_id: str, sample: int, count: int) -> np.ndarray:
    """The uniforms of a completion's first `count` positions, in [0, 1), float64.

    Philox (Salmon et al. 2011) is counter-based: position i does not depend on `count`.
    """
    key = hashlib.blake2b(f"{seed}/{step}/{prompt_id}/{sample}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    return generator.random(count)


def sample_tokens(logits_SV: Tensor, uniform_S: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse-CDF samples of softmax(logits), and their log-probabilities.

    Args:
        logits_SV: Float32, already divided by the temperature.
        uniform_S: One number in [0, 1) a row, float64.

    Returns:
        Token ids [S] and log p [S], float32, over the full vocabulary.
    """
    size = logits_SV.shape[1]
    padding = -size % _BLOCK
    peak_S = logits_SV.amax(-1)
    mass = (logits_SV - peak_S[:, None]).exp_()
    if padding:
        mass = torch.nn.functional.pad(mass, (0, padding))
    blocks = mass.view(len(mass), -1, _BLOCK)
    # Float64 sums: float32 could not tell the rare tokens at the far end apart.
    cumulative = blocks.sum(-1).double().cumsum(-1)
    total_S = cumulative[:, -1]
    target_S = uniform_S * total_S
    block_S = torch.searchsorted(cumulative, target_S[:, None], right=True).squeeze(1)
    block_S = block_S.clamp(max=cumulative.shape[1] - 1)
    before_S = torch.where(
        block_S > 0, cumulative.gather(1, (block_S - 1).clamp(min=0)[:, None]).squeeze(1), 0.0
    )
    inside = blocks[torch.arange(len(mass), device=mass.device), block_S].double()
    # The block's sum was rounded to float32, the sums inside are not. As a share of its block the
    # target is in range of both, and a rare token behind a likely one keeps its place.
    inside_sums = inside.cumsum(-1)
    ends_S = cumulative.gather(1, block_S[:, None]).squeeze(1)
    share_S = (target_S - before_S) / (ends_S - before_S)
    within_S = torch.searchsorted(
        inside_sums, (share_S * inside_sums[:, -1])[:, None], right=True
    ).squeeze(1)
    # Logits that are not numbers lead past the vocabulary: their log-probability will tell.
    token_S = (block_S * _BLOCK + within_S).clamp_(max=size - 1)
    logprob_S = logits_SV.gather(1, token_S[:, None]).squeeze(1) - peak_S - total_S.log().float()
    return token_S, logprob_S


def greedy_tokens(logits_SV: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token of each row and its log-probability."""
    logprob_S, token_S = logits_SV.log_softmax(-1).max(-1)
    return token_S, logprob_S
