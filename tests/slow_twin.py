"""What the engine has to equal: a plain loop that knows neither slots, caches nor filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from cameleer.models import attention
from cameleer.rollout.engine import Request, Sampling
from cameleer.rollout.sampling import greedy_tokens, noise, sample_tokens
from cameleer.rollout.torch_engine import TorchEngine
from cameleer.types import Completion

EOS = 1


class Letters:
    """Token 2 reads "a", token 3 "b" and so on; the end-of-sequence token reads nothing."""

    eos_token_id = EOS

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(chr(ord("a") + t - 2) for t in tokens if t != EOS)


def engine_of(model: nn.Module, **options: Any) -> TorchEngine:
    return TorchEngine(model, Letters(), **options)


@torch.no_grad()
def slow_twin(model: Any, request: Request, sampling: Sampling, seed: int, step: int) -> Completion:
    """Computes the whole sequence anew for each token, with the model's own attention."""
    limit = min(sampling.max_tokens, request.max_tokens or sampling.max_tokens)
    uniforms = noise(seed, step, request.prompt_id, request.sample, limit)
    tokens, logprobs, gaps = list(request.tokens), [], []
    model.set_attn_implementation("eager")
    for uniform in uniforms:
        logits_V = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
        logits_SV = logits_V[None].float() / (sampling.temperature or 1.0)
        if sampling.temperature:
            token_S, logprob_S = sample_tokens(logits_SV, torch.tensor([uniform]))
            # How far the uniform is from the ends of the drawn token's interval.
            ends = logits_SV[0].double().softmax(-1).cumsum(-1)
            gaps.append(float((ends - uniform).abs().min()))
        else:
            token_S, logprob_S = greedy_tokens(logits_SV)
            first, second = logits_SV[0].topk(2).values
            gaps.append(float(first - second))
        tokens.append(int(token_S))
        logprobs.append(float(logprob_S))
        if tokens[-1] == EOS:
            break
    model.set_attn_implementation(attention.NAME)
    # A draw so near to another token may fall to either, as rounding has it.
    assert min(gaps) > 1e-4 if sampling.temperature == 0 else min(gaps) > 1e-6
    answer = tuple(tokens[len(request.tokens) :])
    reason = "eos" if answer[-1] == EOS else "length"
    text = Letters().decode(answer, skip_special_tokens=True)
    return Completion(answer, text, tuple(logprobs), reason, 0)


def assert_same(found: Completion, expected: Completion) -> None:
    assert found.tokens == expected.tokens
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert (found.text, found.finish_reason) == (expected.text, expected.finish_reason)
