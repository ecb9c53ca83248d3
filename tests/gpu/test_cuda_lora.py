"""Adapters on a CUDA device: captured graphs decode through them, and saving takes no room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cameleer.batch import Batch
from cameleer.models import attention
from cameleer.models.logprobs import forward_logprobs
from cameleer.models.lora import add_adapter, merged, without_adapter
from cameleer.rollout.engine import Request, Sampling
from cameleer.rollout.steps import CapturedStep, Step
from cameleer.rollout.torch_engine import TorchEngine
from cameleer.types import Completion

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
REQUESTS = [Request(f"p:{i}", tuple(range(2, 5 + 3 * i)), s) for i in range(9) for s in (0, 1)]


class Silent:
    """Decodes nothing: what these tests look at is ids."""

    eos_token_id = 1

    def decode(self, tokens: object, *, skip_special_tokens: bool) -> str:
        return ""


def adapted(dtype: torch.dtype, hidden_size: int = 256) -> Any:
    """A Llama with an adapter that has been trained, by the looks of it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=61,
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            attn_implementation=attention.NAME,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=1,
        )
        model = LlamaForCausalLM(config).eval().to("cuda", dtype)
    add_adapter(model, rank=8, alpha=16.0, targets="all-linear", rslora=False, seed=0)
    change(model, 1)
    return model


@torch.no_grad()
def change(model: Any, seed: int) -> None:
    """In place, as an update does."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)


def answers(engine: TorchEngine) -> list[Completion]:
    return engine.generate(REQUESTS, Sampling(max_tokens=24), seed=0, step=1)


def engine_of(model: Any) -> TorchEngine:
    return TorchEngine(model, Silent(), num_slots=18)


def tokens(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.tokens for completion in completions]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_graph_decodes_through_the_adapter(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    model = adapted(dtype)
    captured = answers(engine_of(model))
    with monkeypatch.context() as patch:

        def plain(self: Any, _: int, temperature: float) -> Step:
            return Step(self._model, self._cache, temperature)

        patch.setattr(TorchEngine, "captured_step", plain)
        eager = answers(engine_of(model))
    same = [one == two for one, two in zip(tokens(captured), tokens(eager), strict=True)]
    # Another number of rows rounds otherwise, and a draw near an edge may then fall beside it.
    assert sum(same) >= (len(same) if dtype == torch.float32 else len(same) - 4)
    with without_adapter(model):
        assert tokens(answers(engine_of(model))) != tokens(captured)


def test_the_engines_log_probabilities_are_the_learners():
    model = adapted(torch.float32)
    found = answers(engine_of(model))
    rows = [[*r.tokens, *c.tokens] for r, c in zip(REQUESTS, found, strict=True)]
    mask = [
        i >= len(r.tokens) for r, row in zip(REQUESTS, rows, strict=True) for i in range(len(row))
    ]
    batch = Batch(
        tokens_N=torch.tensor([token for row in rows for token in row]),
        lengths_B=torch.tensor([len(row) for row in rows]),
        mask_N=torch.tensor(mask),
    ).to("cuda")
    with torch.no_grad():
        learner = forward_logprobs(model, batch, 1.0).logprobs_N[batch.mask_N].cpu()
    sampler = torch.tensor([x for c in found for x in c.logprobs])
    torch.testing.assert_close(sampler, learner, atol=1e-4, rtol=0)


@pytest.mark.parametrize("between", [without_adapter, merged])
def test_a_graph_meets_an_update_whatever_was_done_between(
    between: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    made = []
    make = CapturedStep.__init__
    monkeypatch.setattr(
        CapturedStep, "__init__", lambda *given: (made.append(given[0]), make(*given))[1]
    )
    model = adapted(torch.bfloat16)
    engine = engine_of(model)
    before = tokens(answers(engine))
    graphs = len(made)
    with between(model):
        pass
    assert tokens(answers(engine)) == before
    change(model, 2)
    after = tokens(answers(engine))
    assert len(made) == graphs > 0, "nothing was captured anew"
    assert after == tokens(answers(engine_of(model))) and after != before


def test_merging_leaves_no_second_model_on_the_device():
    model = adapted(torch.bfloat16, hidden_size=1024)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with merged(model):
        assert model.model.layers[0].mlp.up_proj.weight.device.type == "cpu"
        assert torch.cuda.memory_allocated() - before < size / 20
    # One layer at a time, in float32.
    assert torch.cuda.max_memory_allocated() - before < size / 2
    assert torch.cuda.memory_allocated() - before < size / 20
