"""Requests that differ in their limits and stop strings, and who is told when they end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from random_models import random_model
from slow_twin import EOS, assert_same, engine_of, slow_twin

from cameleer.rollout.engine import Request, Sampling
from cameleer.rollout.torch_engine import TorchEngine
from cameleer.types import Completion

SAMPLING = Sampling(max_tokens=30)
_TEXTS = ["a", "b", "ab", "ba", "\n", "\n\n", "b\n", ":", "Q", "Q:", " ", " a", "é", "aé", ":\nb"]
_BYTES = [b"\xc3", b"\xa9", b"\xa9\n", b"a", b"b", b"\n", b"\xc3\xa9", b"ab", b":", b"\xe2\x82"]


class Pieces:
    """A tokenizer whose tokens read as these in turn; with `strips`, a first blank is dropped."""

    eos_token_id = EOS

    def __init__(self, pieces: Sequence[str | bytes], *, strips: bool = False) -> None:
        self._pieces = [piece if isinstance(piece, bytes) else piece.encode() for piece in pieces]
        self._strips = strips

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        read = [self._pieces[t % len(self._pieces)] for t in tokens if t != EOS]
        text = b"".join(read).decode(errors="replace")
        return text.removeprefix(" ") if self._strips else text


TOKENIZERS = {
    "text": Pieces(_TEXTS),
    "bytes": Pieces(_BYTES),
    "stripping": Pieces(_TEXTS, strips=True),
}


def requests_of(count: int = 8, **changes: Any) -> list[Request]:
    rng = random.Random(0)
    return [
        Request(f"p:{n}", tuple(rng.randrange(2, 61) for _ in range(1 + n % 5)), **changes)
        for n in range(count)
    ]


def cut(whole: Completion, tokenizer: Any, stop: Sequence[str], limit: int) -> Completion:
    """The shortest beginning that holds a stop string or fills the limit, by reading every one."""
    for count in range(1, len(whole.tokens) + 1):
        tokens = whole.tokens[:count]
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        meets = any(each in text for each in stop)
        if tokens[-1] == EOS or meets or count == limit:
            reason = "eos" if tokens[-1] == EOS else "stop" if meets else "length"
            return Completion(tokens, text, whole.logprobs[:count], reason, 0)  # type: ignore[arg-type]
    raise AssertionError("the whole completion is shorter than its limit")


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model()


@pytest.fixture(scope="module", params=TOKENIZERS)
def whole(request: pytest.FixtureRequest, model: Any) -> tuple[Any, list[Completion]]:
    """A tokenizer, and the completions that nothing but their end or the limit ends."""
    reads = TOKENIZERS[request.param]
    return reads, TorchEngine(model, reads).generate(requests_of(), SAMPLING, seed=0, step=0)


@pytest.mark.parametrize("seed", range(6))
def test_a_stop_string_is_found_where_reading_every_beginning_finds_it(
    seed: int, whole: tuple[Any, list[Completion]], model: Any
):
    rng, (reads, longs) = random.Random(seed), whole

    def piece_of(text: str) -> str:
        begin = rng.randrange(len(text))
        return text[begin : begin + rng.randrange(1, 8)]

    # What each will say, over token borders or inside of one, and what another will.
    texts = [long.text.replace("\N{REPLACEMENT CHARACTER}", "") for long in longs]
    requests = [
        replace(request, stop=(piece_of(text), piece_of(rng.choice(texts))))
        for request, text in zip(requests_of(), texts, strict=True)
    ]
    found = TorchEngine(model, reads, num_slots=5).generate(requests, SAMPLING, seed=0, step=0)
    for request, long, completion in zip(requests, longs, found, strict=True):
        assert_same(completion, cut(long, reads, request.stop, SAMPLING.max_tokens))
    assert sum(completion.finish_reason == "stop" for completion in found) >= 4


@pytest.mark.parametrize(
    ("stop", "reads"),
    [
        ((), []),
        (("Question\n",), ["\n", "\n\n", "b\n", ":\nb"]),
        (("Q:", "xa"), ["a", "ab", "ba", ":", "Q:", " a", "aé", ":\nb"]),
        (("é",), _TEXTS),
        (("Q ",), _TEXTS),
        (("Q:", "é"), _TEXTS),
    ],
)
def test_only_tokens_with_the_last_character_of_a_stop_can_end_one(
    stop: tuple[str, ...], reads: list[str]
):
    may_end = TorchEngine(random_model(), TOKENIZERS["text"]).may_end(stop)
    # Token 1 ends the sequence and reads nothing; every 15th reads alike.
    ends = {_TEXTS[token % len(_TEXTS)] for token in np.flatnonzero(may_end)}
    assert may_end.shape == (61,) and ends == set(reads)


def test_each_request_has_its_own_stop_strings_and_limit():
    reads, model = TOKENIZERS["text"], random_model()
    engine = TorchEngine(model, reads, num_slots=5)
    requests = requests_of(24)
    whole = engine.generate(requests, SAMPLING, seed=0, step=0)
    stops: list[tuple[str, ...]] = [(), ("\n",), ("Q:", "é"), ("ab",), ("b ",)]
    limits = [None, 1, 7, 30, 400]
    mixed = [
        replace(request, stop=stops[n % 5], max_tokens=limits[n // 5 % 5])
        for n, request in enumerate(requests)
    ]
    sampling = replace(SAMPLING, stop=("a\n",))
    together = engine.generate(mixed, sampling, seed=0, step=0)
    for n, (request, found) in enumerate(zip(mixed, together, strict=True)):
        limit = min(30, request.max_tokens or 30)
        assert_same(found, cut(whole[n], reads, ("a\n", *request.stop), limit))
        (alone,) = TorchEngine(model, reads).generate([request], sampling, seed=0, step=0)
        assert_same(found, alone)
    assert {c.finish_reason for c in together} == {"eos", "stop", "length"}


def test_the_twin_agrees_with_limits_of_ones_own():
    model, requests = random_model(), requests_of(8, max_tokens=3)
    for request, found in zip(
        requests, engine_of(model).generate(requests, SAMPLING, seed=4, step=1), strict=True
    ):
        assert_same(found, slow_twin(model, request, SAMPLING, seed=4, step=1))


@pytest.mark.parametrize("num_slots", [1, 3, 64])
def test_each_end_is_told_once_with_the_place_of_its_request(num_slots: int):
    requests = [*requests_of(), *requests_of(3, max_tokens=1)]
    told: list[tuple[int, Completion]] = []
    found = engine_of(random_model(), num_slots=num_slots).generate(
        requests, SAMPLING, seed=0, step=0, done=lambda *end: told.append(end)
    )
    assert sorted(place for place, _ in told) == list(range(11))
    assert all(completion is found[place] for place, completion in told)
    if num_slots == 1:
        assert [place for place, _ in told] == list(range(11))


def test_an_end_is_told_before_the_next_request_is_begun():
    model, told = random_model().train(), []

    def stop_after_three(place: int, _: Completion) -> None:
        told.append(place)
        if len(told) == 3:
            raise KeyboardInterrupt

    engine = engine_of(model, num_slots=1)
    with pytest.raises(KeyboardInterrupt):
        engine.generate(requests_of(), SAMPLING, seed=0, step=0, done=stop_after_three)
    assert told == [0, 1, 2] and model.training
    again = engine.generate(requests_of(3), SAMPLING, seed=0, step=0)
    fresh = engine_of(random_model()).generate(requests_of(3), SAMPLING, seed=0, step=0)
    for found, expected in zip(again, fresh, strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize(
    ("request_of", "sampling", "complaint"),
    [
        ({"max_tokens": 0}, SAMPLING, "p:0 is to be answered in 0 tokens"),
        ({}, Sampling(max_tokens=0), "p:0 is to be answered in 0 tokens"),
        ({"stop": ("x", "")}, SAMPLING, "stop string of the prompt p:0 is empty"),
        ({}, Sampling(max_tokens=2, stop=("",)), "stop string of the prompt p:0 is empty"),
    ],
)
def test_what_could_only_give_empty_completions_is_refused(
    request_of: dict[str, Any], sampling: Sampling, complaint: str
):
    with pytest.raises(ValueError, match=complaint):
        engine_of(random_model()).generate(requests_of(1, **request_of), sampling, seed=0, step=0)


def test_the_mode_is_restored_where_a_call_fails_before_it_begins():
    class Broken(Pieces):
        def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
            raise OverflowError

    model = random_model().train()
    with pytest.raises(OverflowError):
        TorchEngine(model, Broken(_TEXTS)).generate(
            requests_of(), replace(SAMPLING, stop=("a",)), seed=0, step=0
        )
    assert model.training
