"""The in-process engine: the learner's own module, sampled with continuous batching.

No copy of the weights exists, so there is nothing to synchronise, but for the packed ones of a CPU.
Prompts shared by siblings are computed once and their keys copied, as is the long beginning that
prompts have in common (few-shot examples); a finished sequence gives its slot to the next request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cameleer.errors import TrainingError
from cameleer.models.attention import packed_hidden, positions
from cameleer.models.fuse import unfused
from cameleer.rollout.engine import Request, Sampling
from cameleer.rollout.kv_cache import Extend, KVCache, Prefill
from cameleer.rollout.sampling import noise
from cameleer.rollout.steps import CapturedStep, PackedStep, Step
from cameleer.types import Completion, FinishReason

_STOP_WINDOW = 16
"""Tokens decoded to look for a stop string, beyond one a character of the longest of them."""
_SHARED = 64
"""Tokens that two prompts have to begin with alike for the second to start from the first's keys.
"""
_WORTH_PACKING = 32
"""Tokens a completion may have, below which packing weights does not pay."""


class TorchEngine:
    """Samples from a transformers decoder that lives in this process."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        num_slots: int = 64,
        prefill_tokens: int = 4096,
    ) -> None:
        """
        Args:
            num_slots: Sequences decoded together.
            prefill_tokens: Prompt tokens put through one forward; a longer prompt goes alone.
        """
        self.version = 0
        self._model = model
        self._tokenizer = tokenizer
        self._num_slots = num_slots
        self._prefill_tokens = prefill_tokens
        self._cache: KVCache | None = None
        self._steps: dict[tuple[int, float], CapturedStep] = {}
        self._addresses: tuple[int, ...] = ()
        self._pieces: list[str] = []

    def load(self, version: int) -> None:
        self.version = version

    def release(self) -> None:
        self._cache, self._steps = None, {}

    @torch.no_grad()
    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        seed: int,
        step: int,
        done: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        if not requests:
            return []
        _check(requests, sampling)
        addresses = tuple(parameter.data_ptr() for parameter in self._model.parameters())
        if addresses != self._addresses:
            # A graph reads the addresses that it was captured with.
            self._steps, self._addresses = {}, addresses
        training = self._model.training
        self._model.eval()
        try:
            with unfused():
                return _Generation(self, requests, sampling, seed, step, done).run()
        finally:
            self._model.train(training)

    def cache_for(self, length: int) -> KVCache:
        """The slots, made anew only when they are too short."""
        if self._cache is None or self._cache.length < length:
            self._cache, self._steps = None, {}  # Before the new one takes its memory.
            self._cache = KVCache(self._num_slots, length)
        return self._cache

    def captured_step(self, num_active: int, temperature: float) -> CapturedStep:
        """The graph that decodes a token for so many slots."""
        assert self._cache is not None
        # A power of two, so that few graphs are captured; the rows beyond compute for nobody.
        num_slots = min(self._num_slots, max(16, 1 << (num_active - 1).bit_length()))
        key = (num_slots, temperature)
        if key not in self._steps:
            # A pool dies with its last graph, so it is one of those that are there.
            pool = next((s.pool for s in self._steps.values()), None)
            step = CapturedStep(self._model, self._cache, temperature, num_slots, pool)
            self._steps[key] = step
        return self._steps[key]

    def may_end(self, stop: tuple[str, ...]) -> np.ndarray:
        """For each token of the vocabulary, whether one of these strings could end in it. [V]."""
        size = len(self._model.get_output_embeddings().weight)  # type: ignore[operator]
        last = {each[-1] for each in stop}
        # Any other character may be spread over tokens, or be dropped from the end of one.
        if not all(character.isascii() and character != " " for character in last):
            return np.ones(size, dtype=bool)
        if not self._pieces and last:
            self._pieces = [
                self._tokenizer.decode([token], skip_special_tokens=True) for token in range(size)
            ]
        return np.array([bool(last.intersection(piece)) for piece in self._pieces or [""] * size])


class _New(NamedTuple):
    """A request about to get a slot."""

    request: int
    source: int
    """Slot whose keys it begins with."""
    shared: int
    """How many of them."""


class _Generation:
    """One call of `generate`. Row i of the arrays below is what slot i holds."""

    def __init__(
        self,
        engine: TorchEngine,
        requests: Sequence[Request],
        sampling: Sampling,
        seed: int,
        step: int,
        done: Callable[[int, Completion], None] | None,
    ) -> None:
        self._engine = engine
        self._model = engine._model
        self._tokenizer = engine._tokenizer
        self._device = next(self._model.parameters()).device
        self._requests, self._sampling = requests, sampling
        self._seed, self._step = seed, step
        self._tell = done
        self._limits = [_limit(request, sampling) for request in requests]
        self._cache = engine.cache_for(
            max(len(r.tokens) + n for r, n in zip(requests, self._limits, strict=True))
        )
        self._eager = Step(self._model, self._cache, sampling.temperature)
        self._packed: PackedStep | None = None
        self._packs = PackedStep.can_run(self._model) and max(self._limits) >= _WORTH_PACKING
        stops = list(dict.fromkeys((*sampling.stop, *r.stop) for r in requests))
        self._stops = {stop: number for number, stop in enumerate(stops)}
        self._may_end_KV = np.stack([engine.may_end(stop) for stop in stops])
        num_slots, longest = self._cache.num_slots, max(self._limits)
        self._num_active = 0
        self._index_S = np.zeros(num_slots, dtype=np.int64)
        self._prompt_S = np.zeros(num_slots, dtype=np.int64)
        """Tokens of the prompt."""
        self._count_S = np.zeros(num_slots, dtype=np.int64)
        """Tokens sampled so far. Keys are in the slot for all but the newest."""
        self._limit_S = np.zeros(num_slots, dtype=np.int64)
        self._stop_S = np.zeros(num_slots, dtype=np.int64)
        """Which of the stops are this slot's."""
        self._token_SM = np.zeros((num_slots, longest), dtype=np.int64)
        self._logprob_SM = np.zeros((num_slots, longest), dtype=np.float32)
        self._noise_SM = np.zeros((num_slots, longest), dtype=np.float64)
        self._hidden: list[Tensor | None] = [None] * num_slots
        """What predicts a slot's first token; siblings admitted later start from it."""
        self._waiting = deque(range(len(requests)))
        self._done: dict[int, Completion] = {}

    def run(self) -> list[Completion]:
        while self._waiting or self._num_active:
            self._admit()
            if self._num_active:
                self._decode()
        return [self._done[i] for i in range(len(self._requests))]

    def _admit(self) -> None:
        """Fill the free slots, computing each new prompt once."""
        num_slots = self._cache.num_slots
        # A forward for a prompt or two costs a GPU as much as for dozens: wait for a few slots.
        if num_slots - self._num_active < min(len(self._waiting), 1 + num_slots // 16):
            return
        while self._waiting and self._num_active < num_slots:
            first = self._num_active
            batch, copies = self._next_batch()
            if batch:
                for new, hidden in zip(batch, self._prefill(batch, first), strict=True):
                    self._start(new.request, hidden)
            if copies:
                targets = range(self._num_active, self._num_active + len(copies))
                longest = max(len(self._requests[i].tokens) for i, _ in copies)
                self._cache.copy([source for _, source in copies], list(targets), longest)
                for index, source in copies:
                    self._start(index, self._hidden[source])
            started = slice(first, self._num_active)
            hidden_SD = torch.stack([h for h in self._hidden[started] if h is not None])
            uniform_S = torch.from_numpy(self._noise_SM[started, 0]).to(self._device)
            token_S, logprob_S = self._eager.sample(hidden_SD, uniform_S)
            self._extend(first, token_S.cpu().numpy(), logprob_S.cpu().numpy())

    def _next_batch(self) -> tuple[list[_New], list[tuple[int, int]]]:
        """Requests for one forward, and those that copy a whole prompt, with the slot to copy."""
        first = self._num_active
        slots = {self._requests[self._index_S[slot]].tokens: slot for slot in range(first)}
        families = {tokens[:_SHARED]: slot for tokens, slot in slots.items()}
        batch: list[_New] = []
        copies: list[tuple[int, int]] = []
        num_tokens = 0
        while self._waiting and first + len(batch) + len(copies) < self._cache.num_slots:
            index = self._waiting[0]
            tokens = self._requests[index].tokens
            if tokens in slots:
                copies.append((self._waiting.popleft(), slots[tokens]))
                continue
            relative = families.get(tokens[:_SHARED]) if len(tokens) > _SHARED else None
            if relative is not None and relative >= first:
                break  # It can start from that one's keys once they are there.
            new = _New(index, 0, 0)
            if relative is not None:
                others = self._requests[self._index_S[relative]].tokens
                new = _New(index, relative, _common(tokens, others))
            cost = len(tokens) - new.shared
            if batch and (
                num_tokens + cost > self._engine._prefill_tokens
                or (new.shared > 0) != (batch[0].shared > 0)
            ):
                break
            slot = first + len(batch)
            slots[tokens] = slot
            if relative is None:
                families[tokens[:_SHARED]] = slot
            batch.append(new)
            num_tokens += cost
            self._waiting.popleft()
        return batch, copies

    def _prefill(self, batch: Sequence[_New], first_slot: int) -> Tensor:
        """Run prompts through the model into slots. Returns the last hidden state of each."""
        slots = list(range(first_slot, first_slot + len(batch)))
        rest = [self._requests[new.request].tokens[new.shared :] for new in batch]
        lengths = [len(tokens) for tokens in rest]
        tokens_N = torch.tensor([t for tokens in rest for t in tokens], device=self._device)
        position_N = positions(lengths, self._device)
        layout: Prefill | Extend = Prefill(self._cache, slots, lengths, self._device)
        if batch[0].shared:
            shared = [new.shared for new in batch]
            self._cache.copy([new.source for new in batch], slots, max(shared))
            layout = Extend(self._cache, slots, shared, lengths, self._device)
            position_N = layout.position_N
        hidden_ND = packed_hidden(self._model, tokens_N, position_N, layout)
        return hidden_ND[torch.tensor(lengths, device=self._device).cumsum(0) - 1]

    def _start(self, index: int, prompt_hidden_D: Tensor | None) -> None:
        request, slot = self._requests[index], self._num_active
        self._index_S[slot], self._prompt_S[slot] = index, len(request.tokens)
        self._count_S[slot], self._limit_S[slot] = 0, self._limits[index]
        self._stop_S[slot] = self._stops[(*self._sampling.stop, *request.stop)]
        self._noise_SM[slot] = noise(
            self._seed, self._step, request.prompt_id, request.sample, self._noise_SM.shape[1]
        )
        self._hidden[slot] = prompt_hidden_D
        self._num_active += 1

    def _decode(self) -> None:
        """One more token for every active sequence."""
        active, rows = self._num_active, np.arange(self._num_active)
        count_S = self._count_S[:active]
        step = self._next_step()
        self._extend(
            0,
            *step(
                self._token_SM[rows, count_S - 1],
                self._prompt_S[:active] + count_S - 1,
                self._noise_SM[rows, count_S],
            ),
        )

    def _next_step(self) -> Step:
        """What decodes a token for the active slots."""
        if self._device.type == "cuda":
            return self._engine.captured_step(self._num_active, self._sampling.temperature)
        num_slots = self._cache.num_slots
        if not self._waiting:  # Else the slots that are free now and then are filled again.
            num_slots = min(_rows_for(self._num_active), num_slots)
        if not self._packs or num_slots < _FEWEST_ROWS:
            return self._eager
        if self._packed is None or self._packed.num_slots != num_slots:
            self._packed = None  # Before the new one takes its memory.
            self._packed = PackedStep(
                self._model, self._cache, self._sampling.temperature, num_slots
            )
        return self._packed

    def _extend(self, first: int, token_S: np.ndarray, logprob_S: np.ndarray) -> None:
        """Append a token to the active slots from `first` on; retire those that end."""
        if np.isnan(logprob_S).any():
            raise TrainingError(
                f"The policy's logits are not numbers after {self._engine.version} updates, so "
                "nothing can be sampled. Lower the learning rate, or resume from an earlier "
                "checkpoint."
            )
        rows = np.arange(first, self._num_active)
        self._token_SM[rows, self._count_S[rows]] = token_S
        self._logprob_SM[rows, self._count_S[rows]] = logprob_S
        self._count_S[rows] += 1
        ends = (token_S == self._tokenizer.eos_token_id) | (
            self._count_S[rows] >= self._limit_S[rows]
        )
        for place in np.flatnonzero(self._may_end_KV[self._stop_S[rows], token_S]):
            ends[place] |= self._meets_stop(int(rows[place]))
        ended = rows[ends].tolist()
        for slot in ended:
            index, completion = int(self._index_S[slot]), self._completion(slot)
            self._done[index] = completion
            if self._tell is not None:
                self._tell(index, completion)
        if ended:
            self._retire(ended)

    def _meets_stop(self, slot: int) -> bool:
        stops = self._stops_of(slot)
        window = _STOP_WINDOW + max(len(s) for s in stops)
        count = self._count_S[slot]
        newest = self._token_SM[slot, max(0, count - window) : count].tolist()
        tail = self._tokenizer.decode(newest, skip_special_tokens=True)
        return any(stop in tail for stop in stops)

    def _stops_of(self, slot: int) -> tuple[str, ...]:
        return (*self._sampling.stop, *self._requests[self._index_S[slot]].stop)

    def _retire(self, ended: Sequence[int]) -> None:
        """Free slots, moving the last active sequences into them."""
        left = self._num_active - len(ended)
        gone = set(ended)
        moved = [slot for slot in range(left, self._num_active) if slot not in gone]
        free = [slot for slot in ended if slot < left]
        self._num_active = left
        if not moved:
            return
        self._cache.copy(moved, free, int((self._prompt_S[moved] + self._count_S[moved]).max()))
        for array in (
            self._index_S,
            self._prompt_S,
            self._count_S,
            self._limit_S,
            self._stop_S,
            self._token_SM,
            self._logprob_SM,
            self._noise_SM,
        ):
            array[free] = array[moved]
        for source, target in zip(moved, free, strict=True):
            self._hidden[target] = self._hidden[source]

    def _completion(self, slot: int) -> Completion:
        count = int(self._count_S[slot])
        tokens = self._token_SM[slot, :count].tolist()
        reason: FinishReason = "length"
        if tokens[-1] == self._tokenizer.eos_token_id:
            reason = "eos"
        elif self._stops_of(slot) and self._meets_stop(slot):
            reason = "stop"
        return Completion(
            tokens=tuple(tokens),
            text=self._tokenizer.decode(tokens, skip_special_tokens=True),
            logprobs=tuple(self._logprob_SM[slot, :count].tolist()),
            finish_reason=reason,
            version=self._engine.version,
        )


def _check(requests: Sequence[Request], sampling: Sampling) -> None:
    for request in requests:
        if not request.tokens:
            raise ValueError(
                f"The prompt {request.prompt_id} has no tokens, so nothing predicts its first. "
                "Render it with a chat template, or begin it with a BOS token."
            )
        if (limit := _limit(request, sampling)) < 1:
            raise ValueError(
                f"The prompt {request.prompt_id} is to be answered in {limit} tokens. A completion "
                "has one or more: raise max_tokens."
            )
        if "" in (*sampling.stop, *request.stop):
            raise ValueError(
                f"A stop string of the prompt {request.prompt_id} is empty, which every text "
                "holds. Leave it out."
            )


def _limit(request: Request, sampling: Sampling) -> int:
    """Tokens that a completion may have."""
    own = sampling.max_tokens if request.max_tokens is None else request.max_tokens
    return min(own, sampling.max_tokens)


_FEWEST_ROWS = 8
"""Fewer rows are bound by reading the weights, however they lie."""


def _rows_for(num_active: int) -> int:
    """8, 12, 16, 24, 32, 48, …: rows to pack for. Few, for packing takes time, yet never twice."""
    size = _FEWEST_ROWS
    while size < num_active:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return size


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Tokens that both begin with, all but the last of `one` at most."""
    length = min(len(one) - 1, len(other))
    return next((i for i in range(length) if one[i] != other[i]), length)
