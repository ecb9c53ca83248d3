"""Rows, wherever they are: a file, a Hugging Face data set, or a Python function."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cameleer.errors import DataError, RecipeError, RowError, nearest
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
    `math` are the raw rows of those sets; `chat` has `messages` alone, to imitate, or
    as questions to which a reward model rates the answers;
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
    share: float | None = None
    """Take this share of the rows: 0.5 is half of them, 2.5 all of them twice and half again."""
    count: int | None = None
    """Take so many rows. Neither share nor count: all of them, once."""
    take: Literal["random", "first"] = "random"
    """Whether a part is drawn by the recipe's seed or is the first rows, as in Tulu 3's runs."""
    bad_rows: Literal["error", "skip"] = "error"
    """What a row that cannot be used does: end the run, or be left out and counted by reason."""
    license: str = ""
    """Terms of the data, such as "odc-by", for the model card."""

    def problems(self) -> Iterator[str]:
        """What cannot work, without looking at the rows."""
        share, count = self.share, self.count
        if self.format not in REQUIRED:
            yield (
                f"{self.path} has the unknown format '{self.format}'."
                f"{nearest(self.format, REQUIRED)} There are {', '.join(REQUIRED)}."
            )
        if self.few_shot and self.format not in ("gsm8k", "math"):
            yield (
                f"{self.path} asks for few_shot with format '{self.format}', whose prompts are "
                "used as they are. Only gsm8k and math have worked examples to put before a "
                "question."
            )
        if share is not None and count is not None:
            yield f"{self.path} has a share ({share}) and a count ({count}). Give one of them."
        if share is not None and not 0 < share < math.inf:
            yield f"{self.path} has share={share}. Give a number above 0, such as 0.5 or 2."
        if count is not None and count < 1:
            yield f"{self.path} has count={count}. Give 1 or more, or leave the source out."
        if self.skip_rows < 0:
            yield f"{self.path} has skip_rows={self.skip_rows}; it counts rows, from 0."
        for name, known in (("take", ("random", "first")), ("bad_rows", ("error", "skip"))):
            if getattr(self, name) not in known:
                yield f"{self.path} has {name}={getattr(self, name)!r}, not {' or '.join(known)}."


@dataclass(frozen=True, slots=True)
class Row:
    """A row and where it stands, ``file:line``."""

    fields: dict[str, Any]
    origin: str


Entry = Row | RowError
"""A row, or why what stands in its place is none."""


@dataclass(frozen=True)
class Opened:
    """A source as it is found now."""

    entries: Callable[[], Iterator[Entry]]
    """All of its rows, skip_rows too, each time it is called."""
    num_rows: int | None = None
    """How many those are. None: only running the function would tell."""
    sha256: str = ""
    """Of a file."""
    commit: str = ""
    """Of a hub data set. Empty where the hub's client cannot tell."""


def open_source(source: Source) -> Opened:
    """Raises DataError for a source that is not there or cannot be as it is described."""
    for problem in source.problems():
        raise DataError(problem)
    path = local_file(source)
    if path is not None:
        _need_file(path)
        return Opened(lambda: _file_entries(path), _rows_in(path), sha256_of(path))
    if ":" in source.path:
        return Opened(lambda: _function_entries(source))
    dataset = _hub_dataset(source)
    return Opened(lambda: _hub_entries(source, dataset), len(dataset), commit=_commit(dataset))


def check_columns(row: Row, format: Format) -> None:
    """Raises RowError where a row lacks a column of its format."""
    for names in REQUIRED[format]:
        if all(row.fields.get(name) is None for name in names):
            missing = " or ".join(names)
            filled = (str(name) for name, value in row.fields.items() if value is not None)
            present = ", ".join(sorted(filled)) or "no columns"
            raise RowError(
                f"{row.origin}: the row has no {missing}, which format '{format}' needs (it has "
                f"{present}). Mend the row, or name another format of {', '.join(REQUIRED)}.",
                f"no {missing}",
            )


def local_file(source: Source) -> Path | None:
    """The file that a source names, whether it is there or not. None: it names no file."""
    path = Path(source.path).expanduser()
    named = path.is_file() or (":" not in source.path and _looks_like_a_file(source.path))
    return path if named else None


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_local(path: str) -> bool:
    """True where reading needs no network."""
    return ":" in path or Path(path).exists() or _looks_like_a_file(path)


def rows_of(source: Source) -> Iterator[Row]:
    """All rows of a source as they are: what to make of them, and how many, is the caller's."""
    path = local_file(source)
    return rows_of_file(path) if path else map(_row, open_source(source).entries())


def rows_of_file(path: Path) -> Iterator[Row]:
    """The rows of a .jsonl, .jsonl.gz or .parquet file; their columns are not checked."""
    _need_file(path)
    return map(_row, _file_entries(path))


def _row(entry: Entry) -> Row:
    if isinstance(entry, RowError):
        raise entry
    return entry


def _need_file(path: Path) -> None:
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        state = "is a directory" if path.is_dir() else "does not exist"
        raise DataError(
            f"{path} {state}.{nearest(path.name, siblings)} Paths are taken from the directory the "
            "command runs in."
        )


def _file_entries(path: Path) -> Iterator[Entry]:
    return _parquet_entries(path) if path.suffix == ".parquet" else _jsonl_entries(path)


def _rows_in(path: Path) -> int:
    """Counted without reading a row."""
    if path.suffix != ".parquet":
        return sum(1 for line in _lines(path) if line.strip())
    import pyarrow.parquet as pq

    with _readable(path):
        return int(pq.read_metadata(path).num_rows)


def _looks_like_a_file(path: str) -> bool:
    return path.endswith((".jsonl", ".json", ".gz", ".parquet")) or path.startswith((".", "/", "~"))


def _jsonl_entries(path: Path) -> Iterator[Entry]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        origin = f"{path}:{number}"
        try:
            fields = json.loads(line)
        except UnicodeDecodeError as error:
            yield RowError(
                f"{origin}: not UTF-8 text ({error.reason}). Convert the file.", "not UTF-8 text"
            )
        except (ValueError, RecursionError) as error:
            problem = str(error)  # Nested too deep, or a number of thousands of digits.
            if isinstance(error, json.JSONDecodeError):
                problem = f"{error.msg} at column {error.colno}"
            mend = "mend or delete this one"
            if number == 1 and line.lstrip().startswith(b"["):
                mend = "write the array's objects so, as jq -c '.[]' does"
            yield RowError(
                f"{origin}: not valid JSON ({problem}). Each line holds one JSON object; {mend}.",
                "not valid JSON",
            )
        else:
            yield _entry(fields, origin, "a JSON object")


def _entry(fields: Any, origin: str, expected: str) -> Entry:
    if isinstance(fields, dict):
        return Row(fields, origin)
    kind = type(fields).__name__
    return RowError(f"{origin}: a {kind} where {expected} is expected.", f"not {expected}")


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


def _parquet_entries(path: Path) -> Iterator[Entry]:
    import pyarrow.parquet as pq

    number = 0
    with _readable(path):
        for batch in pq.ParquetFile(path).iter_batches():
            for fields in batch.to_pylist():
                number += 1
                yield Row(fields, f"{path}:{number}")


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file: {error}") from error


def _function_entries(source: Source) -> Iterator[Entry]:
    try:
        function = find(source.path)
    except RecipeError as error:
        raise DataError(
            f"The data source {source.path} cannot be imported: {error} It has to be "
            "module:function or file.py:function, where the function takes a split and yields rows."
        ) from error
    for number, fields in enumerate(_yielded(function, source), start=1):
        yield _entry(fields, f"{source.path}:{number}", "a dict")


def _yielded(function: Callable[[str], Iterable[Any]], source: Source) -> Iterator[Any]:
    try:
        with blaming(source.path):
            yield from function(source.split)
    except RecipeError as error:
        raise DataError(str(error)) from error


def _hub_dataset(source: Source) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(
            source.path, source.subset, split=source.split, revision=source.revision
        )
    except Exception as error:  # The hub client raises a dozen kinds; all mean the same here.
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise DataError(
            f"{source.path}[{source.split}] could not be loaded: {reason} Check the name, split "
            "and network, or give a local .jsonl or .parquet file."
        ) from error


def _hub_entries(source: Source, dataset: Any) -> Iterator[Entry]:
    for number, fields in enumerate(dataset, start=1):
        yield Row(dict(fields), f"{source.path}[{source.split}]:{number}")


def _commit(dataset: Any) -> str:
    """`datasets` keeps what it loaded from the hub in a directory named by the commit."""
    directories = {Path(file["filename"]).parent.name for file in dataset.cache_files}
    found = directories.pop() if len(directories) == 1 else ""
    return found if re.fullmatch("[0-9a-f]{40}", found) else ""
