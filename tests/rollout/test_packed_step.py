"""Weights packed for a CPU change the time of a step and nothing else."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
import torch
from random_models import CONFIGS, random_model
from slow_twin import assert_same, engine_of
from torch import nn

from cameleer.rollout import steps, torch_engine
from cameleer.rollout.engine import Request, Sampling
from cameleer.rollout.steps import PackedStep
from cameleer.types import Completion

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkl, "_mkl_linear"), reason="this torch has no MKL"
)
SAMPLING = Sampling(max_tokens=12)


def pack_always(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on the smallest model is packed too. Returns for how many rows, in their order."""
    rows: list[int] = []

    class Noted(PackedStep):
        def __init__(self, model: Any, cache: Any, temperature: float, num_slots: int) -> None:
            rows.append(num_slots)
            super().__init__(model, cache, temperature, num_slots)

    monkeypatch.setattr(steps, "_WORTH_PACKING", 0)
    monkeypatch.setattr(torch_engine, "_WORTH_PACKING", 0)
    monkeypatch.setattr(torch_engine, "_FEWEST_ROWS", 2)
    monkeypatch.setattr(torch_engine, "PackedStep", Noted)
    return rows


def requests_of(count: int = 20) -> list[Request]:
    rng = random.Random(0)
    return [
        Request(f"p:{n}", tuple(rng.randrange(2, 61) for _ in range(1 + n % 7)))
        for n in range(count)
    ]


def generated(model: nn.Module, count: int = 20, **options: Any) -> list[Completion]:
    return engine_of(model, **options).generate(requests_of(count), SAMPLING, seed=1, step=2)


def is_whole(model: nn.Module) -> bool:
    return not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("kind", CONFIGS)
def test_packed_weights_give_the_same_completions(kind: str, monkeypatch: pytest.MonkeyPatch):
    model = random_model(kind)
    eager = generated(model, num_slots=6)
    rows = pack_always(monkeypatch)
    packed = generated(model, num_slots=6)
    for expected, found in zip(eager, packed, strict=True):
        assert_same(found, expected)
    assert rows[0] == 6 and is_whole(model)


def test_packed_weights_are_what_multiplies(monkeypatch: pytest.MonkeyPatch):
    pack_always(monkeypatch)
    before = generated(random_model(), num_slots=6)
    packs = steps._packed
    monkeypatch.setattr(
        steps, "_packed", lambda weight, bias, rows: packs(torch.zeros_like(weight), bias, rows)
    )
    assert [c.tokens for c in generated(random_model(), num_slots=6)] != [c.tokens for c in before]


# 17 slots wait until two of them are free: 16 rows would do in between.
@pytest.mark.parametrize(("num_slots", "most"), [(17, 17), (5, 5), (64, 24)])
def test_weights_are_packed_for_fewer_and_fewer_rows(
    num_slots: int, most: int, monkeypatch: pytest.MonkeyPatch
):
    rows = pack_always(monkeypatch)
    generated(random_model(), 60 if num_slots == 17 else 20, num_slots=num_slots)
    assert rows[0] == most
    assert all(before > after for before, after in pairwise(rows)), rows


def test_few_rows_short_answers_and_small_models_are_not_packed(monkeypatch: pytest.MonkeyPatch):
    rows = pack_always(monkeypatch)
    generated(random_model(), num_slots=1)
    assert rows == []
    monkeypatch.setattr(torch_engine, "_WORTH_PACKING", 13)
    generated(random_model())
    assert rows == []
    assert PackedStep.can_run(random_model())
    assert not PackedStep.can_run(random_model().to(torch.bfloat16))
    monkeypatch.setattr(steps, "_WORTH_PACKING", 1 << 22)
    assert not PackedStep.can_run(random_model())


def test_weights_that_changed_between_calls_are_packed_anew(monkeypatch: pytest.MonkeyPatch):
    model, other = random_model(), random_model(seed=9)
    expected = generated(other, num_slots=6)
    rows = pack_always(monkeypatch)
    engine = engine_of(model, num_slots=6)
    engine.generate(requests_of(), SAMPLING, seed=1, step=2)
    model.load_state_dict(other.state_dict())
    again = engine.generate(requests_of(), SAMPLING, seed=1, step=2)
    for found, fresh in zip(again, expected, strict=True):
        assert_same(found, fresh)
    assert rows.count(6) == 2


def test_nobody_else_meets_packed_weights(monkeypatch: pytest.MonkeyPatch):
    pack_always(monkeypatch)
    model, whole = random_model(), []

    def look(place: int, _: Completion) -> None:
        whole.append(is_whole(model))
        if len(whole) == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine_of(model, num_slots=6).generate(requests_of(), SAMPLING, seed=1, step=2, done=look)
    assert whole == [True] * 15 and is_whole(model)


@pytest.mark.parametrize("where", ["packing", "a step"])
def test_a_failure_leaves_the_modules_as_they_were(where: str, monkeypatch: pytest.MonkeyPatch):
    pack_always(monkeypatch)
    model, packs, calls = random_model(), steps._packed, []

    def fails(*_: Any) -> Any:
        raise MemoryError

    def packs_some(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            return fails if where == "a step" else fails()
        return packs(*given)

    monkeypatch.setattr(steps, "_packed", packs_some)
    with pytest.raises(MemoryError):
        generated(model, num_slots=6)
    assert is_whole(model)


def test_a_module_with_a_forward_of_its_own_keeps_it(monkeypatch: pytest.MonkeyPatch):
    model = random_model()
    projection, calls = model.model.layers[0].mlp.up_proj, []
    computes = projection.forward

    def hooked(rows: torch.Tensor) -> torch.Tensor:
        calls.append(len(rows))
        found: torch.Tensor = computes(rows)
        return found

    projection.forward = hooked
    expected = generated(model, num_slots=6)
    num_eager = len(calls)
    pack_always(monkeypatch)
    for found, eager in zip(generated(model, num_slots=6), expected, strict=True):
        assert_same(found, eager)
    assert projection.forward is hooked and len(calls) == 2 * num_eager


def test_rows_to_pack_for_grow_by_a_third_or_a_half():
    sizes = [8, 12, 16, 24, 32, 48, 64, 96, 128]
    for count in range(1, 129):
        assert torch_engine._rows_for(count) == min(size for size in sizes if size >= count)
