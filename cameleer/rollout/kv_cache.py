"""Keys and values of sequences in flight, in slots, and the attention over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cameleer.models.attention import Packed, has_flash


class KVCache:
    """A fixed number of slots of fixed length, allocated once for each layer.

    Active sequences always fill the first slots, so that attention reads them without a copy.
    """

    def __init__(self, num_slots: int, length: int) -> None:
        self.num_slots = num_slots
        self.length = length
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, index: int, key_NHD: Tensor, value_NHD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, [slots, length, heads, width], made like the first seen."""
        if index not in self._layers:
            self._layers[index] = tuple(  # type: ignore[assignment]
                x.new_zeros(self.num_slots, self.length, *x.shape[1:]) for x in (key_NHD, value_NHD)
            )
        return self._layers[index]

    def copy(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Give each target slot the first `length` positions of its source."""
        read = write = None
        for keys, values in self._layers.values():
            if read is None or write is None:
                read, write = (torch.tensor(x, device=keys.device) for x in (sources, targets))
            for kept in (keys, values):
                # Rows are read before any is written: a target may be another's source.
                kept[write, :length] = kept[read, :length]

    @property
    def is_filled(self) -> bool:
        """True once the layers' tensors exist."""
        return bool(self._layers)

    def first_positions(self, num_slots: int) -> list[tuple[Tensor, Tensor]]:
        """A copy of what the first slots hold at position 0, layer by layer."""
        return [(k[:num_slots, 0].clone(), v[:num_slots, 0].clone()) for k, v in self._in_order()]

    def restore_first_positions(self, kept: list[tuple[Tensor, Tensor]]) -> None:
        """Put back what `first_positions` copied."""
        for (keys, values), (first_keys, first_values) in zip(self._in_order(), kept, strict=True):
            keys[: len(first_keys), 0] = first_keys
            values[: len(first_values), 0] = first_values

    def _in_order(self) -> list[tuple[Tensor, Tensor]]:
        return [self._layers[index] for index in sorted(self._layers)]


class Prefill(Packed):
    """Packed attention over prompts that also leaves their keys and values in slots."""

    def __init__(
        self, cache: KVCache, slots: Sequence[int], lengths: Sequence[int], device: torch.device
    ) -> None:
        super().__init__(lengths, device)
        self._cache = cache
        counts = torch.tensor(lengths)
        self._slot_N = torch.repeat_interleave(torch.tensor(slots), counts).to(device)
        self._position_N = torch.cat([torch.arange(n) for n in lengths]).to(device)

    def attend(
        self, layer: int, query_NHD: Tensor, key_NHD: Tensor, value_NHD: Tensor, scale: float
    ) -> Tensor:
        keys, values = self._cache.layer(layer, key_NHD, value_NHD)
        keys[self._slot_N, self._position_N] = key_NHD
        values[self._slot_N, self._position_N] = value_NHD
        return super().attend(layer, query_NHD, key_NHD, value_NHD, scale)


class Extend:
    """More tokens for slots that hold the beginning of their prompts already."""

    def __init__(
        self,
        cache: KVCache,
        slots: Sequence[int],
        held: Sequence[int],
        lengths: Sequence[int],
        device: torch.device,
    ) -> None:
        """
        Args:
            slots: Which slots go on; they lie side by side.
            held: Positions that each holds.
            lengths: Tokens that each gets.
        """
        assert list(slots) == list(range(slots[0], slots[0] + len(slots)))
        self._cache, self._slots, self._held, self._lengths = cache, slots, held, lengths
        self._slot_N = torch.repeat_interleave(torch.tensor(slots), torch.tensor(lengths)).to(
            device
        )
        spans = zip(held, lengths, strict=True)
        self.position_N = torch.cat([torch.arange(h, h + n) for h, n in spans]).to(device)
        self.longest = max(h + n for h, n in zip(held, lengths, strict=True))
        self._masks: dict[tuple[int, int], Tensor] = {}
        # For the varlen kernel: where the rows of each slot begin, and how many keys it has.
        counts = torch.tensor([0, *lengths], dtype=torch.int32)
        self._first_query = counts.cumsum(0, dtype=torch.int32).to(device)
        self._first_key = torch.arange(len(slots) + 1, dtype=torch.int32).to(device) * cache.length
        self._num_keys = (torch.tensor(held, dtype=torch.int32) + counts[1:]).to(device)

    def attend(
        self, layer: int, query_NHD: Tensor, key_NHD: Tensor, value_NHD: Tensor, scale: float
    ) -> Tensor:
        keys, values = self._cache.layer(layer, key_NHD, value_NHD)
        keys[self._slot_N, self.position_N] = key_NHD
        values[self._slot_N, self.position_N] = value_NHD
        if has_flash(query_NHD):
            return self._flash(query_NHD, keys, values, scale)
        outs = []
        parts = query_NHD.split(list(self._lengths))
        for slot, held, query in zip(self._slots, self._held, parts, strict=True):
            key, value = (
                x[slot, : held + len(query)].transpose(0, 1)[None] for x in (keys, values)
            )
            out = scaled_dot_product_attention(
                query.transpose(0, 1)[None],
                key,
                value,
                attn_mask=self._mask(held, len(query), query.device),
                scale=scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
            outs.append(out[0].transpose(0, 1))
        return torch.cat(outs)

    def _flash(self, query_NHD: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        # With fewer queries than keys, causal means that the last of both stand together.
        places = slice(self._slots[0], self._slots[0] + len(self._slots))
        found: Tensor = torch.ops.aten._flash_attention_forward(
            query_NHD.contiguous(),
            keys[places].flatten(0, 1),
            values[places].flatten(0, 1),
            self._first_query,
            self._first_key,
            max(self._lengths),
            self._cache.length,
            0.0,
            True,
            False,
            scale=scale,
            seqused_k=self._num_keys,
        )[0]
        return found

    def _mask(self, held: int, count: int, device: torch.device) -> Tensor:
        """True where a token may look: at what is held, and at the new ones up to itself."""
        if (held, count) not in self._masks:
            row = torch.arange(held, held + count, device=device)[:, None]
            self._masks[held, count] = torch.arange(held + count, device=device) <= row
        return self._masks[held, count]


class Decode:
    """One new token for each of the first slots, attending to all that its slot holds."""

    def __init__(self, cache: KVCache, position_S: Tensor, longest: int) -> None:
        """
        Args:
            position_S: Tokens that each slot holds, which is where its new one goes. The tensor is
                read at every call, so that a captured graph can be replayed at other positions.
            longest: Keys that the longest slot will hold, the new one included.
        """
        self._cache = cache
        self.longest = longest
        self._position_S = position_S
        device, num_slots = position_S.device, len(position_S)
        self._place_S = torch.arange(num_slots, device=device) * cache.length + position_S
        column = torch.arange(longest, device=device)
        self._mask = (column <= position_S[:, None])[:, None, None]
        # For the varlen kernel: where the rows of each slot begin, in queries and in keys.
        self._first_S = torch.arange(num_slots + 1, dtype=torch.int32, device=device)

    def attend(
        self, layer: int, query_NHD: Tensor, key_NHD: Tensor, value_NHD: Tensor, scale: float
    ) -> Tensor:
        keys, values = self._cache.layer(layer, key_NHD, value_NHD)
        for kept, new in ((keys, key_NHD), (values, value_NHD)):
            kept.view(-1, *new.shape[1:]).index_copy_(0, self._place_S, new)
        if has_flash(query_NHD):
            return self._flash(query_NHD, keys, values, scale)
        num_slots, num_heads, width = query_NHD.shape
        # The query heads that share a key head see the same keys: they become rows of one query.
        query = query_NHD.reshape(num_slots, keys.shape[2], -1, width)
        out = scaled_dot_product_attention(
            query,
            keys[:num_slots, : self.longest].transpose(1, 2),
            values[:num_slots, : self.longest].transpose(1, 2),
            attn_mask=self._mask,
            scale=scale,
        )
        return out.reshape(num_slots, num_heads, -1)

    def _flash(self, query_NHD: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Flash attention that reads of each slot what it holds and no more (`seqused_k`)."""
        num_slots, num_heads, width = query_NHD.shape
        num_keys, shared = keys.shape[2], num_heads // keys.shape[2]
        query = query_NHD.view(num_slots, num_keys, shared, width).transpose(1, 2)
        out = torch.ops.aten._flash_attention_forward(
            query.reshape(num_slots * shared, num_keys, width),
            keys.view(-1, num_keys, width)[: num_slots * self._cache.length],
            values.view(-1, num_keys, width)[: num_slots * self._cache.length],
            self._first_S * shared,
            self._first_S * self._cache.length,
            shared,
            self._cache.length,
            0.0,
            False,
            False,
            scale=scale,
            seqused_k=(self._position_S + 1).to(torch.int32),
        )[0]
        found: Tensor = out.view(num_slots, shared, num_keys, width).transpose(1, 2)
        return found.reshape(num_slots, num_heads, width)
