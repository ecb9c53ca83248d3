"""Attention of ours, registered with transformers under the name ``cameleer``.

A model whose config names it is called with one row of tokens and a `Layout`, which says how the
row splits into sequences and where keys and values lie. The layout travels as a keyword of the
forward call, so activation checkpointing replays it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "cameleer"

_HARMLESS = {"position_ids", "cache_position", "use_cache", "is_causal", "output_attentions"}
"""Keywords that modules pass down and that change nothing here."""


class Layout(Protocol):
    """How one row of N tokens is attended to."""

    longest: int
    """Keys that the longest sequence of the row can see."""

    def attend(
        self, layer: int, query_NHD: Tensor, key_NHD: Tensor, value_NHD: Tensor, scale: float
    ) -> Tensor:
        """Causal attention within each sequence: [N, heads, head width] of each, the same out."""


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    *,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: [1, heads, N, head width] of each in, [1, N, heads, …] out."""
    if layout is None:
        raise ValueError("Cameleer's attention was called without a layout; use `packed_hidden`.")
    if attention_mask is not None or query.shape[0] != 1:
        raise ValueError(
            "Cameleer's attention takes one packed row and no mask, and was given a batch of "
            f"{query.shape[0]} rows or a mask. Pass a layout with the lengths instead."
        )
    unknown = sorted(k for k, v in other.items() if v is not None and k not in _HARMLESS)
    if unknown or dropout:
        raise NotImplementedError(
            f"{type(module).__name__} asks for {', '.join(unknown) or 'attention dropout'}, which "
            "Cameleer's attention does not have: its numbers would be another model's."
        )
    if sliding_window is not None and layout.longest > sliding_window:
        raise NotImplementedError(
            f"A sequence of {layout.longest} tokens exceeds this model's sliding window of "
            f"{sliding_window}, which is not implemented. Shorten prompts or max_tokens."
        )
    layer: Any = module.layer_idx
    query_NHD, key_NHD, value_NHD = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    return layout.attend(layer, query_NHD, key_NHD, value_NHD, scaling).unsqueeze(0), None


AttentionInterface.register(NAME, _attention)


def has_flash(query_NHD: Tensor) -> bool:
    """True where torch's own flash attention takes these heads: bfloat16 on CUDA."""
    width = query_NHD.shape[-1]
    return (
        query_NHD.is_cuda
        and query_NHD.dtype in (torch.bfloat16, torch.float16)
        and width <= 256
        and width % 8 == 0
    )


class Packed:
    """Sequences end to end, each attending to itself.

    On CUDA in bfloat16 torch's varlen flash attention reads the row as it is. Elsewhere, for
    attention alone, sequences are grouped into rectangles whose shortest member is at least three
    quarters of the longest. Past a sequence's end a rectangle repeats its last token: causal
    attention never lets a real token see it. Matrix products see no padding at all.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.longest = max(lengths)
        self._lengths = lengths
        self._device = device
        # Where each sequence begins, and the end of the row, for flash attention. Made here and not
        # when first asked for: that would be in a compiled layer, hence in every one.
        ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        self._ends = ends.to(device)

    def attend(
        self, layer: int, query_NHD: Tensor, key_NHD: Tensor, value_NHD: Tensor, scale: float
    ) -> Tensor:
        if has_flash(query_NHD):
            return self._flash(query_NHD, key_NHD, value_NHD, scale)
        buckets, home_N = self._rectangles
        outs = []
        for rows in buckets:
            query, key, value = (
                x.index_select(0, rows.flatten()).view(*rows.shape, *x.shape[1:]).transpose(1, 2)
                for x in (query_NHD, key_NHD, value_NHD)
            )
            out = scaled_dot_product_attention(
                query,
                key,
                value,
                is_causal=True,
                scale=scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
            outs.append(out.transpose(1, 2).flatten(0, 1))
        return torch.cat(outs).index_select(0, home_N)

    def _flash(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        # The operator below `varlen_attn`, which in torch 2.11 knows no grouped heads.
        found: Tensor = torch.ops.aten._flash_attention_forward(
            query.contiguous(),
            key.contiguous(),
            value.contiguous(),
            self._ends,
            self._ends,
            self.longest,
            self.longest,
            0.0,
            True,
            False,
            scale=scale,
        )[0]
        return found

    @functools.cached_property
    def _rectangles(self) -> tuple[list[Tensor], Tensor]:
        """Positions in the row, [sequences, longest] each, and where each token lands in them."""
        lengths = self._lengths
        starts = torch.tensor([0, *lengths]).cumsum(0)
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        buckets: list[Tensor] = []
        home_N = torch.empty(int(starts[-1]), dtype=torch.long)
        filled = 0
        while order:
            longest = lengths[order[0]]
            size = sum(1 for i in order if lengths[i] * 4 >= longest * 3)
            members, order = order[:size], order[size:]
            length_b = torch.tensor([lengths[i] for i in members])[:, None]
            column = torch.arange(longest)[None, :]
            rows = starts[members][:, None] + column.minimum(length_b - 1)
            real = column < length_b
            home_N[rows[real]] = filled + torch.arange(rows.numel()).view_as(rows)[real]
            filled += rows.numel()
            buckets.append(rows.to(self._device))
        return buckets, home_N.to(self._device)


def positions(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """0, 1, 2, … within each sequence. Shape N."""
    return torch.cat([torch.arange(n) for n in lengths]).to(device)


def packed_hidden(
    model: nn.Module, tokens_N: Tensor, positions_N: Tensor, layout: Layout
) -> Tensor:
    """The decoder's last hidden states, before the output head. [N] -> [N, D]."""
    body = model.base_model
    output = body(  # type: ignore[operator]
        input_ids=tokens_N[None], position_ids=positions_N[None], use_cache=False, layout=layout
    )
    hidden: Tensor = output.last_hidden_state
    return hidden[0]
