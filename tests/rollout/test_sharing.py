"""Prompts that begin alike are computed from there on, and nobody can tell."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from random_models import CONFIGS, random_model
from slow_twin import assert_same, engine_of, slow_twin

from cameleer.rollout import torch_engine
from cameleer.rollout.engine import Request, Sampling
from cameleer.types import Completion

SAMPLING = Sampling(max_tokens=6)


def tokens(seed: int, count: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(2, 61) for _ in range(count))


def families() -> list[Request]:
    """Two families, strangers between them, and siblings."""
    first, second = tokens(1, 80), tokens(2, 70)
    prompts = [
        (*first, 5),
        (9,),
        (*first, 5, 6, 7),  # It goes on where the one before ends.
        first[:66] + tokens(3, 9),
        (*second, 3, 4),
        first[:64],  # As long as a shared beginning has to be, and no longer.
        first,
        (*first[:63], 60, 59, *first[65:]),  # One token too early to be shared.
        second + tokens(4, 30),
        first[:65],
        tokens(5, 20),
        second,
    ]
    return [
        Request(f"p:{number}", prompt, sample)
        for number, prompt in enumerate(prompts)
        for sample in range(1 + number % 3 % 2)
    ]


@pytest.fixture(scope="module")
def expected() -> dict[Request, Completion]:
    model = random_model()
    return {r: slow_twin(model, r, SAMPLING, seed=1, step=0) for r in families()}


@pytest.mark.parametrize(
    ("num_slots", "prefill_tokens"), [(1, 4096), (2, 90), (3, 1), (5, 4096), (32, 90), (32, 4096)]
)
@pytest.mark.parametrize("order", [None, 0, 1])
def test_prompts_that_begin_alike_are_answered_as_if_alone(
    num_slots: int, order: int | None, prefill_tokens: int, expected: dict[Request, Completion]
):
    requests = families()
    if order is not None:
        random.Random(order).shuffle(requests)
    engine = engine_of(random_model(), num_slots=num_slots, prefill_tokens=prefill_tokens)
    for request, found in zip(
        requests, engine.generate(requests, SAMPLING, seed=1, step=0), strict=True
    ):
        assert_same(found, expected[request])


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("num_slots", [2, 8])
def test_each_architecture_goes_on_from_shared_keys(
    kind: str, num_slots: int, monkeypatch: pytest.MonkeyPatch
):
    # Within the sliding window of 64 that one of them has.
    monkeypatch.setattr(torch_engine, "_SHARED", 4)
    prompts = [tokens(1, 12) + tokens(seed, seed) for seed in (3, 1, 5)]
    requests = [Request(f"p:{n}", p, s) for n, p in enumerate(prompts) for s in range(2)]
    model = random_model(kind, seed=3)
    found = engine_of(model, num_slots=num_slots).generate(requests, SAMPLING, seed=5, step=0)
    for request, completion in zip(requests, found, strict=True):
        assert_same(completion, slow_twin(model, request, SAMPLING, seed=5, step=0))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("num_slots", [1, 2, 3])
def test_a_leader_may_retire_before_the_others_come(num_slots: int, temperature: float):
    model, sampling = random_model(), replace(SAMPLING, temperature=temperature)
    requests = [
        # The leader has one token, and ends in the moment in which it is admitted.
        Request(f"p:{n}", (*tokens(1, 70), 10 + n), max_tokens=1 if n % 3 == 0 else None)
        for n in range(7)
    ]
    found = engine_of(model, num_slots=num_slots).generate(requests, sampling, seed=3, step=0)
    for request, completion in zip(requests, found, strict=True):
        assert_same(completion, slow_twin(model, request, sampling, seed=3, step=0))


def test_a_shared_beginning_is_computed_once(monkeypatch: pytest.MonkeyPatch):
    prompts = [tokens(1, 70) + tail for tail in ((2, 3), (4, 5), (6, 7), (8,), (9, 9))]
    requests = [Request(f"p:{n}", p, s) for n, p in enumerate(prompts) for s in range(1 + n % 2)]
    seen: list[int] = []
    computes = torch_engine.packed_hidden

    def counted(model: Any, tokens_N: Any, *rest: Any) -> Any:
        seen.append(len(tokens_N))
        return computes(model, tokens_N, *rest)

    monkeypatch.setattr(torch_engine, "packed_hidden", counted)
    engine_of(random_model(), num_slots=16).generate(requests, SAMPLING, seed=0, step=0)
    # The first whole, then what the others add to 70, and nothing for siblings.
    assert seen == [72, 2 + 2 + 1 + 2]


def test_what_prompts_have_in_common_leaves_a_token_to_compute():
    assert torch_engine._common((1, 2, 3, 4), (1, 2, 9, 4)) == 2
    # A prompt that another one begins with is predicted from its own last token.
    assert torch_engine._common((1, 2, 3), (1, 2, 3, 4)) == 2
    assert torch_engine._common((1, 2, 3, 4), (1, 2, 3)) == 3
    assert torch_engine._common((1, 2), (3, 4)) == 0
