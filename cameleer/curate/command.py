"""The commands ``cameleer data show`` and ``data pairs``: rows as a model sees them, and pairs."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from typing import Any, Literal

from rich.text import Text

from cameleer.curate.stage import answered, tell
from cameleer.data.chat import with_template
from cameleer.data.preference import load_pairs
from cameleer.data.prompts import Example, Examples, load_examples, load_prompts
from cameleer.data.sources import Source, rows_of
from cameleer.errors import RecipeError, RunError
from cameleer.files import write_lines
from cameleer.log import console, quiet_libraries, visible
from cameleer.recipe import Curate, Model, RewardTerm, Rollout, Runtime
from cameleer.types import DType
from cameleer.verifiers.base import Verifier
from cameleer.verifiers.gsm8k import GSM8K
from cameleer.verifiers.ifeval import IFEval
from cameleer.verifiers.math import Math

_NO_LIMIT = 2**31


def show(asked: argparse.Namespace) -> int:
    """Print rows as token text, what is trained in colour and between brackets."""
    from cameleer.models.load import load_tokenizer

    source = _source(asked, asked.count)
    with quiet_libraries():
        tokenizer = load_tokenizer(asked.model)
    with_template(tokenizer, asked.chat_template, asked.model)
    limit = asked.max_tokens or _NO_LIMIT
    if source.format == "rlvr":
        for prompt in load_prompts([source], tokenizer, max_tokens=limit).prompts:
            console.rule(f"{prompt.id}: {len(prompt.tokens):,} tokens")
            console.print(visible(tokenizer.decode(list(prompt.tokens))), markup=False)
            for check in prompt.checks:
                console.print(f"[bold]{check.verifier}[/] ", end="")
                console.print(visible(str(check.truth)), markup=False)
        return 0
    load = load_pairs if source.format == "preference" else load_examples
    found = load([source], tokenizer, max_tokens=limit)
    for number, item in enumerate(found.items):
        names = ("chosen", "rejected") if len(item) == 2 else ("",)
        for name, example in zip(names, item, strict=True):
            title = f"{example.source}:{number} {name}".strip()
            trained = sum(example.mask)
            console.rule(f"{title}: {len(example.tokens):,} tokens, {trained:,} of them trained")
            console.print(coloured(example, tokenizer))
    _tell(found)
    return 0


def coloured(example: Example, tokenizer: Any) -> Text:
    """The decoded tokens; trained ones in green between ``⟦`` and ``⟧``."""
    text = Text()
    place = 0
    for trained, run in itertools.groupby(example.mask):
        count = len(list(run))
        piece = visible(tokenizer.decode(list(example.tokens[place : place + count])))
        text.append(f"⟦{piece}⟧" if trained else piece, style="green" if trained else "dim")
        place += count
    return text


def make(asked: argparse.Namespace) -> int:
    """Answer questions several times with a model, rate, and write pairs and right answers."""
    if asked.samples < 2:
        raise RecipeError(f"--samples is {asked.samples}; a pair takes 2 answers or more.")
    if asked.temperature <= 0:
        raise RecipeError(
            f"--temperature is {asked.temperature}: all answers would be equal. Set it above 0."
        )
    outputs = [path for path in (asked.output, asked.right) if path is not None]
    for path in outputs:
        if path.exists():
            raise RunError(f"{path} exists already. Name another file, or delete it.")
    stage = _stage(asked)
    stage.validate()
    found, _ = answered(stage)
    for path, rows in zip(outputs, (found.pairs, found.right), strict=False):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_lines(path, rows)
        except OSError as error:
            raise RunError(f"Cannot write {path}: {error.strerror}. Name another place.") from error
    tell(found, ", ".join(map(str, outputs)))
    return 0


def _stage(asked: argparse.Namespace) -> Curate:
    import torch

    device: Literal["cpu", "cuda"] = asked.device or (
        "cuda" if torch.cuda.is_available() else "cpu"
    )
    dtype: DType = "bfloat16" if device == "cuda" else "float32"
    known: dict[str, Verifier] = {"gsm8k": GSM8K(), "math": Math(), "ifeval": IFEval()}
    judge = RewardTerm(source=asked.reward_model, dtype=dtype) if asked.reward_model else None
    return Curate(
        name="pairs",
        model=Model(source=asked.model, dtype=dtype, chat_template=asked.chat_template),
        data=(_source(asked, asked.count),),
        verifiers={} if asked.no_verifiers else known,
        reward_model=judge,
        rollout=Rollout(
            num_prompts=_NO_LIMIT,
            group_size=asked.samples,
            max_tokens=asked.max_tokens,
            max_prompt_tokens=asked.max_prompt_tokens,
            temperature=asked.temperature,
            num_slots=asked.slots,
        ),
        seed=asked.seed,
        runtime=Runtime(
            device=device, num_threads=asked.threads, num_verifier_workers=asked.workers
        ),
    )


def _source(asked: argparse.Namespace, count: int | None) -> Source:
    """The source that was asked for, or as many of its first rows as there are up to a count."""
    source = Source(
        path=asked.source, format=asked.format, split=asked.split, subset=asked.subset, take="first"
    )
    num_rows = sum(1 for _ in itertools.islice(rows_of(source), count))
    return replace(source, count=num_rows) if count and num_rows else source


def _tell(found: Examples) -> None:
    (tally,) = found.sources
    if tally.truncated:
        console.print(f"{tally.truncated:,} cut at --max-tokens")
    for reason, count in tally.dropped.items():
        console.print(f"{count:,} left out: {reason}", markup=False)
