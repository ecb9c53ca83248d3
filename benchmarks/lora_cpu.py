"""What LoRA costs and saves on a CPU: times of a step, memory, and the size of a checkpoint.

    python benchmarks/lora_cpu.py --questions train.jsonl

SmolLM2-135M-Instruct in float32 on GSM8K's questions, each row in a process of its own: SFT, and
GRPO with a KL penalty, whose reference is a second model where all weights are trained. Times are
medians over the steps but the first, in seconds of the clock and of the processor. Memory is the
highest of the process before anything is saved.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cameleer.algorithms.grpo import GRPO
from cameleer.algorithms.sft import SFT
from cameleer.data.sources import Source
from cameleer.models.smollm2 import smollm2_135m_instruct
from cameleer.recipe import LoRA, Model, Optim, Recipe, Rollout, Runtime
from cameleer.train import offline, online
from cameleer.train.collect import Clock
from cameleer.train.session import Session
from cameleer.verifiers.gsm8k import GSM8K


def recipe(kind: str, rank: int, questions: str, num_steps: int) -> Recipe:
    return Recipe(
        name=kind,
        model=Model(
            source=str(smollm2_135m_instruct()), lora=LoRA(rank=rank, alpha=32.0) if rank else None
        ),
        algorithm=SFT() if kind == "sft" else GRPO(beta=0.01),
        data=(Source(path=questions, format="gsm8k", count=256, take="first"),),
        verifiers={"gsm8k": GSM8K()},
        optim=Optim(learning_rate=1e-5),
        num_steps=num_steps,
        batch_size=8 if kind == "sft" else 0,
        rollout=None if kind == "sft" else Rollout(num_prompts=2, group_size=4, max_tokens=128),
        runtime=Runtime(micro_batch_tokens=2048),
    )


def measure(kind: str, rank: int, questions: str, num_steps: int) -> None:
    """Print one row."""
    rows: list[list[float]] = []
    with Session(recipe(kind, rank, questions, num_steps)) as session:
        for step in range(1, num_steps + 1):
            clock, busy = Clock(), time.process_time()
            if kind == "sft":
                offline.execute(session, step, clock)
            else:
                online.execute(session, step, online.collect_step(session, step, clock), clock)
            took = clock.metrics()
            phases = [took.get(f"time/{name}", 0.0) for name in ("rollout", "score", "update")]
            rows.append([*phases, took["time/step"], time.process_time() - busy])
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        with tempfile.TemporaryDirectory() as scratch:
            began = time.perf_counter()
            session.learner.save(Path(scratch))
            saving = time.perf_counter() - began
            size = sum(p.stat().st_size for p in Path(scratch).rglob("*") if p.is_file())
    rollout, score, update, step, busy = (
        statistics.median(column) for column in zip(*rows[1:], strict=True)
    )
    print(
        f"{kind:5} {f'rank {rank}' if rank else 'all':8} {rollout:8.2f} {score:8.2f} {update:8.2f} "
        f"{step:8.2f} {busy:8.2f} {highest / 1e9:10.2f} {saving:8.2f} {size / 1e9:10.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", required=True, help="GSM8K's train.jsonl")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row:
        measure(asked.row[0], int(asked.row[1]), asked.questions, asked.steps)
        return
    smollm2_135m_instruct()
    print(
        "      trained   rollout    score   update     step    CPU s  memory GB   saving    disk GB"
    )
    command = [sys.executable, __file__, "--questions", asked.questions, "--steps"]
    for kind in ("sft", "grpo"):
        for rank in (0, asked.rank):
            row = [*command, str(asked.steps), "--row", kind, str(rank)]
            subprocess.run(row, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})


if __name__ == "__main__":
    main()
