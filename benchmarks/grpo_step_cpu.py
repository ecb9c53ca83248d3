"""A GRPO step on a CPU: ours against TRL's GRPOTrainer, same model, prompts and settings.

    python benchmarks/grpo_step_cpu.py

SmolLM2-135M-Instruct in float32, 4 prompts x 4 samples x exactly 64 tokens (neither side may end an
answer), beta 0, one update a step, AdamW, two threads. Each side runs in a process of its own, in
turn; a step is everything from the prompts to the updated weights.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROMPTS, SAMPLES, TOKENS = 4, 4, 64


def problems(split: str = "train") -> Iterator[dict[str, str]]:
    """The same sums for both."""
    rng = random.Random(0)
    for _ in range(64):
        one, two = rng.randint(2, 50), rng.randint(2, 50)
        question = f"What is {one}+{two}? Answer with one number."
        yield {"question": question, "answer": f"#### {one + two}"}


def cameleer(steps: int) -> list[dict[str, float]]:
    """Wall and CPU seconds of each step, and what they went into."""
    from cameleer.algorithms.grpo import GRPO
    from cameleer.data.sources import Source
    from cameleer.recipe import Model, Optim, Output, Recipe, Reward, Rollout
    from cameleer.rollout.torch_engine import TorchEngine
    from cameleer.train.online import train_online
    from cameleer.train.run import Run
    from cameleer.verifiers.gsm8k import GSM8K

    class Endless:
        """A tokenizer without an end-of-sequence token."""

        eos_token_id = -1

        def __init__(self, tokenizer: Any) -> None:
            self.decode = tokenizer.decode

    found: list[dict[str, float]] = []

    class Timed(Run):
        def end_step(self, step: int, metrics: dict[str, float]) -> None:
            now = os.times()
            times = {k: v for k, v in metrics.items() if k.startswith("time/")}
            found.append({"cpu": now.user + now.system - self.spent, **times})
            self.spent = now.user + now.system

    with tempfile.TemporaryDirectory() as scratch:
        recipe = Recipe(
            name="step",
            model=Model(source="cameleer.models.smollm2:smollm2_135m_instruct"),
            algorithm=GRPO(beta=0.0),
            data=(Source(path=f"{Path(__file__).stem}:problems", format="gsm8k"),),
            verifiers={"gsm8k": GSM8K()},
            reward=Reward(without_eos=None),
            optim=Optim(learning_rate=1e-5, weight_decay=0.0),
            num_steps=steps,
            rollout=Rollout(num_prompts=PROMPTS, group_size=SAMPLES, max_tokens=TOKENS),
            output=Output(directory=scratch, sample_every=0),
        )
        with Timed(recipe, resume=False) as run:
            run.engine = TorchEngine(run.learner.model, Endless(run.inputs.tokenizer))
            spent = os.times()
            run.spent = spent.user + spent.system
            train_online(run)
    return [{"wall": each["time/step"], **each} for each in found]


def trl(steps: int) -> list[dict[str, float]]:
    """The same of TRL, with the settings that were its fastest here."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from cameleer.models.smollm2 import smollm2_135m_instruct

    torch.set_num_threads(2)
    directory = str(smollm2_135m_instruct())
    rows = [
        {"prompt": [{"role": "user", "content": row["question"]}], "answer": row["answer"][5:]}
        for row in problems()
    ]

    def reward(completions: Any, answer: list[str], **_: Any) -> list[float]:
        return [float(g in c[0]["content"]) for c, g in zip(completions, answer, strict=True)]

    found: list[dict[str, float]] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter(), time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wall, cpu = self.began
            found.append({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu})

    with tempfile.TemporaryDirectory() as scratch:
        settings = GRPOConfig(
            output_dir=scratch,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            per_device_train_batch_size=PROMPTS * SAMPLES,
            gradient_accumulation_steps=1,
            num_generations=SAMPLES,
            max_completion_length=TOKENS,
            generation_kwargs={"min_new_tokens": TOKENS},
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            beta=0.0,
            loss_type="dapo",
            learning_rate=1e-5,
            lr_scheduler_type="constant",
            max_steps=steps,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
        )
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(directory, padding_side="left"),
            reward_funcs=reward,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            callbacks=[Clock()],
        )
        trainer.train()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=4, help="steps a process, the first a warm-up")
    parser.add_argument("--rounds", type=int, default=2, help="processes a side")
    parser.add_argument("--side", choices=["cameleer", "trl"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        steps = {"cameleer": cameleer, "trl": trl}[asked.side](asked.steps)
        print("steps:" + json.dumps(steps))
        return
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    kept: dict[str, list[dict[str, float]]] = {"cameleer": [], "trl": []}
    for number in range(asked.rounds):
        for side, steps in kept.items():
            command = [sys.executable, __file__, "--side", side, "--steps", str(asked.steps)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            line = next(x for x in done.stdout.splitlines() if x.startswith("steps:"))
            found = json.loads(line.removeprefix("steps:"))
            for step in found:
                parts = ", ".join(f"{k} {v:.1f}" for k, v in step.items())
                print(f"round {number + 1}, {side}: {parts}", flush=True)
            steps += found[1:]
    for unit in ("wall", "cpu"):
        values = {side: sorted(step[unit] for step in steps) for side, steps in kept.items()}
        shown = ", ".join(
            f"{side} {statistics.median(v):.1f} s ({v[0]:.1f} to {v[-1]:.1f})"
            for side, v in values.items()
        )
        ratio = statistics.median(values["trl"]) / statistics.median(values["cameleer"])
        print(f"{unit}: {shown}: {ratio:.2f} x")


if __name__ == "__main__":
    main()
