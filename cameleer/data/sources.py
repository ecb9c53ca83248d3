"""Rows, wherever they are: a file, a Hugging Face data set, or a Python function."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cameleer.errors import DataError, RecipeError, nearest
from cameleer.user_files import blaming, find

Format = Literal["rlvr", "gsm8k", "math", "chat", "preference"]

REQUIRED: dict[Format, tuple[tuple[str, ...], ...]] = {
    "rlvr": (("messages",), ("ground_truth",), ("dataset",)),
    "gsm8k": (("question",), ("answer",)),
    "math": (("problem",), ("solution", "answer")),
    "chat": (("messages",),),
    "preference": (("chosen",), ("rejected",)),
}
"""Columns of each format; of a tuple with several, one is enough."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set of a recipe.

    Formats: `rlvr` has the columns of allenai/RLVR-GSM-MATH-IF-Mixed-Constraints; `gsm8k` and
    `math` are the raw rows of those sets; `chat` has `messages` alone, for imitation;
    `preference` has `chosen` and `rejected`, as conversations or as answers to a `prompt`.
    """

    path: str
    """A .jsonl, .jsonl.gz or .parquet file, a hub id, or ``module:function`` or
    ``file.py:function`` that is given the split and yields rows."""
    format: Format = "rlvr"
    name: str = ""
    """Key of this source in metrics. Empty: the format, or the row's own `dataset`."""
    split: str = "train"
    """Split of a hub data set, or the argument of the function."""
    subset: str | None = None
    """Configuration of a hub data set that has several, such as "main" of openai/gsm8k."""
    revision: str | None = None
    """Commit of a hub data set. None takes the newest, which is not the same run next year."""
    few_shot: bool = False
    """Put the published worked examples before the question (gsm8k: 8, math: 4)."""
    skip_rows: int = 0
    """Leave out the first so many rows, which another stage may have."""
    max_rows: int | None = None
    """Take so many rows, or all that are left."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row and where it stands, ``file:line``."""

    fields: dict[str, Any]
    origin: str


def read_rows(source: Source) -> list[Row]:
    """All rows of a source, with their columns checked. Raises DataError, naming the row."""
    if source.format not in REQUIRED:
        raise DataError(
            f"{source.path} has the unknown format '{source.format}'."
            f"{nearest(source.format, REQUIRED)} There are {', '.join(REQUIRED)}."
        )
    if source.few_shot and source.format not in ("gsm8k", "math"):
        raise DataError(
            f"{source.path} asks for few_shot with format '{source.format}', whose prompts are "
            "used as they are. Only gsm8k and math have worked examples to put before a question."
        )
    end = None if source.max_rows is None else source.skip_rows + source.max_rows
    rows = list(itertools.islice(rows_of(source), source.skip_rows, end))
    if not rows:
        left = f" after the first {source.skip_rows:,}" if source.skip_rows else ""
        raise DataError(f"{source.path} has no rows{left}. Training needs at least one.")
    for row in rows:
        for names in REQUIRED[source.format]:
            if all(row.fields.get(name) is None for name in names):
                filled = (str(name) for name, value in row.fields.items() if value is not None)
                present = ", ".join(sorted(filled)) or "no columns"
                raise DataError(
                    f"{row.origin}: the row has no {' or '.join(names)}, which format "
                    f"'{source.format}' needs (it has {present}). Mend the row, or name another "
                    f"format of {', '.join(REQUIRED)}."
                )
    return rows


def is_local(path: str) -> bool:
    """True where reading needs no network."""
    return ":" in path or Path(path).exists() or _looks_like_a_file(path)


def rows_of(source: Source) -> Iterator[Row]:
    """All rows of a source as they are: format, skip_rows and max_rows are the caller's."""
    path = Path(source.path).expanduser()
    if path.is_file():
        return rows_of_file(path)
    if ":" in source.path:
        return _function_rows(source)
    if _looks_like_a_file(source.path):
        return rows_of_file(path)
    return _hub_rows(source)


def rows_of_file(path: Path) -> Iterator[Row]:
    """The rows of a .jsonl, .jsonl.gz or .parquet file; their columns are not checked."""
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        state = "is a directory" if path.is_dir() else "does not exist"
        raise DataError(
            f"{path} {state}.{nearest(path.name, siblings)} Paths are taken from the directory the "
            "command runs in."
        )
    return _parquet_rows(path) if path.suffix == ".parquet" else _jsonl_rows(path)


def _looks_like_a_file(path: str) -> bool:
    return path.endswith((".jsonl", ".json", ".gz", ".parquet")) or path.startswith((".", "/", "~"))


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        origin = f"{path}:{number}"
        try:
            fields = json.loads(line)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{origin}: not UTF-8 text ({error.reason}). Convert the file."
            ) from error
        except json.JSONDecodeError as error:
            raise DataError(
                f"{origin}: not valid JSON ({error.msg} at column {error.colno}). Each line "
                "holds one JSON object; mend or delete this one."
            ) from error
        if not isinstance(fields, dict):
            raise DataError(f"{origin}: a {type(fields).__name__} where a JSON object is expected.")
        yield Row(fields, origin)


def _lines(path: Path) -> Iterator[bytes]:
    if path.suffix != ".gz":
        with open(path, "rb") as file:
            yield from file
        return
    try:
        with gzip.open(path, "rb") as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            for fields in batch.to_pylist():
                number += 1
                yield Row(fields, f"{path}:{number}")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file: {error}") from error


def _function_rows(source: Source) -> Iterator[Row]:
    try:
        function = find(source.path)
    except RecipeError as error:
        raise DataError(
            f"The data source {source.path} cannot be imported: {error} It has to be "
            "module:function or file.py:function, where the function takes a split and yields rows."
        ) from error
    for number, fields in enumerate(_yielded(function, source), start=1):
        origin = f"{source.path}:{number}"
        if not isinstance(fields, dict):
            raise DataError(f"{origin}: a {type(fields).__name__} where a dict is expected.")
        yield Row(fields, origin)


def _yielded(function: Callable[[str], Iterable[Any]], source: Source) -> Iterator[Any]:
    try:
        with blaming(source.path):
            yield from function(source.split)
    except RecipeError as error:
        raise DataError(str(error)) from error


def _hub_rows(source: Source) -> Iterator[Row]:
    from datasets import load_dataset

    where = f"{source.path}[{source.split}]"
    try:
        dataset = load_dataset(
            source.path, source.subset, split=source.split, revision=source.revision
        )
    except Exception as error:  # The hub client raises a dozen kinds; all mean the same here.
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise DataError(
            f"{where} could not be loaded: {reason} Check the name, split and network, or give a "
            "local .jsonl or .parquet file."
        ) from error
    for number, fields in enumerate(dataset, start=1):
        yield Row(dict(fields), f"{where}:{number}")
