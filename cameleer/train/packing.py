"""From examples to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from cameleer.batch import Batch
from cameleer.data.prompts import Example


def pack(items: Sequence[tuple[Example, ...]]) -> Batch:
    """Examples, or the two of each pair, end to end."""
    examples = [example for item in items for example in item]
    batch = Batch(
        tokens_N=torch.tensor([t for e in examples for t in e.tokens]),
        lengths_B=torch.tensor([len(e.tokens) for e in examples]),
        mask_N=torch.tensor([m for e in examples for m in e.mask]),
    )
    if all(len(item) == 1 for item in items):
        return batch
    return replace(
        batch,
        pair_B=torch.arange(len(items)).repeat_interleave(2),
        chosen_B=torch.tensor([True, False]).repeat(len(items)),
    )
