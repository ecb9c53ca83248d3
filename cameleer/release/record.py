"""release.json: which checkpoint a release is, and what its files were when it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cameleer.errors import RunError
from cameleer.files import checksum

RECORD = "release.json"
FORMAT = 1
_EDITABLE = "README.md"
"""People write into a card before they publish it, and nothing that computes reads it."""


@dataclass(frozen=True)
class Record:
    run: str
    stage: str
    step: int
    files: Mapping[str, Any]
    """Size and CRC-32 of each file, by relative path."""


@dataclass(frozen=True)
class Compared:
    """A release's files now, each in one of four."""

    same: tuple[str, ...]
    absent: tuple[str, ...]
    changed: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What may differ, for people. Hidden files are git's and the hub's own."""
        seen = [name for name in self.added if "/." not in f"/{name}"]
        return (
            *(f"{name} was edited since the release" for name in self.changed),
            *(f"{name} is not part of the release" for name in seen),
        )


def read_record(directory: Path) -> Record:
    """Raises RunError where a directory is no release, or its record cannot be read."""
    path = directory / RECORD
    if not path.is_file():
        raise RunError(
            f"{directory} holds no {RECORD}, so it is no release of Cameleer's. Name a directory "
            "that `cameleer release` wrote."
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    match found:
        case {
            "format": 1,
            "run": str(run),
            "stage": str(stage),
            "step": int(step),
            "files": dict(files),
        } if files:
            return Record(run, stage, step, files)
    raise _damaged(path, f"it lacks run, stage, step or files of format {FORMAT}")


def compare_files(directory: Path, record: Record) -> Compared:
    """Raises RunError where a file cannot be read."""
    paths = (path for path in directory.rglob("*") if path.is_file())
    there = {path.relative_to(directory).as_posix() for path in paths} - {RECORD}
    common = sorted(there & record.files.keys())
    try:
        same = [name for name in common if checksum(directory / name) == record.files[name]]
    except OSError as error:
        why = error.strerror or error
        raise RunError(f"Cannot read the files of {directory}: {why}. Mend that first.") from error
    return Compared(
        same=tuple(same),
        absent=tuple(sorted(record.files.keys() - there)),
        changed=tuple(name for name in common if name not in same),
        added=tuple(sorted(there - record.files.keys())),
    )


def verify_files(directory: Path) -> Compared:
    """Hold a release's files against its record. Only the card may have been edited.

    Who rewrites the record too is not found out: it is no signature.

    Raises RunError with the name of every file that is absent or was changed.
    """
    found = compare_files(directory, read_record(directory))
    wrong = [f"{name} is absent" for name in found.absent]
    wrong += [f"{name} was changed" for name in found.changed if name != _EDITABLE]
    if wrong:
        raise RunError(
            f"{directory} is not what was released, by the sizes and checksums in its {RECORD}: "
            f"{', '.join(wrong)}. Do not use it; release it anew from its run, or fetch it again."
        )
    return found


def _damaged(path: Path, why: str) -> RunError:
    return RunError(
        f"Cannot read {path}: {why}. It is not as `cameleer release` wrote it, so nothing can be "
        "held against it. Release anew from the run, or fetch the release again."
    )
