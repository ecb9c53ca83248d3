"""The longest batch goes first, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import grpo, sft
from safetensors.torch import load_file

from cameleer.batch import Batch
from cameleer.distributed.launch import run
from cameleer.errors import TrainingError
from cameleer.models import logprobs
from cameleer.recipe import Model, Runtime
from cameleer.report.curve import read_metrics
from cameleer.rollout.engine import Request, Sampling
from cameleer.rollout.kv_cache import KVCache
from cameleer.train import probe as probing
from cameleer.train.online import train_online
from cameleer.train.probe import probe, worth_probing
from cameleer.train.run import Run


def seen_by_the_learner(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    batches: list[Batch] = []

    def forward(model: Any, batch: Batch, temperature: float) -> Any:
        batches.append(batch)
        return logprobs.forward_logprobs(model, batch, temperature)

    monkeypatch.setattr(probing, "forward_logprobs", forward)
    return batches


def test_the_learner_sees_the_longest_micro_batch(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    started = Run(grpo(model, tmp_path, runtime=Runtime(micro_batch_tokens=100)), resume=False)
    batches = seen_by_the_learner(monkeypatch)
    # The longest prompt has 28 tokens, and 8 are sampled: two of 36, and 28 more to make 100.
    assert started.inputs.longest == 36
    probe(started.recipe, started.engine, started.learner, 36, 8)
    policy, reference = batches
    assert policy.lengths_B.tolist() == reference.lengths_B.tolist() == [36, 36, 28]
    assert policy.mask_N.split([36, 36, 28])[0].tolist() == [False] * 28 + [True] * 8


def test_a_sequence_longer_than_a_micro_batch_goes_alone(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = sft(model, tmp_path, runtime=Runtime(micro_batch_tokens=20))
    started = Run(recipe, resume=False)
    batches = seen_by_the_learner(monkeypatch)
    probe(recipe, started.engine, started.learner, 36, 8)
    assert [batch.lengths_B.tolist() for batch in batches] == [[36]]


def test_the_engine_fills_every_slot_at_the_full_length(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    caches: list[KVCache] = []
    init = KVCache.__init__

    def keep(self: KVCache, num_slots: int, length: int) -> None:
        init(self, num_slots, length)
        caches.append(self)

    monkeypatch.setattr(KVCache, "__init__", keep)
    started = Run(grpo(model, tmp_path), resume=False)
    with started:
        train_online(started)
    # One allocation for the whole run, before its first step.
    (cache,) = caches
    assert (cache.num_slots, cache.length) == (64, 36)
    keys, _ = cache.layer(0, torch.empty(0), torch.empty(0))
    assert keys.shape[0] == 64


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_probe_changes_no_bit_of_a_run(
    model: Path, tmp_path: Path, dtype: Any, monkeypatch: pytest.MonkeyPatch
):
    recipe = grpo(model, tmp_path, model=Model(source=str(model), dtype=dtype))
    (probed,) = run(replace(recipe, name="probed"))
    monkeypatch.setattr("cameleer.train.run.worth_probing", lambda *_: False)
    monkeypatch.setattr("cameleer.train.run.Run._compare", lambda _: None)
    (bare,) = run(replace(recipe, name="bare"))
    assert (probed / "parity.jsonl").exists() and not (bare / "parity.jsonl").exists()

    def same(line: dict[str, float]) -> dict[str, float]:
        return {k: v for k, v in line.items()
                if not k.startswith(("time/", "throughput/", "engine/drift"))}  # fmt: skip

    assert [*map(same, read_metrics(probed))] == [*map(same, read_metrics(bare))]
    for name in ("model/model.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(d / "checkpoints/step_4" / name) for d in (probed, bare))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_probe_leaves_no_gradient_and_no_other_random_state(
    model: Path, tmp_path: Path, dtype: Any
):
    recipe = grpo(model, tmp_path, model=Model(source=str(model), dtype=dtype))
    started = Run(recipe, resume=False)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    probe(recipe, started.engine, started.learner, 36, 8)
    assert torch.equal(torch.get_rng_state(), before)
    assert started.learner.version == 0 == started.engine.version
    assert all(p.grad is None for p in started.learner.model.parameters())
    assert all(m.grad is None for m in started.learner._trained[""].optimizer.masters)


class Full:
    """An engine for which there is no memory."""

    version = 0

    def load(self, version: int) -> None: ...

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, seed: int, step: int
    ) -> list[Any]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore.")


def test_an_engine_without_memory_names_the_slots(model: Path, tmp_path: Path):
    started = Run(grpo(model, tmp_path), resume=False)
    started.engine = Full()
    with pytest.raises(TrainingError) as error, started:
        raise AssertionError("the run was not refused")
    assert str(error.value) == (
        "The longest possible batch does not fit in memory, in the engine: CUDA out of memory. "
        "Tried to allocate 9 GiB. Lower rollout.num_slots=64. Nothing was trained."
    )
    assert not started.recipe.directory.exists()


@pytest.mark.parametrize(
    ("size", "setting"),
    [(8192, "runtime.micro_batch_tokens=8192"), (20, "rollout.max_tokens or max_prompt_tokens")],
)
def test_a_learner_without_memory_names_what_to_lower(
    model: Path, tmp_path: Path, size: int, setting: str, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried")

    monkeypatch.setattr(probing, "forward_logprobs", full)
    recipe = grpo(model, tmp_path, runtime=Runtime(micro_batch_tokens=size))
    with pytest.raises(TrainingError, match=f"in the learner: .* Lower {setting}. Nothing was"):
        run(recipe)


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(probing, "forward_logprobs", broken)
    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        run(grpo(model, tmp_path))


def test_a_cpu_is_probed_only_where_it_takes_seconds(model: Path, tmp_path: Path):
    recipe = grpo(model, tmp_path)
    # 6 * 0.9 M * 8,192 = 4.4e10 operations for the quickstart, 6.6e12 for SmolLM2-135M.
    assert worth_probing(recipe, 900_000, 36)
    assert not worth_probing(recipe, 135_000_000, 36)
    cuda = replace(recipe, runtime=Runtime(device="cuda"))
    assert worth_probing(cuda, 8_000_000_000, 4096)
