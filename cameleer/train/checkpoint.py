"""Checkpoints: complete or absent, newest found, older ones deleted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from cameleer.errors import RunError
from cameleer.files import checksums, reached, sync
from cameleer.log import console

_STATE = "state.json"


def write(
    root: Path,
    step: int,
    state: dict[str, Any],
    save: Callable[[Path], None],
    *,
    keep_last: int,
    keep: Collection[int] = (),
    before: Sequence[Path] = (),
) -> Path:
    """Save a checkpoint beside its place and rename it there once it is on disk.

    Args:
        root: The run's ``checkpoints`` directory.
        state: What the loop continues from, in JSON.
        save: Writes the learner's files into the directory it is given.
        keep_last: Older checkpoints beyond so many are deleted; 0 keeps all.
        keep: Steps whose checkpoints are not deleted.
        before: Files that have to be on disk no later than the checkpoint.

    Raises:
        Exception: What `save` and the file system raise. Nothing is left of the checkpoint then,
            and all earlier ones are whole.
    """
    final, partial = root / f"step_{step}", root / f".step_{step}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save(partial)
        content = {"step": step, **state, "files": checksums(partial)}
        (partial / _STATE).write_text(json.dumps(content, indent=1), encoding="utf-8")
        reached("checkpoint/state")
        sync(*before, *partial.rglob("*"), partial)
        reached("checkpoint/synced")
        # A damaged checkpoint of the same step, which `latest` passed over, cannot be renamed onto.
        shutil.rmtree(final, ignore_errors=True)
        reached("checkpoint/replaced")
        os.rename(partial, final)
        sync(root)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    reached("checkpoint/renamed")
    _prune(root, keep_last, keep)
    reached("checkpoint/pruned")
    return final


def latest(root: Path, *, up_to: int | None = None) -> tuple[Path, dict[str, Any]]:
    """The newest complete checkpoint and its state, at or before a step.

    One that is damaged is told on the console and passed over.

    Raises:
        RunError: There is none.
    """
    for step in sorted(steps(root), reverse=True):
        if up_to is not None and step > up_to:
            continue
        path = root / f"step_{step}"
        try:
            state: dict[str, Any] = json.loads((path / _STATE).read_text(encoding="utf-8"))
            wrong = _damage(path, state["files"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            wrong = f"{_STATE} cannot be read"
        if not wrong:
            return path, state
        console.print(f"[yellow]{path} is damaged and passed over: {wrong}[/]")
    raise RunError(
        f"{root} holds no complete checkpoint to resume from. Start the run anew under another "
        "--name, or delete its directory."
    )


def exists(root: Path) -> bool:
    """True once a checkpoint was saved, whatever became of it since."""
    return bool(steps(root))


def cut(root: Path, step: int, *, keep_last: int, keep: Collection[int] = ()) -> None:
    """Finish what a crash interrupted: drop what is half written, beyond a step, or too old."""
    for later in steps(root):
        if later > step:
            shutil.rmtree(root / f"step_{later}")
    for partial in root.glob(".step_*.partial"):
        shutil.rmtree(partial)
    _prune(root, keep_last, keep)


def steps(root: Path) -> list[int]:
    """Steps that a checkpoint was saved after, whole or not, in no order."""
    names = [path.name.removeprefix("step_") for path in root.glob("step_*") if path.is_dir()]
    return [int(name) for name in names if name.isdecimal()]


def _prune(root: Path, keep_last: int, keep: Collection[int]) -> None:
    for old in sorted(steps(root))[:-keep_last] if keep_last else ():
        if old not in keep:
            shutil.rmtree(root / f"step_{old}")


def _damage(path: Path, expected: dict[str, list[int]]) -> str:
    """What is wrong with a checkpoint's files; empty when nothing is."""
    for name, (size, _) in expected.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if (path / name).stat().st_size != size:
            return f"{name} has {(path / name).stat().st_size:,} bytes of {size:,}"
    found = checksums(path)
    wrong = [name for name, sums in expected.items() if found[name] != sums]
    return f"{wrong[0]} has changed since it was saved" if wrong else ""
