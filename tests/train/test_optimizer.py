"""The optimizer against torch's own, and where it has to be better than bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import get_scheduler

from cameleer.train.optimizer import MasterAdamW


def linear(dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3).to(dtype)


def optimizer_of(module: nn.Module, *, lr: float = 1e-2, warmup_steps: int = 0) -> MasterAdamW:
    return MasterAdamW(
        module, lr=lr, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01, warmup_steps=warmup_steps
    )


def inputs(step: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(step)).to(dtype)


def test_float32_is_adamw_of_torch_to_the_bit():
    ours, theirs = linear(), linear()
    optimizer = optimizer_of(ours)
    adamw = torch.optim.AdamW(
        theirs.parameters(), lr=1e-2, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01, fused=True
    )
    for step in range(10):
        ours(inputs(step)).square().sum().backward()
        optimizer.clip(1.0)
        optimizer.step(step)
        theirs(inputs(step)).square().sum().backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


def test_an_update_by_hand():
    # The first update of Adam is lr * sign(gradient); decay takes lr * 0.01 of the weight before.
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 2.0)
    optimizer = optimizer_of(module, lr=0.1)
    module.weight.sum().backward()
    optimizer.clip(1.0)
    optimizer.step(0)
    assert module.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.01) - 0.1)


def test_small_steps_move_the_masters_where_bfloat16_would_stand_still():
    ours, pure = linear(torch.bfloat16), linear(torch.bfloat16)
    start = pure.weight.detach().clone()
    optimizer = optimizer_of(ours, lr=5e-7)
    adamw = torch.optim.AdamW(pure.parameters(), lr=5e-7, weight_decay=0.0)
    for _ in range(2000):
        for module in (ours, pure):
            module(torch.ones(1, 4, dtype=torch.bfloat16)).sum().backward()
        optimizer.clip(1.0)
        optimizer.step(0)
        adamw.step()
        adamw.zero_grad()
    assert torch.equal(pure.weight, start)
    # 2,000 updates of 5e-7 in one direction, and next to nothing by decay.
    moved = start.float() - optimizer.masters[0]
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-3), atol=2e-5, rtol=0)
    assert not torch.equal(ours.weight, start)
    assert torch.equal(ours.weight, optimizer.masters[0].to(torch.bfloat16))


def test_gradients_of_many_micro_batches_add_up_in_float32():
    # 256 + 1 is 256 in bfloat16, so the ones would be lost one after the other.
    module = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    optimizer = optimizer_of(module)
    for size in (256.0, *[1.0] * 64):
        module(torch.full((1, 1), size, dtype=torch.bfloat16)).sum().backward()
    assert optimizer.masters[0].grad is not None
    assert module.weight.grad is None, "it was moved"
    assert optimizer.masters[0].grad.item() == 256 + 64


@pytest.mark.parametrize(("limit", "factor"), [(10.0, 1.0), (0.5, 0.1)])
def test_the_norm_is_reported_before_and_held_after_clipping(limit: float, factor: float):
    # SGD-like view on the clipped gradient: Adam's first moment is a tenth of it.
    module = nn.Linear(2, 1, bias=False)
    optimizer = optimizer_of(module)
    module(torch.tensor([[3.0, 4.0]])).sum().backward()
    assert optimizer.clip(limit) == pytest.approx(5.0)
    optimizer.step(0)
    moment = optimizer.tensors()["exp_avg.weight"]
    torch.testing.assert_close(moment, torch.tensor([[0.3, 0.4]]) * factor, rtol=1e-4, atol=0)


def test_the_rate_rises_linearly_over_the_warmup():
    optimizer = optimizer_of(linear(), lr=0.4, warmup_steps=4)
    rates = [optimizer.learning_rate(step) for step in range(6)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimizer_goes_on_to_the_bit(dtype: torch.dtype):
    def update(module: nn.Module, optimizer: MasterAdamW, step: int) -> None:
        module(inputs(step, dtype)).square().sum().backward()
        optimizer.clip(1.0)
        optimizer.step(step)

    module = linear(dtype)
    optimizer = optimizer_of(module)
    update(module, optimizer, 0)
    tensors = {k: v.clone() for k, v in optimizer.tensors().items()}
    other = linear(dtype)
    other.load_state_dict(module.state_dict())
    restored = optimizer_of(other)
    restored.restore(tensors)
    for step in (1, 2):
        update(module, optimizer, step)
        update(other, restored, step)
    assert torch.equal(module.weight, other.weight)
    assert all(torch.equal(a, b) for a, b in zip(optimizer.masters, restored.masters, strict=True))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup_steps", [0, 3])
def test_the_learning_rate_falls_as_transformers_schedulers_do(schedule: Any, warmup_steps: int):
    module = linear()
    ours = MasterAdamW(
        module, lr=0.5, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01,
        warmup_steps=warmup_steps, schedule=schedule, num_updates=10,
    )  # fmt: skip
    adamw = torch.optim.AdamW(linear().parameters(), lr=0.5)
    kind = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(kind, adamw, num_warmup_steps=warmup_steps, num_training_steps=10)
    rates = []
    for _ in range(10):
        rates.append(adamw.param_groups[0]["lr"])
        adamw.step()
        theirs.step()
    found = [ours.learning_rate(step) for step in range(10)]
    assert found[warmup_steps:] == pytest.approx(rates[warmup_steps:])
    # They begin at 0, which wastes an update.
    assert found[:warmup_steps] == pytest.approx([0.5 * (i + 1) / 3 for i in range(warmup_steps)])


def test_a_linear_schedule_by_hand():
    ours = MasterAdamW(
        linear(), lr=1.0, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.0,
        warmup_steps=2, schedule="linear", num_updates=6,
    )  # fmt: skip
    # Up over two updates, then down over the four that are left.
    assert [ours.learning_rate(i) for i in range(7)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]


def test_a_module_can_be_compiled_while_gradients_wait_for_the_step():
    """A later micro-batch may be the first of its kind."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear(torch.bfloat16)

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.linear(x)

    module = Twice()
    optimizer = optimizer_of(module)
    module(inputs(0, torch.bfloat16)).square().sum().backward()
    first = optimizer.masters[0].grad
    assert first is not None and first.dtype == torch.float32
    before = first.clone()
    torch.compiler.reset()
    module.compile(backend="eager", fullgraph=True)
    module(inputs(1, torch.bfloat16)).square().sum().backward()
    assert optimizer.masters[0].grad is first and not torch.equal(first, before)
