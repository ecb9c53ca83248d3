"""How a minibatch's losses become one number: a weight for each value, before any split.

The learner only sums ``values * weights``, so neither micro-batches nor ranks can change the
objective. The rules, by the name a recipe writes:

    token            1 / tokens learned from in the minibatch: every token counts the same
    sequence         mean over each completion, then over completions: every answer counts the same
    constant(L)      1 / (completions * L): Dr. GRPO (arXiv:2503.20783), unbiased by length
    sum              1 / completions: what Tulu 3's SFT computed after accumulation over ranks
    micro_batch(m)   sequences drawn m at a time, token mean in each draw, mean over draws: what the
                     published Tulu 3.1 run computed with m = 2
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from cameleer.batch import Batch

NAMES = ("token", "sequence", "constant", "sum", "micro_batch")
_TAKES_A_NUMBER = ("constant", "micro_batch")


@dataclass(frozen=True)
class Normalize:
    """A rule and its number, parsed from ``token`` or ``micro_batch(2)``."""

    rule: str
    number: int = 0

    @classmethod
    def parse(cls, text: str) -> Normalize:
        """Raises ValueError, with the rules there are, if the text names none of them."""
        match = re.fullmatch(r"(\w+)(?:\((\d+)\))?", text.strip())
        rule, number = (match[1], int(match[2] or 0)) if match else ("", 0)
        if rule not in NAMES or (rule in _TAKES_A_NUMBER) != (number > 0):
            raise ValueError(
                f"normalize is {text!r}, and has to be one of token, sequence, sum, constant(L) "
                "with L tokens, micro_batch(m) with m sequences."
            )
        return cls(rule, number)

    def weights(self, batch: Batch, *, seed: int = 0) -> Tensor:
        """The weight of each token of the minibatch, over all ranks. Shape N, float32.

        Zero off the mask and on completions without a verdict, which no denominator counts.

        Args:
            seed: Draws the order of `micro_batch`.
        """
        learned_N = batch.learned_N
        tokens_B = batch.per_sequence(learned_N.to(torch.float32))
        has_tokens_B = tokens_B > 0
        num_sequences = int(has_tokens_B.sum())
        if num_sequences == 0:
            return torch.zeros_like(learned_N, dtype=torch.float32)
        match self.rule:
            case "token":
                weight_B = torch.full_like(tokens_B, 1.0) / tokens_B.sum()
            case "sequence":
                weight_B = 1.0 / (tokens_B.clamp(min=1) * num_sequences)
            case "constant":
                weight_B = torch.full_like(tokens_B, 1.0 / (num_sequences * self.number))
            case "sum":
                weight_B = torch.full_like(tokens_B, 1.0 / num_sequences)
            case _:
                weight_B = _drawn_in_lots(tokens_B, has_tokens_B, self.number, seed)
        return batch.per_token(weight_B) * learned_N


def sequence_weights(batch: Batch) -> Tensor:
    """For losses a sequence or pair, the mean over them: what each counts. Shape B, float32."""
    counted_B = torch.ones_like(batch.lengths_B, dtype=torch.float32)
    if batch.chosen_B is not None:
        counted_B = batch.chosen_B.to(torch.float32)
    return counted_B / counted_B.sum()


def _drawn_in_lots(tokens_B: Tensor, has_tokens_B: Tensor, size: int, seed: int) -> Tensor:
    rows = has_tokens_B.nonzero().flatten()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    lots = rows[order.to(rows.device)].split(size)
    weight_B = torch.zeros_like(tokens_B)
    for lot in lots:
        weight_B[lot] = 1.0 / (tokens_B[lot].sum() * len(lots))
    return weight_B
