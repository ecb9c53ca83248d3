"""Writing so that a kill at any moment leaves a file whole, or absent, or cut at its end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cameleer.errors import RunError

POINTS = (
    "run/aside",
    "run/opened",
    "rollouts/aside",
    "rollouts/written",
    "metrics/written",
    "samples/written",
    "checkpoint/model",
    "checkpoint/optimizer",
    "checkpoint/ahead",
    "checkpoint/state",
    "checkpoint/synced",
    "checkpoint/replaced",
    "checkpoint/renamed",
    "checkpoint/pruned",
    "resume/restored",
    "resume/checkpoints",
    "resume/metrics",
    "resume/rollouts",
)
"""Moments between two writes, in their order. Whatever a run is killed at, `--resume` mends."""


def reached(point: str) -> None:
    """Called at each of `POINTS`. It does nothing: tests put a kill in its place."""
    assert point in POINTS


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """A .jsonl file of all rows, or none."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Raises RunError where the file is absent or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"Cannot read {path}: {error}. The run directory is damaged: put "
            "the file back, or start anew under another --name."
        ) from error


def append_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line, in one write."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Records of a JSON lines file. A last line that a crash left unfinished is not one."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise RunError(f"{path}:{number} is not valid JSON: {error.msg}.") from error
    return records


def checksums(directory: Path) -> dict[str, list[int]]:
    """Size and CRC-32 of every file below a directory, by relative path."""
    paths = sorted(p for p in directory.rglob("*") if p.is_file())
    return {str(path.relative_to(directory)): checksum(path) for path in paths}


def checksum(path: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return [path.stat().st_size, crc]


def sync(*paths: Path) -> None:
    """Wait until files or directories are on the disk, for the power may fail too."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_directory(directory: Path, files: Mapping[str, Any]) -> None:
    """Make a directory that holds these JSON files from its first moment on.

    Raises RunError where another process made it in the meantime, or nothing can be written.
    """
    partial = directory.parent / f".{directory.name}.{os.getpid()}.partial"
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        for left_over in directory.parent.glob(f".{directory.name}.*.partial"):
            shutil.rmtree(left_over)
        partial.mkdir()
        for name, value in files.items():
            write_json(partial / name, value)
        reached("run/aside")
        os.rename(partial, directory)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and directory.exists():
            raise RunError(
                f"{directory} was made by another process just now. Name another directory."
            ) from error
        raise unwritable(directory, error) from error


def unwritable(directory: Path, error: OSError) -> RunError:
    """What a user reads when the disk is full, read-only or somebody else's."""
    why = os.strerror(error.errno) if error.errno else error
    return RunError(
        f"Cannot write to {directory}: {why}. Free space there, or name another directory: a run's "
        "--output.directory, an evaluation's --output. What has begun goes on: a run with "
        "--resume, an evaluation by the same command."
    )


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds a directory for this process. The kernel lets go when it dies, however it dies.

    Raises RunError where another process holds it, or nothing can be written.
    """
    try:
        file = (directory / ".lock").open("a")
    except OSError as error:
        raise unwritable(directory, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"Another process is writing to {directory}. Wait for it or stop it; two runs "
                "in one directory would overwrite each other's steps."
            ) from error
        except OSError as error:
            # Some cluster file systems have no locks. A run is worth more than the guard.
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        yield
