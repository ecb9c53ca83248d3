"""GSM8K's test questions, answered by a checkpoint: avg@k at temperature 1, and greedily.

    python benchmarks/gsm8k_avg.py answer MODEL --questions test.jsonl --out after.json
    python benchmarks/gsm8k_avg.py compare before.json after.json
    python benchmarks/gsm8k_avg.py keep half.jsonl half.json --out kept.jsonl

`keep` writes the questions that some answers get right and others wrong: GRPO learns from those.
`compare` is paired: it draws questions anew, 10,000 times, and takes both models' answers to each.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from cameleer.data.chat import with_template
from cameleer.data.prompts import load_prompts
from cameleer.data.sources import Source
from cameleer.models.load import load_model, load_tokenizer
from cameleer.rollout.engine import Sampling
from cameleer.rollout.torch_engine import TorchEngine
from cameleer.train.collect import Clock, collect
from cameleer.verifiers.gsm8k import GSM8K
from cameleer.verifiers.isolate import VerifierPool


def answer(asked: argparse.Namespace) -> None:
    """Verdicts for every question, written as JSON."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(asked.model)
    with_template(tokenizer, "tokenizer", asked.model)
    model = load_model(asked.model, "bfloat16" if device == "cuda" else "float32", device)
    source = Source(path=asked.questions, format="gsm8k", count=asked.count, take="first")
    prompts = load_prompts([source], tokenizer, max_tokens=1024).prompts
    engine = TorchEngine(model, tokenizer, num_slots=asked.slots)
    found: dict[str, object] = {"model": Path(asked.model).name, "questions": len(prompts)}
    with VerifierPool({"gsm8k": GSM8K()}) as pool:
        for name, temperature, samples in (("greedy", 0.0, 1), ("sampled", 1.0, asked.samples)):
            clock = Clock()
            groups = collect(
                engine,
                pool,
                prompts,
                Sampling(max_tokens=asked.max_tokens, temperature=temperature),
                group_size=samples,
                seed=asked.seed,
                step=0,
                clock=clock,
            )
            completions = [c for g in groups for c in g.completions]
            tokens = sum(len(c.tokens) for c in completions)
            found[name] = {
                "right": [[int(s[0].value >= 1) for s in g.scores] for g in groups],
                "undecided": sum(s[0].status != "scored" for g in groups for s in g.scores),
                "mean_tokens": tokens / len(completions),
                "truncated": sum(c.finish_reason == "length" for c in completions),
                "tokens_per_s": tokens / clock.seconds["rollout"],
                "seconds": clock.seconds,
            }
            mean, low, high = interval(np.array(found[name]["right"]).mean(1))
            print(
                f"{asked.model}: {name} {mean:.2%} [{low:.2%}, {high:.2%}], "
                f"{tokens / len(completions):.0f} tokens, "
                f"{tokens / clock.seconds['rollout']:,.0f} tok/s",
                flush=True,
            )
    Path(asked.out).write_text(json.dumps(found))


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean over questions with a 95 % bootstrap interval."""
    generator = np.random.default_rng(seed)
    count = len(values)
    means = np.array([values[generator.integers(0, count, count)].mean() for _ in range(10_000)])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def compare(asked: argparse.Namespace) -> None:
    """The difference of two models on the same questions."""
    before, after = (json.loads(Path(path).read_text()) for path in (asked.before, asked.after))
    for name in ("sampled", "greedy"):
        one, two = (np.array(found[name]["right"]).mean(1) for found in (before, after))
        mean, low, high = interval(two - one)
        error = float((two - one).std(ddof=1) / len(one) ** 0.5)
        print(
            f"{name}: {one.mean():.2%} -> {two.mean():.2%}, difference {mean:+.2%} "
            f"[{low:+.2%}, {high:+.2%}], standard error {error:.2%}: {mean / error:+.1f} of them"
        )


def keep(asked: argparse.Namespace) -> None:
    """Questions between never and always right."""
    rows = Path(asked.questions).read_text(encoding="utf-8").splitlines()
    found = json.loads(Path(asked.answers).read_text())
    rates = np.array(found["sampled"]["right"]).mean(1)
    chosen = [row for row, rate in zip(rows, rates, strict=True) if 0 < rate < 1]
    Path(asked.out).write_text("".join(row + "\n" for row in chosen), encoding="utf-8")
    print(f"kept {len(chosen):,} of {len(rows):,} questions, all of them {rates.mean():.2%} right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("answer")
    command.add_argument("model")
    command.add_argument("--questions", required=True)
    command.add_argument("--out", required=True)
    command.add_argument("--samples", type=int, default=16)
    command.add_argument("--max-tokens", type=int, default=320)
    command.add_argument("--count", type=int)
    command.add_argument("--slots", type=int, default=1024)
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=answer)
    command = commands.add_parser("compare")
    command.add_argument("before")
    command.add_argument("after")
    command.set_defaults(run=compare)
    command = commands.add_parser("keep")
    command.add_argument("questions", help="the .jsonl file that was answered")
    command.add_argument("answers", help="what `answer` wrote")
    command.add_argument("--out", required=True)
    command.set_defaults(run=keep)
    asked = parser.parse_args()
    began = time.perf_counter()
    asked.run(asked)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
