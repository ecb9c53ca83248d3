"""The engine against its slow twin, which knows neither slots nor caches."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from random_models import CONFIGS, random_model
from slow_twin import EOS, assert_same, engine_of, slow_twin

from cameleer.batch import Batch
from cameleer.errors import TrainingError
from cameleer.models.logprobs import forward_logprobs
from cameleer.rollout.engine import Request, RolloutEngine, Sampling
from cameleer.types import Completion


def requests_of(num_prompts: int = 4, siblings: int = 3, *, seed: int = 0) -> list[Request]:
    """Prompts of 1 to 12 tokens with siblings; the first two are equal and differ in their id."""
    rng = random.Random(seed)
    prompts = [tuple(rng.randrange(2, 61) for _ in range(1 + 5 * i % 12)) for i in range(8)]
    prompts[1] = prompts[0] = (7, 8, 9, 10)
    return [
        Request(f"p:{i}", prompt, sample)
        for i, prompt in enumerate(prompts[:num_prompts])
        for sample in range(siblings)
    ]


@pytest.fixture(scope="module")
def expected() -> dict[tuple[float, str, int], Completion]:
    """What the slow twin answers to eight prompts with two samples each."""
    model, answers = random_model(), {}
    for temperature in (0.0, 1.0):
        sampling = Sampling(max_tokens=12, temperature=temperature)
        for request in requests_of(8, 2):
            key = (temperature, request.prompt_id, request.sample)
            answers[key] = slow_twin(model, request, sampling, seed=1, step=2)
    return answers


def test_the_twins_answers_are_worth_comparing(expected: dict[Any, Completion]):
    reasons = {c.finish_reason for c in expected.values()}
    lengths = {len(c.tokens) for (temperature, *_), c in expected.items() if temperature}
    assert reasons == {"eos", "length"} and len(lengths) > 3
    assert len({c.tokens for c in expected.values()}) > 16


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("num_slots", [1, 2, 3, 16])
@pytest.mark.parametrize("order", [None, 0, 1, 2])
def test_the_engine_equals_its_slow_twin_whatever_the_slots_and_the_order(
    num_slots: int, order: int | None, temperature: float, expected: dict[Any, Completion]
):
    requests = requests_of(8, 2)
    if order is not None:
        random.Random(order).shuffle(requests)
    sampling = Sampling(max_tokens=12, temperature=temperature)
    engine = engine_of(random_model(), num_slots=num_slots)
    found = engine.generate(requests, sampling, seed=1, step=2)
    for request, completion in zip(requests, found, strict=True):
        assert_same(completion, expected[temperature, request.prompt_id, request.sample])


@pytest.mark.parametrize("prefill_tokens", [1, 10, 30])
def test_how_many_prompts_share_a_forward_changes_nothing(
    prefill_tokens: int, expected: dict[Any, Completion]
):
    requests = requests_of(8, 2)
    engine = engine_of(random_model(), num_slots=6, prefill_tokens=prefill_tokens)
    for request, completion in zip(
        requests, engine.generate(requests, Sampling(max_tokens=12), seed=1, step=2), strict=True
    ):
        assert_same(completion, expected[1.0, request.prompt_id, request.sample])


@pytest.mark.parametrize("kind", CONFIGS)
def test_each_architecture_equals_its_slow_twin(kind: str):
    model, requests = random_model(kind, seed=3), requests_of(3, 2)
    sampling = Sampling(max_tokens=8)
    found = engine_of(model, num_slots=4).generate(requests, sampling, seed=5, step=0)
    for request, completion in zip(requests, found, strict=True):
        assert_same(completion, slow_twin(model, request, sampling, seed=5, step=0))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_the_learner_finds_the_engines_log_probabilities(temperature: float):
    model, requests = random_model("qwen3"), requests_of(8, 3)
    sampling = Sampling(max_tokens=20, temperature=temperature)
    found = engine_of(model, num_slots=5).generate(requests, sampling, seed=0, step=0)
    rows = [(*r.tokens, *c.tokens) for r, c in zip(requests, found, strict=True)]
    batch = Batch(
        tokens_N=torch.tensor([t for row in rows for t in row]),
        lengths_B=torch.tensor([len(row) for row in rows]),
        mask_N=torch.tensor(
            [
                i >= len(r.tokens)
                for r, row in zip(requests, rows, strict=True)
                for i in range(len(row))
            ]
        ),
    )
    learner = forward_logprobs(model, batch, temperature).logprobs_N[batch.mask_N]
    sampler = torch.tensor([logprob for c in found for logprob in c.logprobs])
    torch.testing.assert_close(sampler, learner.detach(), atol=1e-4, rtol=0)


def test_a_completion_depends_on_its_own_key_alone():
    model, requests = random_model(), requests_of(6, 3)
    sampling = Sampling(max_tokens=10)
    every = engine_of(model, num_slots=4).generate(requests, sampling, seed=1, step=2)
    alone = engine_of(model).generate([requests[7]], sampling, seed=1, step=2)[0]
    assert_same(alone, every[7])
    for seed, step in ((2, 2), (1, 3)):
        other = engine_of(model).generate([requests[7]], sampling, seed=seed, step=step)[0]
        assert other.tokens != alone.tokens


def test_siblings_differ_and_a_repeated_request_does_not():
    request = Request("p:0", (7, 8, 9))
    sibling = Request("p:0", (7, 8, 9), sample=1)
    first, second, third = engine_of(random_model()).generate(
        [request, sibling, request], Sampling(max_tokens=10), seed=0, step=0
    )
    assert first.tokens == third.tokens != second.tokens


def test_a_shorter_limit_gives_the_beginning_of_a_longer_answer():
    model, requests = random_model(), requests_of(8, 1)
    long = engine_of(model).generate(requests, Sampling(max_tokens=12), seed=1, step=2)
    short = engine_of(model).generate(requests, Sampling(max_tokens=5), seed=1, step=2)
    for whole, part in zip(long, short, strict=True):
        assert part.tokens == whole.tokens[:5]
        ended = len(whole.tokens) <= 5 and whole.finish_reason == "eos"
        assert part.finish_reason == ("eos" if ended else "length")


def always(token: int) -> Any:
    """A model whose likeliest next token is this one, whatever came before."""
    model = random_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        # Without weights the embedding alone reaches the head, the same for every token.
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.lm_head.weight[token, 0] = 10.0
    return model


def test_the_end_of_sequence_token_ends_a_completion_and_is_its_last():
    answer = engine_of(always(EOS)).generate(
        [Request("p", (5, 6))], Sampling(max_tokens=9, temperature=0.0), seed=0, step=0
    )[0]
    assert (answer.tokens, answer.text, answer.finish_reason) == ((EOS,), "", "eos")
    assert answer.logprobs == pytest.approx([0.0], abs=1e-6)


def test_the_limit_ends_a_completion_that_nothing_else_ends():
    answer = engine_of(always(4)).generate(
        [Request("p", (5, 6))], Sampling(max_tokens=3, temperature=0.0), seed=0, step=0
    )[0]
    assert (answer.tokens, answer.text, answer.finish_reason) == ((4, 4, 4), "ccc", "length")


@pytest.mark.parametrize(
    ("stop", "text", "reason"),
    [
        (("cccc",), "cccc", "stop"),
        (("x", "cc"), "cc", "stop"),
        (("c" * 30,), "c" * 30, "stop"),
        (("x",), "c" * 40, "length"),
        (("c" * 40,), "c" * 40, "stop"),
    ],
)
def test_a_stop_string_ends_a_completion_and_stays_in_it(
    stop: tuple[str, ...], text: str, reason: str
):
    sampling = Sampling(max_tokens=40, temperature=0.0, stop=stop)
    answer = engine_of(always(4)).generate([Request("p", (5,))], sampling, seed=0, step=0)[0]
    assert (answer.text, answer.finish_reason) == (text, reason)
    assert answer.tokens == (4,) * len(text) and len(answer.logprobs) == len(text)


def test_a_stop_string_in_the_prompt_ends_nothing():
    sampling = Sampling(max_tokens=3, temperature=0.0, stop=("d",))
    answer = engine_of(always(4)).generate([Request("p", (5, 5))], sampling, seed=0, step=0)[0]
    assert answer.finish_reason == "length"


def test_greedy_log_probabilities_are_those_at_temperature_1():
    # Logit of token 4: 10 * sqrt(32), as the norm makes the one feature of 32 that large.
    model = always(4)
    with torch.no_grad():
        model.lm_head.weight[4, 0] = 3.0 / 32**0.5
    answer = engine_of(model).generate(
        [Request("p", (5,))], Sampling(max_tokens=1, temperature=0.0), seed=0, step=0
    )[0]
    # 60 other tokens have logit 0: log p = 3 - log(e^3 + 60) = -1.3831.
    assert answer.logprobs == pytest.approx([-1.3831], abs=1e-4)


def test_each_completion_carries_the_version_of_the_weights():
    engine = engine_of(random_model())
    requests, sampling = requests_of(2, 1), Sampling(max_tokens=2)
    versions = []
    for version in (0, 7):
        engine.load(version)
        versions += [c.version for c in engine.generate(requests, sampling, seed=0, step=0)]
    assert versions == [0, 0, 7, 7] and engine.version == 7


def test_no_request_gives_no_completion():
    assert engine_of(random_model()).generate([], Sampling(max_tokens=2), seed=0, step=0) == []


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(ValueError, match="prompt p:0 has no tokens"):
        engine_of(random_model()).generate(
            [Request("p:0", ())], Sampling(max_tokens=2), seed=0, step=0
        )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_weights_that_are_not_numbers_are_named_as_such(temperature: float):
    model = random_model()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    engine = engine_of(model)
    engine.load(12)
    with pytest.raises(TrainingError, match="not numbers after 12 updates"):
        engine.generate(
            requests_of(1), Sampling(max_tokens=2, temperature=temperature), seed=0, step=0
        )


@pytest.mark.parametrize("training", [False, True])
def test_dropout_and_checkpointing_neither_reach_the_engine_nor_are_lost(training: bool):
    plain, model = random_model(), random_model()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    model.train(training)
    requests, sampling = requests_of(4, 2), Sampling(max_tokens=8)
    found = engine_of(model).generate(requests, sampling, seed=0, step=0)
    assert found == engine_of(plain).generate(requests, sampling, seed=0, step=0)
    assert all(module.training == training for module in model.modules())
    assert model.model.layers[0].self_attn.attention_dropout == 0.5


def test_the_mode_is_restored_where_generation_fails():
    model = random_model().train()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(TrainingError):
        engine_of(model).generate(requests_of(1), Sampling(max_tokens=2), seed=0, step=0)
    assert model.training


def test_generating_leaves_no_gradients_and_no_graph():
    model = random_model()
    engine_of(model).generate(requests_of(2), Sampling(max_tokens=4), seed=0, step=0)
    assert all(p.grad is None for p in model.parameters())
    forward_logprobs(model, one_row(), 1.0).logprobs_N.sum().backward()
    assert model.lm_head.weight.grad.abs().max() > 0


def one_row() -> Batch:
    tokens_N = torch.tensor([3, 4, 5])
    return Batch(tokens_N=tokens_N, lengths_B=torch.tensor([3]), mask_N=tokens_N > 3)


def test_slots_are_used_again_across_calls_of_other_lengths():
    model = random_model()
    engine = engine_of(model, num_slots=3)
    # Long, short and longer: the slots hold old keys, then are too short and made anew.
    for max_tokens, num_prompts in ((12, 8), (2, 3), (30, 8), (12, 8)):
        requests, sampling = requests_of(num_prompts, 2), Sampling(max_tokens=max_tokens)
        found = engine.generate(requests, sampling, seed=1, step=2)
        fresh = engine_of(model, num_slots=3).generate(requests, sampling, seed=1, step=2)
        for old, new in zip(found, fresh, strict=True):
            assert_same(old, new)


def test_no_key_outlives_the_weights_that_made_it():
    model, other = random_model(), random_model(seed=9)
    engine = engine_of(model, num_slots=3)
    requests, sampling = requests_of(4, 2), Sampling(max_tokens=12)
    before = engine.generate(requests, sampling, seed=1, step=2)
    model.load_state_dict(other.state_dict())
    after = engine.generate(requests, sampling, seed=1, step=2)
    assert [c.tokens for c in after] != [c.tokens for c in before]
    for found, fresh in zip(
        after, engine_of(other).generate(requests, sampling, seed=1, step=2), strict=True
    ):
        assert_same(found, fresh)


def test_it_is_an_engine():
    assert isinstance(engine_of(random_model()), RolloutEngine)
