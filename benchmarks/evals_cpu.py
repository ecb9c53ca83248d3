"""Evaluation on a CPU: `cameleer eval`'s model against lm-eval's Hugging Face backend.

    pip install lm-eval==0.4.13
    GOMP_SPINCOUNT=5000 python benchmarks/evals_cpu.py --questions test.jsonl

To leave the environment as it is, install lm-eval elsewhere and let Python look there last:

    pip install --target /tmp/lm-eval lm-eval==0.4.13
    SITE=$(python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
    PYTHONPATH=$SITE:/tmp/lm-eval GOMP_SPINCOUNT=5000 python benchmarks/evals_cpu.py ...

SmolLM2-135M-Instruct in float32 answers GSM8K's first questions greedily, with the 8 examples, the
chat template and the stop strings of `cameleer.evals.gsm8k`. Both sides read the same tokens, in
one process, with as many threads. Loading and a warm-up are not timed; tokenizing is, and the chat
template for our side only. A token counts if it stands in an answer as it is scored. Batches round
differently, so not all answers have to be equal.

lm-eval answers all questions once with each batch size, and its fastest stands for it. Its ``auto``
is not among them: it begins with 64 sequences of 8,192 tokens, whose logits are 103 GB.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cameleer.data.sources import Source, rows_of
from cameleer.evals import gsm8k
from cameleer.evals.base import Instance
from cameleer.evals.in_process import InProcess
from cameleer.evals.model import Answer, Question
from cameleer.log import quiet_libraries
from cameleer.models.load import load_tokenizer
from cameleer.models.smollm2 import smollm2_135m_instruct

Answers = Callable[[Sequence[Instance]], list[str]]
_WARM_UP = 2


@dataclass(frozen=True)
class Timed:
    """One side's answers to all questions, and what they took."""

    name: str
    texts: list[str]
    wall_s: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--questions", required=True, type=Path, help="GSM8K's test.jsonl")
    parser.add_argument("--questions-count", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--batch-sizes", default="1,8,16,64", help="of lm-eval, to choose from")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    directory = str(smollm2_135m_instruct())
    tokenizer = load_tokenizer(directory)
    rows = itertools.islice(rows_of(Source(path=str(asked.questions))), asked.questions_count)
    instances = gsm8k.instances(list(rows))
    print(
        f"{len(instances)} questions, at most {asked.max_tokens} new tokens, {asked.threads} "
        f"threads, GOMP_SPINCOUNT={os.environ.get('GOMP_SPINCOUNT', 'unset')}",
        flush=True,
    )

    def show(side: Timed) -> None:
        tokens = sum(len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in side.texts)
        verdicts = [
            gsm8k.BENCHMARK.primary.verifier.score(text, instance.truth).value
            for text, instance in zip(side.texts, instances, strict=True)
        ]
        print(
            f"{side.name:<28} {side.wall_s:7.1f} s, {side.cpu_s:7.1f} CPU s, {tokens} tokens, "
            f"{tokens / side.wall_s:6.1f} tok/s, {tokens / side.cpu_s:6.1f} tok/CPU s, "
            f"exact_match {100 * sum(verdicts) / len(verdicts):.1f}",
            flush=True,
        )

    model = InProcess.load(directory, dtype="float32", device="cpu")
    ours = timed("cameleer", cameleer(model, asked.max_tokens), instances)
    show(ours)
    prompts = {instance.id: model.prompt(instance)[0] for instance in instances}
    theirs = []
    for size in map(int, asked.batch_sizes.split(",")):
        answers = lm_eval(directory, prompts, tokenizer, asked.max_tokens, size)
        theirs.append(timed(f"lm-eval, batch size {size}", answers, instances))
        show(theirs[-1])
        same = sum(a == b for a, b in zip(ours.texts, theirs[-1].texts, strict=True))
        print(f"{'':<28} {same} of {len(instances)} answers equal cameleer's", flush=True)
    for unit in ("wall_s", "cpu_s"):
        best = min(theirs, key=lambda side: getattr(side, unit))
        mine, other = getattr(ours, unit), getattr(best, unit)
        print(f"{unit}: {mine:.1f} of cameleer, {other:.1f} of {best.name}: {other / mine:.2f} x")


def timed(name: str, answers: Answers, instances: Sequence[Instance]) -> Timed:
    answers(instances[-_WARM_UP:])
    wall, cpu = time.perf_counter(), os.times()
    texts = answers(instances)
    wall, spent = time.perf_counter() - wall, os.times()
    return Timed(name, texts, wall, spent.user + spent.system - cpu.user - cpu.system)


def cameleer(model: InProcess, max_tokens: int) -> Answers:
    """As `cameleer eval` asks, which takes as many slots."""

    def answers(instances: Sequence[Instance]) -> list[str]:
        found: dict[int, Answer] = {}
        stop = gsm8k.BENCHMARK.stop
        questions = [Question(instance, 0, max_tokens, stop) for instance in instances]
        model.generate(questions, found.__setitem__, temperature=0.0, seed=0)
        return [found[place].text for place in range(len(instances))]

    return answers


def lm_eval(
    directory: str, prompts: dict[str, str], tokenizer: Any, max_tokens: int, batch_size: int
) -> Answers:
    """As lm-eval's tasks ask, with prompts that we rendered."""
    from lm_eval.api.instance import Instance as Asked
    from lm_eval.models.huggingface import HFLM

    with quiet_libraries():
        model: Any = HFLM(
            pretrained=directory,
            dtype="float32",
            device="cpu",
            batch_size=batch_size,
            add_bos_token=False,
        )
    for text in prompts.values():
        assert model.tok_encode(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
    how = {"until": list(gsm8k.BENCHMARK.stop), "max_gen_toks": max_tokens, "do_sample": False}

    def answers(instances: Sequence[Instance]) -> list[str]:
        requests = [
            Asked("generate_until", {}, (prompts[instance.id], how), number)
            for number, instance in enumerate(instances)
        ]
        found: list[str] = model.generate_until(requests, disable_tqdm=True)
        return found

    return answers


if __name__ == "__main__":
    main()
