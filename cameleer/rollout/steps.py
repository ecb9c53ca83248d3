"""One more token for every slot: eagerly, as a CUDA graph, or with weights packed for a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cameleer.models.attention import packed_hidden
from cameleer.models.logprobs import scaled_logits
from cameleer.rollout.kv_cache import Decode, KVCache
from cameleer.rollout.sampling import greedy_tokens, sample_tokens

_WORTH_PACKING = 1 << 22
"""Weights below which a step is not bound by its matrix products."""


class Step:
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


class CapturedStep(Step):
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


class PackedStep(Step):
    """The same on a CPU, with weights in the layout in which MKL multiplies few rows fastest.

    Packing costs the time of a few steps and as much memory as the weights. A layout serves one
    number of rows, so the rows of free slots compute along. The modules have packed weights for the
    time of a step only: whatever fails, nobody else meets weights that have changed since.
    """

    def __init__(
        self, model: nn.Module, cache: KVCache, temperature: float, num_slots: int
    ) -> None:
        super().__init__(model, cache, temperature)
        self.num_slots = num_slots
        self._forwards = [
            (module, _packed(module.weight, module.bias, num_slots))
            for module in _linear_layers(model)
        ]

    @staticmethod
    def can_run(model: nn.Module) -> bool:
        """True for a float32 model on a CPU that is worth it, where torch has MKL."""
        weights = [module.weight for module in _linear_layers(model)]
        return (
            hasattr(torch.ops.mkl, "_mkl_linear")
            and all(w.device.type == "cpu" and w.dtype == torch.float32 for w in weights)
            and sum(w.numel() for w in weights) >= _WORTH_PACKING
        )

    def __call__(
        self, token_S: np.ndarray, position_S: np.ndarray, uniform_S: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        count = len(token_S)
        rows = (np.pad(x, (0, self.num_slots - count)) for x in (token_S, position_S, uniform_S))
        try:
            for module, forward in self._forwards:
                # An attribute of the instance stands before the method of its class.
                module.__dict__["forward"] = forward
            token, logprob = super().__call__(*rows)
        finally:
            for module, _ in self._forwards:
                module.__dict__.pop("forward", None)
        return token[:count], logprob[:count]


def _linear_layers(model: nn.Module) -> list[nn.Linear]:
    """Those that are no more than a matrix product: no subclass, and no `forward` of their own.

    Without the factors of LoRA, which are so narrow that packed they take longer.
    """
    return [
        module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and "forward" not in vars(module) and ".lora_" not in name
    ]


def _packed(weight: Tensor, bias: Tensor | None, num_rows: int) -> Callable[[Tensor], Tensor]:
    weight = weight.detach()
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, num_rows)

    def forward(rows: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkl._mkl_linear(rows, packed, weight, bias, num_rows)
        return found

    return forward
