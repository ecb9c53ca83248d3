"""The in-process engine: the learner's own module, sampled with continuous batching.

No copy of the weights exists, so there is nothing to synchronise. Prompts shared by siblings are
computed once and their keys copied; a finished sequence gives its slot to the next request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cameleer.errors import TrainingError
from cameleer.models.attention import packed_hidden, positions
from cameleer.models.logprobs import scaled_logits
from cameleer.rollout.engine import Request, Sampling
from cameleer.rollout.kv_cache import Decode, KVCache, Prefill
from cameleer.rollout.sampling import greedy_tokens, noise, sample_tokens
from cameleer.types import Completion, FinishReason

_STOP_WINDOW = 16
"""Tokens decoded to look for a stop string, beyond one a character of the longest of them."""


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
        self._steps: dict[tuple[int, float], _CapturedStep] = {}
        self._addresses: tuple[int, ...] = ()

    def load(self, version: int) -> None:
        self.version = version

    @torch.no_grad()
    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, seed: int, step: int
    ) -> list[Completion]:
        if not requests:
            return []
        for request in requests:
            if not request.tokens:
                raise ValueError(
                    f"The prompt {request.prompt_id} has no tokens, so nothing predicts its first. "
                    "Render it with a chat template, or begin it with a BOS token."
                )
        addresses = tuple(parameter.data_ptr() for parameter in self._model.parameters())
        if addresses != self._addresses:
            # A graph reads the addresses that it was captured with.
            self._steps, self._addresses = {}, addresses
        training = self._model.training
        self._model.eval()
        try:
            return _Generation(self, requests, sampling, seed, step).run()
        finally:
            self._model.train(training)

    def cache_for(self, length: int) -> KVCache:
        """The slots, made anew only when they are too short."""
        if self._cache is None or self._cache.length < length:
            self._cache, self._steps = None, {}  # Before the new one takes its memory.
            self._cache = KVCache(self._num_slots, length)
        return self._cache

    def step_for(self, num_active: int, temperature: float) -> _Step:
        """What decodes a token for so many slots: a captured graph where there can be one."""
        assert self._cache is not None
        if not next(self._model.parameters()).is_cuda:
            return _Step(self._model, self._cache, temperature)
        # A power of two, so that few graphs are captured; the rows beyond compute for nobody.
        num_slots = min(self._num_slots, max(16, 1 << (num_active - 1).bit_length()))
        key = (num_slots, temperature)
        if key not in self._steps:
            # A pool dies with its last graph, so it is one of those that are there.
            pool = next((s.pool for s in self._steps.values()), None)
            step = _CapturedStep(self._model, self._cache, temperature, num_slots, pool)
            self._steps[key] = step
        return self._steps[key]


class _Step:
    """One more token for the first slots: forward, output head, sampling."""

    def __init__(self, model: nn.Module, cache: KVCache, temperature: float) -> None:
        self._model, self._cache, self._temperature = model, cache, temperature
        self._head = model.get_output_embeddings()  # type: ignore[operator]
        self._device = next(model.parameters()).device

    def __call__(
        self, token_S: np.ndarray, position_S: np.ndarray, uniform_S: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The newest token of each slot, where it stands, and its noise to the next and log p."""
        inputs = (torch.from_numpy(x).to(self._device) for x in (token_S, position_S, uniform_S))
        token, logprob = self._forward(*inputs, longest=int(position_S.max()) + 1)
        return token.cpu().numpy(), logprob.cpu().numpy()

    def sample(self, hidden_SD: Tensor, uniform_S: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that these hidden states predict, and their log-probabilities."""
        logits_SV = scaled_logits(hidden_SD, self._head, self._temperature or 1.0)
        if self._temperature == 0:
            return greedy_tokens(logits_SV)
        return sample_tokens(logits_SV, uniform_S)

    def _forward(
        self, token_S: Tensor, position_S: Tensor, uniform_S: Tensor, *, longest: int
    ) -> tuple[Tensor, Tensor]:
        layout = Decode(self._cache, position_S, longest)
        return self.sample(packed_hidden(self._model, token_S, position_S, layout), uniform_S)


class _CapturedStep(_Step):
    """The same as one CUDA graph: launching its hundreds of kernels one by one takes longer.

    A graph holds addresses. Weights change in place only, and a new cache drops its graphs. They
    share one pool of memory, since no two run at once and each is read before the next one runs.
    """

    def __init__(
        self, model: nn.Module, cache: KVCache, temperature: float, num_slots: int, pool: Any
    ) -> None:
        super().__init__(model, cache, temperature)
        self._token_S = torch.zeros(num_slots, dtype=torch.long, device=self._device)
        self._position_S = torch.zeros_like(self._token_S)
        self._uniform_S = torch.zeros(num_slots, dtype=torch.float64, device=self._device)
        inputs = (self._token_S, self._position_S, self._uniform_S)
        # Warming up writes at position 0 of active slots too: what they hold there is put back.
        kept = cache.first_positions(num_slots)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._forward(*inputs, longest=cache.length)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._out = self._forward(*inputs, longest=cache.length)
        self.pool = self._graph.pool()
        cache.restore_first_positions(kept)

    def __call__(
        self, token_S: np.ndarray, position_S: np.ndarray, uniform_S: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        count = len(token_S)
        self._position_S[count:] = 0  # Slots that nobody reads compute along.
        for static, given in (
            (self._token_S, token_S),
            (self._position_S, position_S),
            (self._uniform_S, uniform_S),
        ):
            static[:count] = torch.from_numpy(given).to(self._device)
        self._graph.replay()
        token, logprob = self._out
        return token[:count].cpu().numpy(), logprob[:count].cpu().numpy()


class _Generation:
    """One call of `generate`. Row i of the arrays below is what slot i holds."""

    def __init__(
        self,
        engine: TorchEngine,
        requests: Sequence[Request],
        sampling: Sampling,
        seed: int,
        step: int,
    ) -> None:
        self._engine = engine
        self._model = engine._model
        self._tokenizer = engine._tokenizer
        self._device = next(self._model.parameters()).device
        self._requests, self._sampling = requests, sampling
        self._seed, self._step = seed, step
        self._cache = engine.cache_for(max(len(r.tokens) for r in requests) + sampling.max_tokens)
        self._eager = _Step(self._model, self._cache, sampling.temperature)
        num_slots, longest = self._cache.num_slots, sampling.max_tokens
        self._num_active = 0
        self._index_S = np.zeros(num_slots, dtype=np.int64)
        self._prompt_S = np.zeros(num_slots, dtype=np.int64)
        """Tokens of the prompt."""
        self._count_S = np.zeros(num_slots, dtype=np.int64)
        """Tokens sampled so far. Keys are in the slot for all but the newest."""
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
            leaders = {self._requests[self._index_S[s]].tokens: s for s in range(first)}
            batch: list[int] = []
            copies: list[int] = []
            num_tokens = 0
            while self._waiting and first + len(batch) + len(copies) < num_slots:
                request = self._requests[self._waiting[0]]
                if request.tokens in leaders:
                    copies.append(self._waiting.popleft())
                    continue
                if batch and num_tokens + len(request.tokens) > self._engine._prefill_tokens:
                    break
                leaders[request.tokens] = first + len(batch)
                num_tokens += len(request.tokens)
                batch.append(self._waiting.popleft())
            if batch:
                hiddens = self._prefill([self._requests[i] for i in batch], first)
                for index, hidden in zip(batch, hiddens, strict=True):
                    self._start(index, hidden)
            if copies:
                sources = [leaders[self._requests[i].tokens] for i in copies]
                targets = range(self._num_active, self._num_active + len(copies))
                longest = max(len(self._requests[i].tokens) for i in copies)
                self._cache.copy(sources, list(targets), longest)
                for index, source in zip(copies, sources, strict=True):
                    self._start(index, self._hidden[source])
            started = slice(first, self._num_active)
            hidden_SD = torch.stack([h for h in self._hidden[started] if h is not None])
            uniform_S = torch.from_numpy(self._noise_SM[started, 0]).to(self._device)
            token_S, logprob_S = self._eager.sample(hidden_SD, uniform_S)
            self._extend(first, token_S.cpu().numpy(), logprob_S.cpu().numpy())

    def _prefill(self, requests: Sequence[Request], first_slot: int) -> Tensor:
        """Run prompts through the model into slots. Returns the last hidden state of each."""
        lengths = [len(r.tokens) for r in requests]
        slots = range(first_slot, first_slot + len(requests))
        layout = Prefill(self._cache, list(slots), lengths, self._device)
        tokens_N = torch.tensor([t for r in requests for t in r.tokens], device=self._device)
        hidden_ND = packed_hidden(self._model, tokens_N, positions(lengths, self._device), layout)
        return hidden_ND[torch.tensor(lengths, device=self._device).cumsum(0) - 1]

    def _start(self, index: int, prompt_hidden_D: Tensor | None) -> None:
        request, slot = self._requests[index], self._num_active
        self._index_S[slot], self._prompt_S[slot] = index, len(request.tokens)
        self._count_S[slot] = 0
        self._noise_SM[slot] = noise(
            self._seed, self._step, request.prompt_id, request.sample, self._sampling.max_tokens
        )
        self._hidden[slot] = prompt_hidden_D
        self._num_active += 1

    def _decode(self) -> None:
        """One more token for every active sequence."""
        active, rows = self._num_active, np.arange(self._num_active)
        count_S = self._count_S[:active]
        step = self._engine.step_for(active, self._sampling.temperature)
        self._extend(
            0,
            *step(
                self._token_SM[rows, count_S - 1],
                self._prompt_S[:active] + count_S - 1,
                self._noise_SM[rows, count_S],
            ),
        )

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
            self._count_S[rows] >= self._sampling.max_tokens
        )
        if self._sampling.stop:
            ends |= np.array([self._meets_stop(slot) for slot in rows.tolist()])
        ended = rows[ends].tolist()
        for slot in ended:
            self._done[int(self._index_S[slot])] = self._completion(slot)
        if ended:
            self._retire(ended)

    def _meets_stop(self, slot: int) -> bool:
        window = _STOP_WINDOW + max(len(s) for s in self._sampling.stop)
        count = self._count_S[slot]
        newest = self._token_SM[slot, max(0, count - window) : count].tolist()
        tail = self._tokenizer.decode(newest, skip_special_tokens=True)
        return any(stop in tail for stop in self._sampling.stop)

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
        elif self._sampling.stop and self._meets_stop(slot):
            reason = "stop"
        return Completion(
            tokens=tuple(tokens),
            text=self._tokenizer.decode(tokens, skip_special_tokens=True),
            logprobs=tuple(self._logprob_SM[slot, :count].tolist()),
            finish_reason=reason,
            version=self._engine.version,
        )
