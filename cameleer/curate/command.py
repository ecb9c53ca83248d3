"""The commands ``cameleer data show`` and ``data pairs``: rows as a model sees them, and pairs."""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.text import Text

from cameleer.curate.pairs import Curated, curate
from cameleer.data.chat import with_template
from cameleer.data.preference import load_pairs
from cameleer.data.prompts import Example, Examples, check_truths, load_examples, load_prompts
from cameleer.data.sources import Source, rows_of
from cameleer.errors import RecipeError, RunError
from cameleer.log import console, quiet_libraries

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
            console.print(tokenizer.decode(list(prompt.tokens)), markup=False)
            for check in prompt.checks:
                console.print(f"[bold]{check.verifier}[/] ", end="")
                console.print(str(check.truth), markup=False)
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
        piece = tokenizer.decode(list(example.tokens[place : place + count]))
        text.append(f"⟦{piece}⟧" if trained else piece, style="green" if trained else "dim")
        place += count
    return text


def make(asked: argparse.Namespace) -> int:
    """Answer questions several times with a model, verify, and write pairs and right answers."""
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
    curated = _curated(asked)
    _write(asked.output, curated.pairs)
    console.print(f"{len(curated.pairs):,} pairs -> {asked.output}", markup=False)
    for reason, count in curated.dropped.items():
        console.print(f"{count:,} questions without a pair: {reason}", markup=False)
    if asked.right is not None:
        _write(asked.right, curated.right)
        console.print(f"{len(curated.right):,} right answers -> {asked.right}", markup=False)
    return 0


def _curated(asked: argparse.Namespace) -> Curated:
    import torch

    from cameleer.models.load import load_model, load_tokenizer
    from cameleer.rollout.engine import Sampling
    from cameleer.rollout.torch_engine import TorchEngine
    from cameleer.train.collect import collect
    from cameleer.verifiers.gsm8k import GSM8K
    from cameleer.verifiers.ifeval import IFEval
    from cameleer.verifiers.isolate import VerifierPool
    from cameleer.verifiers.math import Math

    torch.set_num_threads(asked.threads)
    device = asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with quiet_libraries():
        tokenizer = load_tokenizer(asked.model)
        with_template(tokenizer, asked.chat_template, asked.model)
        model = load_model(asked.model, "bfloat16" if device == "cuda" else "float32", device)
    source = _source(asked, asked.count)
    limit = asked.max_prompt_tokens
    known: dict[str, Any] = {"gsm8k": GSM8K(), "math": Math(), "ifeval": IFEval()}
    found = load_prompts([source], tokenizer, max_tokens=limit)
    prompts = check_truths(found, known, [source]).prompts
    used = {check.verifier for prompt in prompts for check in prompt.checks}
    engine = TorchEngine(model, tokenizer, num_slots=asked.slots)
    with VerifierPool({name: known[name] for name in used}, asked.workers) as pool:
        groups = collect(
            engine,
            pool,
            prompts,
            Sampling(max_tokens=asked.max_tokens, temperature=asked.temperature),
            group_size=asked.samples,
            seed=asked.seed,
            step=0,
        )
    return curate(groups, seed=asked.seed)


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


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """All rows or no file."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"Cannot write {path}: {error.strerror}. Name another place.") from error
