"""Layers fused by torch.compile: the same numbers, compiled once, and not what the engine runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_cuda import Silent, batch_of, flash_llama
from torch import Tensor, nn
from torch._dynamo.utils import counters

from cameleer.batch import Batch
from cameleer.models.fuse import fuse_layers, is_fused
from cameleer.models.logprobs import forward_logprobs
from cameleer.models.lora import add_adapter, without_adapter
from cameleer.rollout.engine import Request, Sampling
from cameleer.rollout.torch_engine import TorchEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LENGTHS = [5, 170, 2, 90, 33, 120]


@pytest.fixture(autouse=True)
def _nothing_compiled_yet() -> None:
    torch.compiler.reset()
    counters.clear()


def found(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies, and the gradient of the first."""
    model.zero_grad(set_to_none=True)
    output = forward_logprobs(model, batch.to("cuda"), 0.7)
    output.logprobs_N.sum().backward()
    assert output.entropy_N is not None
    gradients = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
    return output.logprobs_N.detach(), output.entropy_N, torch.cat(gradients)


def adapted(model: nn.Module) -> nn.Module:
    """With an adapter that has been trained, by the looks of it."""
    add_adapter(model, rank=8, alpha=16.0, targets="all-linear", rslora=False, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("changed", [lambda model: model, adapted], ids=["whole", "adapter"])
def test_fused_layers_are_as_near_to_float32_as_those_that_are_not(
    changed: Callable[[nn.Module], nn.Module],
):
    batch = batch_of(LENGTHS)
    exact, rough, fused = (changed(flash_llama()).to("cuda") for _ in range(3))
    rough.to(torch.bfloat16)
    fused.to(torch.bfloat16)
    fuse_layers(fused)
    assert is_fused(fused) and not is_fused(rough)
    for right, *both in zip(*(found(m, batch) for m in (exact, rough, fused)), strict=True):
        eager, ours = (float((one - right).norm() / right.norm()) for one in both)
        # bfloat16 has 8 bits: 2^-9 an operation, over three layers and twice as many with adapters.
        assert ours < min(1.2 * eager, 5e-2)


@pytest.mark.parametrize(
    ("changed", "graphs"),
    # One layer, and the two passes of the head. Embeddings that are not trained give the first
    # layer an input without a gradient, which is another graph.
    [(lambda model: model, 3), (adapted, 4)],
    ids=["whole", "adapter"],
)
def test_it_is_compiled_once_for_all_layers_and_lengths_and_kept_on_the_disk(
    changed: Callable[[nn.Module], nn.Module], graphs: int
):
    model = changed(flash_llama()).to("cuda", torch.bfloat16)
    fuse_layers(model)
    found(model, batch_of(LENGTHS))
    compiled = counters["stats"]["unique_graphs"]
    assert compiled == graphs
    for lengths in ([7, 3], [200], [40] * 9, [2, 2, 301]):
        found(model, batch_of(lengths))
    assert counters["stats"]["unique_graphs"] == compiled
    # A graph that makes tensors of its own on the CPU is not kept, and takes a minute every time.
    assert not counters["aot_autograd"]["autograd_cache_bypass"]


def test_a_fused_adapter_can_be_left_out():
    """As the reference of DPO leaves it out."""
    batch = batch_of(LENGTHS).to("cuda")
    model, plain = adapted(flash_llama()), flash_llama()
    for each in (model, plain):
        each.to("cuda", torch.bfloat16)
        fuse_layers(each)
    found(model, batch)
    with torch.no_grad(), without_adapter(model):
        left_out = forward_logprobs(model, batch, 1.0).logprobs_N
    expected = forward_logprobs(plain, batch, 1.0).logprobs_N
    assert float((left_out - expected).norm() / expected.norm()) < 1e-2


def test_the_engine_decodes_with_layers_that_are_not_fused():
    requests = [Request(f"p:{i}", tuple(range(2, 5 + 3 * i))) for i in range(9)]

    def answers(model: Any) -> list[tuple[int, ...]]:
        engine = TorchEngine(model, Silent(), num_slots=16)
        completions = engine.generate(requests, Sampling(max_tokens=24), seed=0, step=1)
        return [completion.tokens for completion in completions]

    plain, fused = (flash_llama().to("cuda", torch.bfloat16) for _ in range(2))
    fuse_layers(fused)
    found(fused, batch_of(LENGTHS))
    compiled = counters["stats"]["unique_graphs"]
    assert answers(fused) == answers(plain)
    assert counters["stats"]["unique_graphs"] == compiled
