"""What an evaluation leaves behind: every answer as it comes, a row an answer, and the results.

``config.json`` says what was asked of whom, ``answers.jsonl`` grows while the model answers,
``<benchmark>.parquet`` holds its scored answers, and ``results.json``, written last, the scores.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cameleer.errors import RunError
from cameleer.evals.base import Instance
from cameleer.evals.model import Answer, num_shared
from cameleer.files import (
    append_lines,
    make_directory,
    read_json,
    read_lines,
    unwritable,
    write_json,
)
from cameleer.types import Score

_SCORE = pa.struct(
    [
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("instance", pa.string()),
        ("sample", pa.int32()),
        ("subject", pa.string()),
        ("num_parts", pa.int32()),
        ("prompt", pa.string()),
        ("prompt_sha", pa.string()),
        ("output", pa.string()),
        ("extraction", pa.string()),
        ("num_tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("truth", pa.string()),
        ("scores", pa.list_(_SCORE)),
    ]
)
"""`truth` is JSON. The output of log-likelihoods is the JSON list of them."""

Key = tuple[str, int]
"""Instance and sample."""


class OtherEvaluationError(RunError):
    """A directory holds the answers of another model, or to other questions."""


class Row(NamedTuple):
    """A scored answer."""

    instance: Instance
    sample: int
    prompt: str
    answer: Answer
    extraction: str
    scores: Mapping[str, Score]
    """By metric, as they count: 0 where there was no verdict."""


class Store:
    """The directory of one evaluation."""

    def __init__(self, directory: Path, config: Mapping[str, Any]) -> None:
        """Open it anew, or go on where the same evaluation stopped.

        Raises RunError where it holds another one, or cannot be written.
        """
        self.directory = directory
        self._answers = directory / "answers.jsonl"
        if not directory.exists():
            make_directory(directory, {"config.json": config})
        elif not (directory / "config.json").exists():
            raise RunError(f"{directory} exists and holds no evaluation. Give another --output.")
        stored = read_json(directory / "config.json")
        # The same weights may lie elsewhere by now.
        stored["model"]["name"] = config["model"]["name"]
        if difference := _first_difference(stored, json.loads(json.dumps(config))):
            raise OtherEvaluationError(
                f"{directory} holds another evaluation: {difference}. Give this one another "
                "--output, or delete that one."
            )

    @property
    def is_finished(self) -> bool:
        return (self.directory / "results.json").exists()

    def answers(self, benchmarks: Sequence[str]) -> dict[str, dict[Key, Answer]]:
        """What was answered so far, by benchmark. Only who holds the directory's lock may ask."""
        with writing(self.directory):
            _drop_unfinished_line(self._answers)
        found: dict[str, dict[Key, Answer]] = {name: {} for name in benchmarks}
        for line in read_lines(self._answers):
            answer = Answer(line["text"], line["num_tokens"], line["finish_reason"])
            found[line["benchmark"]][line["instance"], line["sample"]] = answer
        return found

    def add(self, benchmark: str, instance: str, sample: int, answer: Answer) -> None:
        """Keep an answer, so that a kill does not lose it."""
        line = {
            "benchmark": benchmark,
            "instance": instance,
            "sample": sample,
            "text": answer.text,
            "num_tokens": answer.num_tokens,
            "finish_reason": answer.finish_reason,
        }
        with writing(self.directory):
            append_lines(self._answers, [line])

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write the results, last of all."""
        with writing(self.directory):
            write_json(self.directory / "results.json", results)
            self._answers.unlink(missing_ok=True)


def write_rows(directory: Path, benchmark: str, rows: Sequence[Row]) -> None:
    """Write a benchmark's answers, whole or not at all."""
    table = pa.Table.from_pylist(
        [
            {
                "instance": instance.id,
                "sample": sample,
                "subject": instance.subject,
                "num_parts": instance.num_parts,
                "prompt": encodable(prompt),
                "prompt_sha": sha(prompt),
                "output": answer.text,
                "extraction": encodable(extraction),
                "num_tokens": answer.num_tokens,
                "finish_reason": answer.finish_reason,
                "truth": encodable(json.dumps(instance.truth, ensure_ascii=False)),
                "scores": [
                    {
                        "metric": name,
                        "value": score.value,
                        "status": score.status,
                        "reason": encodable(score.reason),
                    }
                    for name, score in scores.items()
                ],
            }
            for instance, sample, prompt, answer, extraction, scores in rows
        ],
        SCHEMA,
    )
    path = directory / f"{benchmark}.parquet"
    partial = path.with_suffix(".partial")
    with writing(directory):
        pq.write_table(table, partial, compression="zstd")
        os.replace(partial, path)


def read_rows(directory: Path, benchmark: str) -> list[dict[str, Any]]:
    """The rows that `write_rows` wrote. Raises RunError where they are absent or damaged."""
    path = directory / f"{benchmark}.parquet"
    try:
        found: list[dict[str, Any]] = pq.read_table(path, schema=SCHEMA).to_pylist()
    except (OSError, pa.ArrowException) as error:
        why = str(error).strip().split("\n")[0]
        raise RunError(f"Cannot read the answers {path}: {why}.") from error
    return found


def values(rows: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    """What each instance got in a metric, the mean over its samples, in the order of the rows."""
    found: dict[str, list[float]] = {}
    for row in rows:
        value = next(score["value"] for score in row["scores"] if score["metric"] == metric)
        found.setdefault(row["instance"], []).append(value)
    return [sum(each) / len(each) for each in found.values()]


def sha(text: str) -> str:
    """What tells prompts apart, short."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def encodable(text: str) -> str:
    """The text with every half of a character, which UTF-8 cannot hold, replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Raises RunError where the disk is full, read-only or somebody else's."""
    try:
        yield
    except OSError as error:
        raise unwritable(directory, error) from error


def _drop_unfinished_line(path: Path) -> None:
    """A kill may leave half a line, which the next one would be written behind."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def _first_difference(stored: Any, asked: Any, name: str = "") -> str:
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in [*asked, *(stored.keys() - asked.keys())]:
            below = f"{name}.{key}" if name else key
            if found := _first_difference(stored.get(key), asked.get(key), below):
                return found
        return ""
    if stored == asked:
        return ""
    if isinstance(stored, str) and isinstance(asked, str):
        # Chat templates may part far from their beginning.
        begin = max(0, num_shared(stored, asked) - 40)
        stored, asked = stored[begin:], asked[begin:]
    return f"its {name} is {stored!r:.80}, and here it is {asked!r:.80}"
