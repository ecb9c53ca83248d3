"""The same numbers on a CUDA device. Skipped where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import dpo, grpo, tiny_llama
from random_models import CONFIGS, random_model
from transformers import LlamaConfig, LlamaForCausalLM

from cameleer.batch import Batch
from cameleer.distributed.launch import run
from cameleer.errors import TrainingError
from cameleer.models import attention
from cameleer.models.logprobs import forward_logprobs
from cameleer.recipe import Runtime
from cameleer.rollout import torch_engine
from cameleer.rollout.engine import Request, Sampling
from cameleer.rollout.kv_cache import Extend
from cameleer.rollout.steps import Step
from cameleer.rollout.torch_engine import TorchEngine
from cameleer.types import Completion

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class Silent:
    """Decodes nothing: what these tests look at is ids."""

    eos_token_id = 1

    def decode(self, tokens: object, *, skip_special_tokens: bool) -> str:
        return ""


def batch_of(lengths: list[int]) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        tokens_N=torch.randint(2, 61, (sum(lengths),), generator=generator),
        lengths_B=torch.tensor(lengths),
        mask_N=torch.cat([torch.arange(n) > 0 for n in lengths]),
    )


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_log_probabilities_and_gradients_are_those_of_the_cpu(kind: str):
    batch, model = batch_of([5, 17, 1, 9, 30, 12]), random_model(kind)
    found = []
    for device in ("cpu", "cuda"):
        model = model.to(device)
        model.zero_grad(set_to_none=True)
        output = forward_logprobs(model, batch.to(device), 0.7)
        output.logprobs_N.sum().backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters()])
        found.append((output.logprobs_N.detach().cpu(), gradient))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_slots", [1, 3, 16])
def test_the_engines_log_probabilities_are_the_learners(num_slots: int):
    model = random_model("llama").to("cuda")
    requests = [Request(f"p:{i}", tuple(range(2, 4 + 3 * i)), s) for i in range(4) for s in (0, 1)]
    engine = TorchEngine(model, Silent(), num_slots=num_slots)
    completions = engine.generate(requests, Sampling(max_tokens=12), seed=0, step=1)
    tokens = [[*r.tokens, *c.tokens] for r, c in zip(requests, completions, strict=True)]
    prompts = [len(r.tokens) for r in requests]
    batch = Batch(
        tokens_N=torch.tensor([t for several in tokens for t in several]),
        lengths_B=torch.tensor([len(several) for several in tokens]),
        mask_N=torch.cat([torch.arange(len(t)) >= p for t, p in zip(tokens, prompts, strict=True)]),
    ).to("cuda")
    with torch.no_grad():
        learner = forward_logprobs(model, batch, 1.0).logprobs_N[batch.mask_N].cpu()
    sampler = torch.tensor([x for c in completions for x in c.logprobs])
    torch.testing.assert_close(sampler, learner, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("dtype", "gap"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_a_run_goes_on_a_gpu(dtype: str, gap: float, tmp_path: Path):
    recipe = grpo(tiny_llama(tmp_path / "model"), tmp_path, runtime=Runtime(device="cuda"))
    recipe = replace(recipe, model=replace(recipe.model, dtype=dtype))
    (directory,) = run(recipe)
    lines = [json.loads(x) for x in (directory / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["step"]]
    assert len(steps) == recipe.num_steps
    assert all(line["engine/logprob_difference_mean"] < gap for line in steps)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_preferences_are_learned_on_a_gpu_as_on_a_cpu(dtype: str, tmp_path: Path):
    model = tiny_llama(tmp_path / "model")
    margins = []
    for device in ("cpu", "cuda"):
        recipe = dpo(model, tmp_path / device, num_steps=8, runtime=Runtime(device=device))
        (directory,) = run(replace(recipe, model=replace(recipe.model, dtype=dtype)))
        lines = [json.loads(x) for x in (directory / "metrics.jsonl").read_text().splitlines()]
        margins.append(lines[-1]["rewards/margins"])
    assert margins[0] > 0.5
    assert margins[1] == pytest.approx(margins[0], rel=1e-3 if dtype == "float32" else 0.2)


def test_sums_over_sequences_are_those_of_the_cpu_and_the_same_every_time():
    generator = torch.Generator().manual_seed(0)
    lengths_B = torch.randint(1, 900, (64,), generator=generator)
    values_N = torch.randn(int(lengths_B.sum()), generator=generator)
    batch = Batch(
        tokens_N=torch.zeros(len(values_N), dtype=torch.long),
        lengths_B=lengths_B,
        mask_N=torch.ones(len(values_N), dtype=torch.bool),
    )
    expected_B = batch.per_sequence(values_N.double())
    on_gpu, values_N = batch.to("cuda"), values_N.to("cuda").requires_grad_()
    found = [on_gpu.per_sequence(values_N) for _ in range(20)]
    torch.testing.assert_close(found[0].cpu().double(), expected_B, atol=1e-4, rtol=1e-5)
    assert all(torch.equal(found[0], other) for other in found)
    weights_B = torch.arange(64.0, device="cuda")
    (found[0] * weights_B).sum().backward()
    assert values_N.grad is not None
    assert torch.equal(values_N.grad, on_gpu.per_token(weights_B))


def flash_llama(**changes: object) -> torch.nn.Module:
    """A Llama with grouped heads of a width that flash attention takes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=61,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            attn_implementation=attention.NAME,
            **changes,
        )
        return LlamaForCausalLM(config).eval()


def test_flash_attention_gives_the_values_and_gradients_of_the_rectangles():
    batch = batch_of([5, 170, 2, 90, 33, 120])
    exact = flash_llama().to("cuda")
    rough = flash_llama().to("cuda", torch.bfloat16)
    assert attention.has_flash(torch.empty(1, 4, 64, device="cuda", dtype=torch.bfloat16))
    found = []
    for model in (exact, rough):
        output = forward_logprobs(model, batch.to("cuda"), 1.0)
        output.logprobs_N.sum().backward()
        gradient = torch.cat([p.grad.float().flatten() for p in model.parameters()])
        found.append((output.logprobs_N.detach(), gradient))
    # bfloat16 has 8 bits: 2^-9 an operation, over three layers.
    for ours, theirs in zip(*found, strict=True):
        assert float((ours - theirs).norm() / ours.norm()) < 2e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_captured_step_decodes_as_the_same_kernels_launched_one_by_one(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    model = flash_llama().to("cuda", dtype)
    requests = [
        Request(f"p:{i}", tuple(range(2, 5 + 3 * i)), sample) for i in range(9) for sample in (0, 1)
    ]

    def answers() -> list[Completion]:
        engine = TorchEngine(model, Silent(), num_slots=16)
        return engine.generate(requests, Sampling(max_tokens=24), seed=0, step=1)

    captured = answers()
    with monkeypatch.context() as patch:
        patch.setattr(
            TorchEngine,
            "captured_step",
            lambda self, _, temperature: Step(self._model, self._cache, temperature),
        )
        plain = answers()
    same = [one.tokens == two.tokens for one, two in zip(captured, plain, strict=True)]
    # Another number of rows rounds otherwise, and a draw near an edge may then fall beside it.
    assert sum(same) >= (len(same) if dtype == torch.float32 else len(same) - 4)


@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_prompts_that_start_from_the_keys_of_another_are_answered_as_alone(
    dtype: torch.dtype, gap: float, monkeypatch: pytest.MonkeyPatch
):
    model = flash_llama().to("cuda", dtype)
    common = tuple(2 + i * i % 59 for i in range(150))
    prompts = [(*common[: 150 - 3 * i], *range(2, 9 + 5 * i)) for i in range(8)]
    requests = [Request(f"p:{i}", p, sample) for i, p in enumerate(prompts) for sample in (0, 1)]
    sampling = Sampling(max_tokens=2)

    def answers() -> list[Completion]:
        engine = TorchEngine(model, Silent(), num_slots=16)
        return engine.generate(requests, sampling, seed=0, step=1)

    extended = []
    attend = Extend.attend

    def counted(self: Extend, *given: Any) -> torch.Tensor:
        extended.append(self.longest)
        return attend(self, *given)

    monkeypatch.setattr(Extend, "attend", counted)
    shared = answers()
    assert extended
    monkeypatch.setattr(torch_engine, "_SHARED", 10_000)
    alone = answers()
    # In bfloat16 a draw near an edge may fall beside it.
    pairs = [p for p in zip(shared, alone, strict=True) if p[0].tokens == p[1].tokens]
    assert len(pairs) >= (16 if dtype == torch.float32 else 12)
    for one, other in pairs:
        assert one.logprobs == pytest.approx(other.logprobs, abs=gap)


def test_weights_that_change_in_place_are_those_a_graph_decodes_with():
    model = flash_llama().to("cuda", torch.bfloat16)
    engine = TorchEngine(model, Silent(), num_slots=16)
    requests = [Request(f"p:{i}", (7, 8, 9)) for i in range(16)]
    before = engine.generate(requests, Sampling(max_tokens=16), seed=0, step=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    after = engine.generate(requests, Sampling(max_tokens=16), seed=0, step=1)
    fresh = TorchEngine(model, Silent(), num_slots=16).generate(
        requests, Sampling(max_tokens=16), seed=0, step=1
    )
    assert [c.tokens for c in after] == [c.tokens for c in fresh]
    assert [c.tokens for c in after] != [c.tokens for c in before]


def test_a_batch_that_does_not_fit_is_refused_before_anything_is_trained(tmp_path: Path):
    runtime = Runtime(device="cuda", micro_batch_tokens=2_000_000)
    recipe = grpo(tiny_llama(tmp_path / "model"), tmp_path, runtime=runtime)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        with pytest.raises(TrainingError, match=r"in the learner: .* Lower runtime\.micro_batch"):
            run(recipe)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert not recipe.directory.exists()
