"""Log-probabilities a chunk at a time, against torch's own log_softmax and its autograd."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from random_models import random_model
from torch import Tensor, nn

from cameleer.batch import Batch
from cameleer.models import logprobs as module
from cameleer.models.logprobs import _TokenLogprobs, forward_logprobs

D, V, M = 8, 150, 23


def head(*, bias: bool, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Hidden states, weights, bias and tokens, drawn at random; the first three take gradients."""
    generator = torch.Generator().manual_seed(0)
    hidden_MD, weight_VD, bias_V = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((M, D), (V, D), (V,))
    )
    tokens_M = torch.randint(0, V, (M,), generator=generator)
    return hidden_MD, weight_VD, bias_V if bias else None, tokens_M  # type: ignore[return-value]


def plain(
    hidden_MD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    tokens_M: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """All logits at once."""
    logits = nn.functional.linear(hidden_MD, weight_VD, bias_V) / temperature
    logprobs = logits.log_softmax(-1)
    entropy_M = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(1, tokens_M[:, None]).squeeze(1), entropy_M


def chunks_of(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", {"cpu": 4 * V * tokens})


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, M, 1000])
@pytest.mark.parametrize("fused", [False, True])
def test_values_and_gradients_are_those_of_log_softmax(
    fused: bool, chunk: int, bias: bool, temperature: float, monkeypatch: pytest.MonkeyPatch
):
    def ours(*inputs: Any) -> tuple[Tensor, Tensor]:
        return _TokenLogprobs.apply(*inputs, fused)  # type: ignore[no-untyped-call, no-any-return]

    chunks_of(chunk, monkeypatch)
    # What is compiled is compared where there is a CUDA device; here, what is written.
    monkeypatch.setattr(module, "compiled", lambda function: function)
    weights_M = torch.randn(M, generator=torch.Generator().manual_seed(1))
    results = []
    for way in (plain, ours):
        inputs = head(bias=bias, dtype=torch.float32)
        logprobs_M, entropy_M = way(*inputs, temperature)
        (logprobs_M * weights_M).sum().backward()
        gradients = [x.grad for x in inputs[:3] if x is not None]
        results.append((logprobs_M.detach(), entropy_M.detach(), gradients))
    # float32, and gradients that are sums over M = 23 tokens.
    torch.testing.assert_close(results[1], results[0], atol=2e-5, rtol=1e-5)


def test_the_size_of_a_chunk_changes_no_log_probability(monkeypatch: pytest.MonkeyPatch):
    inputs = head(bias=True, dtype=torch.float32)
    whole_M, _ = _TokenLogprobs.apply(*inputs, 1.0)
    for chunk in (1, 5, 22):
        chunks_of(chunk, monkeypatch)
        part_M, _ = _TokenLogprobs.apply(*inputs, 1.0)
        # Matrix products of fewer rows may add up in another order: a few last bits of 10 nats.
        torch.testing.assert_close(part_M, whole_M, atol=5e-6, rtol=0)


def test_a_vocabulary_larger_than_a_chunk_goes_token_by_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", {"cpu": 1})
    inputs = head(bias=False, dtype=torch.float32)
    logprobs_M, _ = _TokenLogprobs.apply(*inputs, 1.0)
    torch.testing.assert_close(logprobs_M, plain(*inputs, 1.0)[0], atol=1e-5, rtol=1e-5)


def test_a_uniform_distribution_by_hand():
    # All logits are 0: log p = -log 150 = -5.0106, and the entropy is log 150.
    inputs = (torch.zeros(2, D), torch.randn(V, D), None, torch.tensor([0, 149]))
    logprobs_M, entropy_M = _TokenLogprobs.apply(*inputs, 1.0)
    torch.testing.assert_close(logprobs_M, torch.full((2,), -math.log(150)))
    torch.testing.assert_close(entropy_M, torch.full((2,), math.log(150)))


@pytest.mark.parametrize(("temperature", "odds"), [(1.0, 4.0), (0.5, 16.0), (2.0, 2.0)])
def test_the_temperature_divides_the_logits_by_hand(temperature: float, odds: float):
    # Two tokens with logits log 4 and 0: odds 4 to 1, its square at 0.5, its root at 2.
    inputs = (torch.ones(1, 1), torch.tensor([[math.log(4.0)], [0.0]]), None, torch.tensor([1]))
    logprobs_M, entropy_M = _TokenLogprobs.apply(*inputs, temperature)
    p = 1 / (1 + odds)
    assert logprobs_M.item() == pytest.approx(math.log(p), abs=1e-6)
    assert entropy_M.item() == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), abs=1e-6)


def test_the_entropy_of_a_sure_policy_is_exact_and_never_negative():
    # Logits of 40 and 30: p = 1 / (1 + e^10) = 4.5398e-5, H = 10 p + log(1 + e^-10) = 4.9938e-4.
    # log Z - E[logit] = 40.00005 - 39.99955 would be off by as much again as float32
    # rounds at 40, some 4e-6 each; here only the norm's own rounding is left.
    inputs = (torch.ones(1, 1), torch.tensor([[40.0], [30.0]]), None, torch.tensor([0]))
    _, entropy_M = _TokenLogprobs.apply(*inputs, 1.0)
    assert entropy_M.item() == pytest.approx(4.9938e-4, abs=2e-6)
    generator = torch.Generator().manual_seed(0)
    hidden_MD, weight_VD = (100 * torch.randn(1000, 1, generator=generator), torch.randn(50, 1))
    _, entropy_M = _TokenLogprobs.apply(hidden_MD, weight_VD, None, torch.zeros(1000).long(), 1.0)
    logprobs = (hidden_MD @ weight_VD.T).double().log_softmax(-1)
    torch.testing.assert_close(
        entropy_M.double(), -(logprobs.exp() * logprobs).sum(-1), atol=5e-5, rtol=0
    )
    assert entropy_M.min() >= 0


def test_the_entropy_carries_no_gradient():
    _, entropy_M = _TokenLogprobs.apply(*head(bias=True, dtype=torch.float32), 1.0)
    assert not entropy_M.requires_grad


def example(mask: list[int]) -> Batch:
    """Sequences of 4 and 3 tokens."""
    return Batch(
        tokens_N=torch.tensor([5, 6, 7, 8, 9, 10, 11]),
        lengths_B=torch.tensor([4, 3]),
        mask_N=torch.tensor(mask, dtype=torch.bool),
    )


def test_only_masked_tokens_have_values():
    model = random_model()
    some = forward_logprobs(model, example([0, 0, 1, 1, 0, 0, 1]), 1.0)
    every = forward_logprobs(model, example([0, 1, 1, 1, 0, 1, 1]), 1.0)
    masked_N = example([0, 0, 1, 1, 0, 0, 1]).mask_N
    for found, whole in zip(some[:2], every[:2], strict=True):
        assert found is not None and whole is not None
        assert (found[~masked_N] == 0).all()
        torch.testing.assert_close(found[masked_N], whole[masked_N])
        assert (found[masked_N] != 0).all()


def test_a_batch_without_masked_tokens_has_a_backward_of_zeros():
    # A rank whose share of a minibatch is a prompt alone still has to join the backward.
    model = random_model()
    forward_logprobs(model, example([0] * 7), 1.0).logprobs_N.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert model.get_output_embeddings().weight.grad is not None


@pytest.mark.parametrize("first", [0, 4])
def test_the_first_token_of_a_sequence_may_not_be_masked_in(first: int):
    # Its "predecessor" would be the last token of another sequence.
    mask = [int(i == first) for i in range(7)]
    with pytest.raises(AssertionError, match="first token"):
        forward_logprobs(random_model(), example(mask), 1.0)


@pytest.mark.parametrize("kind", ["llama", "llama-tied"])
def test_bfloat16_weights_give_float32_log_probabilities_near_those_of_float32(kind: str):
    model, batch = random_model(kind), example([0, 1, 1, 1, 0, 1, 1])
    exact = forward_logprobs(model, batch, 1.0).logprobs_N.detach()
    model.to(torch.bfloat16)
    rough = forward_logprobs(model, batch, 1.0)
    assert rough.logprobs_N.dtype == torch.float32
    # bfloat16 has 8 bits; logits here are below 16, so each is off by at most some hundredths.
    torch.testing.assert_close(rough.logprobs_N.detach(), exact, atol=0.15, rtol=0)
    rough.logprobs_N.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_chunks_of_a_bfloat16_head_add_up_in_float32(monkeypatch: pytest.MonkeyPatch):
    inputs = head(bias=True, dtype=torch.bfloat16)
    gradients = []
    for chunk in (M, 1):
        chunks_of(chunk, monkeypatch)
        for x in inputs[:3]:
            x.grad = None
        _TokenLogprobs.apply(*inputs, 1.0)[0].sum().backward()
        gradients.append([x.grad for x in inputs[:3]])
    # Products round to bfloat16 (one part in 256) before they are added, sums never do.
    torch.testing.assert_close(gradients[0], gradients[1], atol=0.05, rtol=0.02)


def test_both_paths_to_tied_embeddings_add_up():
    model, batch = random_model("llama-tied"), example([0, 1, 1, 1, 0, 1, 1])
    forward_logprobs(model, batch, 1.0).logprobs_N.sum().backward()
    together = model.get_input_embeddings().weight.grad
    apart = untie(model)
    forward_logprobs(apart, batch, 1.0).logprobs_N.sum().backward()
    halves = [apart.get_input_embeddings().weight.grad, apart.get_output_embeddings().weight.grad]
    assert all(half.abs().max() > 0.01 for half in halves)
    torch.testing.assert_close(together, halves[0] + halves[1], atol=1e-5, rtol=1e-5)


def untie(model: Any) -> Any:
    """The same model with a copy of the embeddings as its head."""
    copy = random_model("llama-tied")
    copy.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    copy.zero_grad()
    return copy


def test_activation_checkpointing_changes_no_gradient():
    model, batch = random_model(), example([0, 1, 1, 1, 0, 1, 1])
    gradients = []
    for checkpointing in (False, True):
        model.train()
        layers = model.model.layers
        calls: list[int] = []
        hooks = [
            layer.self_attn.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
            for layer in layers
        ]
        if checkpointing:
            enable_checkpointing(model)
        model.zero_grad()
        forward_logprobs(model, batch, 1.0).logprobs_N.sum().backward()
        for hook in hooks:
            hook.remove()
        # Each layer runs once, and once more in the backward where its activations were dropped.
        assert len(calls) == len(layers) * (2 if checkpointing else 1)
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], atol=0, rtol=0)


def enable_checkpointing(model: Any) -> None:
    """transformers 5.23 renamed it, and warns at the older name."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:
        model.gradient_checkpointing_enable()
