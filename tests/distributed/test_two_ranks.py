"""The same loop in one process and under torchrun gives the same losses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cameleer.data.datasets.arithmetic import problems, vocabulary
from cameleer.models.tiny import save_tiny_llama

SCRIPT = Path(__file__).with_name("replayed_run.py")


def metrics(directory: Path) -> list[dict[str, float]]:
    lines = (directory / "replayed" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("lora_rank", ["0", "16"])
def test_two_ranks_have_the_losses_of_one_process(tmp_path: Path, lora_rank: str):
    model = save_tiny_llama(tmp_path / "model", vocabulary(), hidden_size=32, num_layers=2)
    rows = [json.dumps(row) + "\n" for row, _ in zip(problems("test"), range(9), strict=False)]
    (tmp_path / "sums.jsonl").write_text("".join(rows))
    script, rest = [str(SCRIPT), str(model)], [str(tmp_path), lora_rank]
    one = [sys.executable, *script, str(tmp_path / "one"), *rest]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    two = [*torchrun, *script, str(tmp_path / "two"), *rest]
    for command in (one, two):
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]

    alone, together = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    # Both evaluate before the first step, the ranks a share of the questions each.
    start, same = alone.pop(0), together.pop(0)
    assert start["eval/sums/unmarked"] == 1
    assert start == same
    assert {k: v for k, v in alone[-1].items() if k.startswith("eval/")} == {
        k: v for k, v in together[-1].items() if k.startswith("eval/")
    }
    answers = tmp_path / "two" / "replayed" / "evals" / "step_000004" / "sums.parquet"
    assert pq.read_table(answers).num_rows == 9
    assert len(alone) == len(together) == 4
    for step, (a, b) in enumerate(zip(alone, together, strict=True), start=1):
        assert a["groups/zero_variance"] < 1, "a step without contrast would prove nothing"
        for key in ("loss", "policy/kl", "policy/entropy", "optim/grad_norm", "verifiable_rate"):
            # Ranks add the same float32 terms in another order. From factors that begin at 0, AdamW
            # goes by little more than the signs of gradients, and so carries more of it on.
            rel = 1e-5 if lora_rank == "0" else 1e-4
            assert b[key] == pytest.approx(a[key], abs=1e-6, rel=rel), f"step {step}: {key}"
    # The weights have moved, so the steps after the first tested the gathered gradient as well.
    assert alone[-1]["policy/kl"] > 1e-3


RECIPE = """
from cameleer.algorithms.grpo import GRPO
from cameleer.data.sources import Source
from cameleer.recipe import Model, Optim, Output, Recipe, Rollout, Runtime
from cameleer.verifiers.gsm8k import GSM8K


def recipe():
    return Recipe(
        name="shared",
        model=Model(source="{root}/model"),
        algorithm=GRPO(beta=0.1, drop_equal_groups=True),
        data=(Source(path="cameleer.data.datasets.arithmetic:problems", format="gsm8k"),),
        verifiers={{"gsm8k": GSM8K()}},
        optim=Optim(learning_rate=1e-2),
        num_steps=2,
        rollout=Rollout(num_prompts=3, group_size=2, max_tokens=8, max_refills=1),
        runtime=Runtime(num_threads=1),
        output=Output(directory="{root}", sample_every=0, save_every=1),
    )
"""


def test_a_run_of_two_ranks_is_replayed_by_two(tmp_path: Path):
    save_tiny_llama(tmp_path / "model", vocabulary(), hidden_size=32, num_layers=2)
    (tmp_path / "mine.py").write_text(RECIPE.format(root=tmp_path))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "cameleer.cli"]
    for asked in (
        ["run", f"{tmp_path}/mine.py:recipe"],
        ["replay", str(tmp_path / "shared"), "--step", "2"],
    ):
        done = subprocess.run([*command, *asked], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("The step is as it was written down.") == 1
