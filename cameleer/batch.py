"""The tensors of a run.

Nothing is padded: a batch is one row of tokens with the lengths of its sequences.
Shape letters, used as suffixes of tensor names (``logprobs_N``):

    N  tokens of all sequences, end to end      B  sequences
    P  prompts of a step, hence groups          G  completions sampled for one prompt
    V  vocabulary                               D  model width
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sequences to learn from. The first three fields are the core; an algorithm adds its own.

    ``x_N[i]`` belongs to predicting token i. The first token of a sequence is predicted by
    nothing: it holds 0 and is never masked in.
    """

    tokens_N: Tensor
    """Prompt and completion of each sequence, end to end."""
    lengths_B: Tensor
    """Tokens of each sequence; they sum to N."""
    mask_N: Tensor
    """True on the tokens to learn from: those the policy sampled, or an assistant's turns."""

    group_B: Tensor | None = None
    """Which prompt of the step a sequence answers, 0 to P - 1. Groups may differ in size."""
    rewards_B: Tensor | None = None
    """What the recipe's `Reward` made of the verifiers' scores."""
    scored_B: Tensor | None = None
    """False where no verdict was reached: such a completion teaches nothing, and is not a 0."""
    truncated_B: Tensor | None = None
    """True where a completion met its limit of tokens before it ended."""
    left_out_B: Tensor | None = None
    """True where an algorithm is not to learn from a completion though it has a verdict."""
    sampler_logprobs_N: Tensor | None = None
    """log p(token | tokens before it), in nats, as the engine sampled it."""
    version_N: Tensor | None = None
    """Optimizer steps behind the weights that sampled the token; 0 off the mask."""
    old_logprobs_N: Tensor | None = None
    """The learner's log-probabilities under the policy that the step began with."""
    reference_logprobs_N: Tensor | None = None
    """The same under the frozen reference policy."""
    advantages_N: Tensor | None = None
    """Zero off the mask."""
    values_N: Tensor | None = None
    """What the value model expected of the tokens before, as the step began: V(t_<i)."""
    returns_N: Tensor | None = None
    """What the value model is to learn to expect. Zero off the mask."""
    pair_B: Tensor | None = None
    """Which preference pair a sequence belongs to. The two of a pair share a micro-batch."""
    chosen_B: Tensor | None = None
    """True for the preferred sequence of each pair."""
    weights_N: Tensor | None = None
    """The recipe's `normalize`: what each token's loss counts in the minibatch."""
    weights_B: Tensor | None = None
    """What a loss a sequence or pair counts there; that of a pair stands at its chosen one."""

    @property
    def num_sequences(self) -> int:
        return len(self.lengths_B)

    @property
    def learned_N(self) -> Tensor:
        """The mask without completions that have no verdict or are left out: what counts."""
        learned_N = self.mask_N
        if self.scored_B is not None:
            learned_N = learned_N & self.per_token(self.scored_B)
        if self.left_out_B is not None:
            learned_N = learned_N & ~self.per_token(self.left_out_B)
        return learned_N

    def per_token(self, values_B: Tensor) -> Tensor:
        """One number a sequence, repeated on each of its tokens: [B] -> [N]."""
        return torch.repeat_interleave(values_B, self.lengths_B)

    def per_sequence(self, values_N: Tensor) -> Tensor:
        """Sum over the tokens of each sequence: [N] -> [B]."""
        # In order, unlike index_add on CUDA. `unsafe` only skips a check of the lengths.
        found: Tensor = torch.segment_reduce(values_N, "sum", lengths=self.lengths_B, unsafe=True)
        return found

    def group_sum(self, values_B: Tensor) -> Tensor:
        """Sum over the scored siblings of each group: [B] -> [P]."""
        assert self.group_B is not None and self.scored_B is not None
        num_groups = int(self.group_B.max()) + 1
        return values_B.new_zeros(num_groups).index_add(0, self.group_B, values_B * self.scored_B)

    @property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """Indices of the chosen sequences and of the rejected ones, pair by pair."""
        assert self.pair_B is not None and self.chosen_B is not None
        order = torch.argsort(2 * self.pair_B + (~self.chosen_B).long(), stable=True).view(-1, 2)
        return order[:, 0], order[:, 1]

    def select(self, rows: Tensor) -> Batch:
        """The sequences with these indices, in this order."""
        places = self.places(rows)
        return self._map(lambda name, x: x[places if name.endswith("_N") else rows])

    def places(self, rows: Tensor) -> Tensor:
        """Where the tokens of these sequences stand in the row, in this order."""
        starts_B = self.lengths_B.cumsum(0) - self.lengths_B
        lengths = self.lengths_B[rows]
        # Token i of a selected sequence sits at the sequence's start plus i.
        ends = lengths.cumsum(0)
        within = torch.arange(int(lengths.sum()), device=lengths.device)
        within = within - torch.repeat_interleave(ends - lengths, lengths)
        return torch.repeat_interleave(starts_B[rows], lengths) + within

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self._map(lambda _, x: x.to(device))

    def _map(self, change: Callable[[str, Tensor], Tensor]) -> Batch:
        present = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {
            k: None if x is None else change(k, x) for k, x in present.items()
        }
        return Batch(**changed)


class Output(NamedTuple):
    """What a forward pass of the learner gives back."""

    logprobs_N: Tensor
    """log p of each masked token at the recipe's temperature, float32; 0 off the mask."""
    entropy_N: Tensor | None = None
    """Entropy of the distribution each masked token was drawn from, in nats. No gradient."""
    scores_B: Tensor | None = None
    """A reward model's score of each sequence, float32."""
    values_N: Tensor | None = None
    """A value model's V(t_<i) of each masked token, float32; 0 off the mask."""


class Loss(NamedTuple):
    """Unreduced: the learner weighs the values by the recipe's `normalize`."""

    values: Tensor
    """Shape N for a loss a token, else B; that of a pair stands at its chosen sequence."""
    per: Literal["token", "sequence", "pair"]
    metrics_N: Mapping[str, Tensor] = MappingProxyType({})
    """Diagnostics a token, reported as their mean over the tokens learned from."""
    metrics_B: Mapping[str, Tensor] = MappingProxyType({})
    """Diagnostics a sequence or pair, reported as their mean over those."""
