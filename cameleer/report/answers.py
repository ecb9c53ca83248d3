"""A few completions of each kind, the newest first, with what was said of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cameleer.errors import RunError
from cameleer.report.stages import Stage, parent_of
from cameleer.train import rollouts

KINDS = ("right", "wrong", "rated", "truncated", "undecided")
"""Rated is what no verifier read, but a reward model alone."""
_EACH = 3
_FILES = 4
"""Steps that are read for each kind, at most."""


@dataclass(frozen=True)
class Sampled:
    """A completion as its row in rollouts/*.parquet has it."""

    row: Mapping[str, Any]
    kind: str
    prompt: str | None
    """As the model read it. None: no tokenizer of the run is at hand."""


def examples(stage: Stage) -> tuple[dict[str, list[Sampled]], list[str]]:
    """Up to three of each kind from different prompts, and the files that could not be read."""
    decode, unreadable = _decoder(stage), []
    found: dict[str, list[Sampled]] = {kind: [] for kind in KINDS}
    read: dict[Path, list[dict[str, Any]]] = {}
    for kind in KINDS:
        for path in _paths(stage, kind):
            if path not in read:
                try:
                    read[path] = rollouts.read_rows(path)
                except RunError as error:
                    read[path] = []
                    unreadable.append(str(error))
            taken = {sampled.row["prompt_id"] for sampled in found[kind]}
            for row in read[path]:
                if len(found[kind]) < _EACH and kind_of(row) == kind:
                    if row["prompt_id"] not in taken:
                        prompt = decode(row["prompt_tokens"]) if decode else None
                        found[kind].append(Sampled(row, kind, prompt))
                    taken.add(row["prompt_id"])
            if len(found[kind]) == _EACH:
                break
    return found, unreadable


def kind_of(row: Mapping[str, Any]) -> str:
    if any(score["status"] != "scored" for score in row["scores"]):
        return "undecided"
    if row["finish_reason"] == "length":
        return "truncated"
    if not row["scores"]:
        return "rated"
    return "right" if all(score["value"] >= 1 for score in row["scores"]) else "wrong"


def _paths(stage: Stage, kind: str) -> Iterator[Path]:
    """Files that may hold a kind, as far as the metrics tell, the newest first."""
    may: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
        "right": lambda m: m.get("verifiable_rate", 1) > 0,
        "wrong": lambda m: m.get("verifiable_rate", 0) < 1,
        "rated": lambda m: not m or "reward/model" in m,
        "truncated": lambda m: m.get("finish/length", 1) > 0,
        "undecided": lambda m: m.get("status/undecided", 1) + m.get("status/invalid", 1) > 0,
    }
    by_step = {line["step"]: line for line in stage.metrics}
    count = 0
    for path in sorted((stage.directory / "rollouts").glob("step_*.parquet"), reverse=True):
        step = path.stem.removeprefix("step_")
        if step.isdecimal() and may[kind](by_step.get(int(step), {})):
            yield path
            count += 1
        if count == _FILES:
            return


def _decoder(stage: Stage) -> Callable[[Sequence[int]], str] | None:
    """Token ids to text by the run's own tokenizer, which its checkpoints hold."""
    from tokenizers import Tokenizer

    for path in _tokenizers(stage):
        if path.is_file():
            try:
                tokenizer = Tokenizer.from_file(str(path))
            except Exception:  # The library raises plain ones. Prompts are then shown by their ids.
                continue
            return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))
    return None


def _tokenizers(stage: Stage) -> Iterator[Path]:
    for step in reversed(stage.checkpoints()):
        yield stage.directory / f"checkpoints/step_{step}/model/tokenizer.json"
    source = str(stage.recipe.get("model", {}).get("source", ""))
    yield Path(source) / "tokenizer.json"
    if (parent := parent_of(stage, source)) is not None:
        yield from _tokenizers(parent)
