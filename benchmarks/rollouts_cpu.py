"""Rollouts on a CPU: our engine against transformers' `generate` with left padding.

    python benchmarks/rollouts_cpu.py --questions test.jsonl

SmolLM2-135M-Instruct in float32, GSM8K's questions, answers that end where the model ends them.
Both sides sample at temperature 1 from the same prompts, in turn, in one process. Every token that
stands in an answer counts, padding does not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch

from cameleer.data.chat import with_template
from cameleer.data.prompts import load_prompts
from cameleer.data.sources import Source
from cameleer.log import quiet_libraries
from cameleer.models.load import load_model, load_tokenizer
from cameleer.models.smollm2 import smollm2_135m_instruct
from cameleer.rollout.engine import Request, Sampling
from cameleer.rollout.torch_engine import TorchEngine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", required=True, help="GSM8K's test.jsonl")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(2)
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    directory = str(smollm2_135m_instruct())
    tokenizer = load_tokenizer(directory)
    with_template(tokenizer, "tokenizer", directory)
    source = Source(path=asked.questions, format="gsm8k", count=asked.prompts, take="first")
    prompts = load_prompts([source], tokenizer, max_tokens=1024).prompts
    with quiet_libraries():
        ours = load_model(directory, "float32", "cpu")
        theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    engine = TorchEngine(ours, tokenizer, num_slots=asked.prompts * asked.samples)
    requests = [Request(p.id, p.tokens, i) for p in prompts for i in range(asked.samples)]

    def cameleer(seed: int) -> list[int]:
        sampling = Sampling(max_tokens=asked.max_tokens)
        found = engine.generate(requests, sampling, seed=seed, step=0)
        return [len(c.tokens) for c in found]

    longest = max(len(p.tokens) for p in prompts)
    padded = torch.tensor([[2] * (longest - len(r.tokens)) + list(r.tokens) for r in requests])
    mask = torch.tensor([[0] * (longest - len(r.tokens)) + [1] * len(r.tokens) for r in requests])

    @torch.no_grad()
    def transformers(seed: int) -> list[int]:
        torch.manual_seed(seed)
        found = theirs.generate(
            input_ids=padded,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=asked.max_tokens,
            pad_token_id=tokenizer.eos_token_id,
        )[:, longest:]
        ended = (found == tokenizer.eos_token_id).int()
        first = torch.where(ended.any(1), ended.argmax(1) + 1, found.shape[1])
        return [int(n) for n in first]

    sides: dict[str, Callable[[int], list[int]]] = {
        "cameleer": cameleer,
        "transformers": transformers,
    }
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for repeat in range(asked.repeats + 1):
        for name, generate in sides.items():
            wall, cpu = time.perf_counter(), os.times()
            lengths = generate(repeat)
            wall, spent = time.perf_counter() - wall, os.times()
            cpu_s = spent.user + spent.system - cpu.user - cpu.system
            print(
                f"{name:<12} {sum(lengths):>6} tokens, answers of {min(lengths)} to {max(lengths)} "
                f"(mean {statistics.mean(lengths):.0f}), {wall:6.1f} s, {cpu_s:6.1f} CPU s, "
                f"{sum(lengths) / wall:6.1f} tok/s, {sum(lengths) / cpu_s:6.1f} tok/CPU s"
                + ("  (warm-up)" if repeat == 0 else ""),
                flush=True,
            )
            if repeat:
                rates[name].append((sum(lengths) / wall, sum(lengths) / cpu_s))
    for place, unit in enumerate(("tokens a second", "tokens a CPU second")):
        median = {n: statistics.median(r[place] for r in found) for n, found in rates.items()}
        ratio = median["cameleer"] / median["transformers"]
        print(f"{unit}: {median['cameleer']:.1f} and {median['transformers']:.1f}, {ratio:.2f} x")


if __name__ == "__main__":
    main()
