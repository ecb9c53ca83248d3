"""Rows made into token ids once, and kept on the disk for the next start.

What a source becomes is one Arrow file, read through a memory map, and a JSON file beside it with
the tally and the Arrow file's checksum. Both are named by a hash of all that shapes them (`_key`),
so a change of any of it is another name, and nothing is ever brought up to date. Any of these files
may be deleted at any time.

Not kept are the rows of functions, which may come from anywhere, those of hub data sets whose
commit is not known, and sources of fewer than `_SMALL` rows, which take a second or two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cameleer.data.chat import reads_the_clock
from cameleer.data.mixture import Tally, taken
from cameleer.data.sources import Opened, Row, Source, check_columns, open_source
from cameleer.errors import RowError
from cameleer.files import checksum

if TYPE_CHECKING:
    import pyarrow as pa

_SMALL = 1_000
_MANY = 20_000
"""Rows that take long enough to say so."""
_BATCH = 1_000
_DAY_S = 86_400

Kind = Literal["prompts", "examples", "pairs"]


@dataclass(frozen=True)
class Rendered:
    """What a row becomes."""

    sequences: tuple[tuple[Sequence[int], Sequence[bool]], ...]
    """Token ids and which of them to train: one sequence, or the two of a pair."""
    note: str
    """What else is to be known of them."""
    truncated: bool = False


Render = Callable[[Row, Source], Rendered | str]
"""Makes a row into tokens, or says why it is left out. Raises RowError where it is a bad one."""


def prepare(
    sources: Sequence[Source],
    render: Render,
    *,
    kind: Kind,
    tokenizer: Any,
    max_tokens: int,
    seed: int,
    cache: Path | None,
) -> list[tuple[pa.Table, Tally]]:
    """The rendered rows of each source, read from the cache where it has them.

    Args:
        cache: A directory, which need not exist. None: nothing is kept.

    Returns:
        Of each source a table with a row a sequence (`number`, place among the rows taken;
        `tokens`; `mask`; `note`), and its tally.
    """
    identity = functools.cache(lambda: _identity(tokenizer))
    found = []
    for place, source in enumerate(sources):
        opened = open_source(source)
        make = functools.partial(_make, source, opened, render, seed=seed, place=place)
        content, num_rows = opened.sha256 or opened.commit, opened.num_rows or 0
        if cache is None or not content or num_rows < _SMALL:
            found.append(_in_memory(make))
            continue
        shape = [dataclasses.asdict(source), place, content, kind, max_tokens, seed]
        key = _key(shape, identity(), _software())
        entry = _read(cache, key)
        if entry is None and num_rows >= _MANY:
            _tell(f"preparing {num_rows:,} rows of {source.path}, which are kept in {cache}")
        found.append(entry or _write(cache, key, make))
    return found


def _key(*shape: Any) -> str:
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:32]


@functools.cache
def _software() -> dict[str, Any]:
    """The code between a row and its tokens: this directory's bytes, and versions of libraries."""
    code = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted(p for p in here.rglob("*") if p.suffix in (".py", ".json")):
        code.update(f"{path.relative_to(here)} {path.stat().st_size}\n".encode())
        code.update(path.read_bytes())
    libraries = ("transformers", "tokenizers", "jinja2", "datasets", "pyarrow", "numpy")
    versions = {name: metadata.version(name) for name in libraries}
    return {"code": code.hexdigest(), "versions": versions}


def _identity(tokenizer: Any) -> dict[str, str]:
    """Hashes of the files that a tokenizer is saved as: vocabulary, special tokens, template.

    And the day, where the template writes it.
    """
    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save_pretrained(directory)
        files = sorted(p for p in Path(directory).rglob("*") if p.is_file())
        found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    return {**found, "day": time.strftime("%Y-%m-%d")} if reads_the_clock(tokenizer) else found


def _make(
    source: Source, opened: Opened, render: Render, sink: Any, *, seed: int, place: int
) -> Tally:
    """Render the rows that are taken, into an Arrow file."""
    import pyarrow as pa

    tally = Tally(sha256=opened.sha256, commit=opened.commit)
    columns: list[tuple[Any, ...]] = []
    content = hashlib.blake2b(digest_size=16)
    number = 0
    with pa.ipc.new_file(sink, _schema()) as writer:
        for entry, count in taken(source, opened, tally, seed=seed, place=place):
            try:
                if isinstance(entry, RowError):
                    raise entry
                check_columns(entry, source.format)
                found = render(entry, source)
            except RowError as error:
                if source.bad_rows == "error":
                    raise
                found = error.reason
            if isinstance(found, str):
                tally.drop(found, count)
            else:
                lengths = [(len(tokens), sum(mask)) for tokens, mask in found.sequences]
                content.update(f"{number} {count} {lengths} {found.note}".encode())
                for tokens, mask in found.sequences:
                    content.update(array("i", tokens).tobytes() + bytes(mask))
                tally.keep(lengths, truncated=found.truncated, count=count)
                for copy in range(count):
                    columns += ((number + copy, *both, found.note) for both in found.sequences)
            number += count
            if len(columns) >= _BATCH:
                writer.write_batch(_batch(columns))
                columns = []
        writer.write_batch(_batch(columns))
    tally.prepared = content.hexdigest()
    return tally


def _schema() -> pa.Schema:
    import pyarrow as pa

    tokens, mask = pa.list_(pa.int32()), pa.list_(pa.bool_())
    return pa.schema({"number": pa.int64(), "tokens": tokens, "mask": mask, "note": pa.string()})


def _batch(rows: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
    import pyarrow as pa

    columns = zip(*rows, strict=True) if rows else ((),) * 4
    arrays = [pa.array(c, f.type) for c, f in zip(columns, _schema(), strict=True)]
    return pa.record_batch(arrays, schema=_schema())


def _in_memory(make: Callable[[Any], Tally]) -> tuple[pa.Table, Tally]:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    tally = make(sink)
    return pa.ipc.open_file(sink.getvalue()).read_all(), tally


def _read(cache: Path, key: str) -> tuple[pa.Table, Tally] | None:
    """An entry, or None where there is none or it is not what was written."""
    import pyarrow as pa

    rows = cache / f"{key}.arrow"
    try:
        known = json.loads((cache / f"{key}.json").read_text(encoding="utf-8"))
        if known["checksum"] != checksum(rows):
            return None
        return pa.ipc.open_file(pa.memory_map(str(rows))).read_all(), Tally(**known["tally"])
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _write(cache: Path, key: str, make: Callable[[Any], Tally]) -> tuple[pa.Table, Tally]:
    """Make an entry and read it. A disk that does not take it costs the cache and nothing else.

    Two processes that make the same entry write the same bytes, so the last rename may win.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        with _aside(cache / f"{key}.arrow") as rows:
            tally = make(str(rows))
            known = {"checksum": checksum(rows), "tally": dataclasses.asdict(tally)}
        with _aside(cache / f"{key}.json") as beside:
            beside.write_text(json.dumps(known), encoding="utf-8")
    except OSError as error:
        why = error.strerror or error
        _tell(f"Prepared data cannot be kept in {cache}: {why}. It is made anew at each start.")
        return _in_memory(make)
    return _read(cache, key) or _in_memory(make)


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A file that gets its name once it is whole."""
    descriptor, name = tempfile.mkstemp(suffix=".partial", dir=path.parent)
    os.close(descriptor)
    try:
        yield Path(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _tell(text: str) -> None:
    from cameleer.log import console

    if os.environ.get("RANK", "0") == "0":
        console.print(text, markup=False)


def _sweep(cache: Path) -> None:
    """Delete what killed processes left. Nobody writes to one file for a day."""
    for left_over in cache.glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left_over.stat().st_mtime > _DAY_S:
                left_over.unlink()
