"""What a benchmark is: instances to answer, and verifiers that hold answers against truths."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from cameleer.data.sources import Row, Source, rows_of
from cameleer.errors import DataError
from cameleer.types import Message
from cameleer.verifiers.base import Verifier


@dataclass(frozen=True, slots=True)
class Instance:
    """One question of a benchmark, as the model sees it."""

    id: str
    """``benchmark:row``, stable between versions. Sampling noise is keyed by it."""
    prompt: tuple[Message, ...] | str
    """Turns for the chat template, or a plain text to continue without one."""
    truth: Any
    """What the benchmark's verifiers hold the answer against. It has to survive JSON."""
    prefix: str = ""
    """Begins the assistant's turn; the model goes on from it."""
    subject: str = ""
    """The part of the benchmark it belongs to, for means over subjects."""
    num_parts: int = 1
    """Things asked in it, such as the instructions of an IFEval prompt."""
    choices: tuple[str, ...] = ()
    """Continuations whose log-probabilities are the answer. Empty: the answer is generated."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One way to score the answers: a verifier, and how its verdicts are averaged.

    An answer without a verdict counts as wrong and is counted apart. Of several samples of an
    instance, the mean stands for the instance.
    """

    name: str
    verifier: Verifier
    about: str
    """One line for people: which rule this is."""
    average: Literal["instances", "subjects", "parts"] = "instances"
    """Over instances; the mean of the subjects' means; or over instances weighted by their parts.
    """
    whole: bool = False
    """True: only a score of 1 counts, as 1, and any less as 0."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A task as its published number was made. One file holds one, and all of what it is."""

    name: str
    version: int
    """Raised by every change that can change a score."""
    about: str
    """One line for ``cameleer eval --list``."""
    sources: tuple[Source, ...]
    """Where its questions are on the hub."""
    file: str
    """Where they are below a data directory (``--data``), instead."""
    columns: tuple[str, ...]
    """What each row needs."""
    instances: Callable[[Sequence[Row]], list[Instance]]
    """Prompts from rows, in their order. Raises DataError, naming the row."""
    extract: Callable[[str], str]
    """The answer that the primary metric sees in an output, for people."""
    metrics: tuple[Metric, ...]
    """The first is the primary one: what the published column shows."""
    max_tokens: int
    """Longest answer. A model with less room gets what its context leaves."""
    stop: tuple[str, ...] = ()
    """The output is cut before the first of these."""
    temperature: float = 0.0
    samples: int = 1
    """Answers to each instance."""

    @property
    def primary(self) -> Metric:
        return self.metrics[0]


def load(benchmark: Benchmark, data: Path | None = None) -> list[Instance]:
    """All instances of a benchmark, from the hub or from its file below a data directory.

    Raises DataError where the file is absent, a row lacks a column, or two instances share an id.
    """
    found = list(_rows(benchmark, data))
    for row in found:
        absent = [name for name in benchmark.columns if row.fields.get(name) is None]
        if absent:
            raise DataError(
                f"{row.origin}: the row has no {', '.join(absent)}, which {benchmark.name} needs "
                f"(it has {', '.join(sorted(row.fields)) or 'no columns'}). Use the benchmark's "
                "own file."
            )
    instances = benchmark.instances(found)
    if not instances:
        raise DataError(f"{benchmark.name} has no instances in {data or 'its hub data set'}.")
    ids = {instance.id for instance in instances}
    if len(ids) < len(instances):
        raise DataError(f"{benchmark.name} gives {len(instances) - len(ids)} instances one id.")
    return instances


def text_in(row: Row, column: str) -> str:
    """The text of a row's column. Raises DataError where something else stands there."""
    value = row.fields[column]
    if not isinstance(value, str):
        raise DataError(f"{row.origin}: {column} has to be text, and is {value!r:.60}.")
    return value


def worked_examples(file: str) -> list[dict[str, str]]:
    """The examples of a file in `cameleer/data/fewshot`, in their order."""
    text = resources.files("cameleer.data").joinpath("fewshot", file).read_text(encoding="utf-8")
    examples: list[dict[str, str]] = json.loads(text)
    return examples


def cut_at_stop(text: str, stop: Iterable[str]) -> str:
    """The text before the first stop string."""
    places = [place for place in (text.find(each) for each in stop) if place >= 0]
    return text[: min(places, default=len(text))]


def _rows(benchmark: Benchmark, data: Path | None) -> Iterable[Row]:
    if data is None:
        return itertools.chain.from_iterable(map(rows_of, benchmark.sources))
    path = data / benchmark.file
    if not path.is_file():
        raise DataError(
            f"{path} does not exist: {benchmark.name} reads {benchmark.file} below --data. Put it "
            f"there, or leave --data out to take {benchmark.sources[0].path} from the hub."
        )
    return rows_of(Source(path=str(path)))
