"""Where two runs part: recipe, start and the first step that differs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cameleer.errors import RunError
from cameleer.log import console
from cameleer.report.curve import read_metrics

_CLOCK = ("time/", "throughput/")
_PLACE = {"name", "output"}
"""Fields of a recipe that say where a run is kept."""
_COLUMNS = ("prompt_id", "sample", "prompt_tokens", "tokens", "logprobs", "scores", "reward")


def diff(one: Path, other: Path) -> int:
    """Print in what two runs differ. Returns the exit status: 0, or 1 where they do.

    Times, and where the runs are kept, do not count.

    Raises:
        RunError: A directory is not a run.
    """
    found = 0
    for title, differences in (
        ("recipe", _recipe_differences(one, other)),
        ("start", _start_differences(one, other)),
        ("steps", _first_step_differences(one, other)),
    ):
        lines = list(differences)
        found += len(lines)
        console.print(f"[bold]{title}[/]  {'' if lines else '[green]the same[/]'}")
        for line in lines:
            console.print(f"  {line}", markup=False)
    return 1 if found else 0


def _recipe_differences(one: Path, other: Path) -> Iterator[str]:
    ours, theirs = (
        {k: v for k, v in _json(directory / "recipe.json").items() if k not in _PLACE}
        for directory in (one, other)
    )
    yield from _differences(ours, theirs)


def _start_differences(one: Path, other: Path) -> Iterator[str]:
    """Code, machine, weights and data."""
    ours, theirs = (_json(directory / "manifest.json") for directory in (one, other))
    yield from _differences(ours, theirs)


def _first_step_differences(one: Path, other: Path) -> Iterator[str]:
    ours, theirs = _by_step(one), _by_step(other)
    for step in sorted(ours.keys() | theirs.keys()):
        if step not in ours or step not in theirs:
            longer, shorter = (one, other) if step in ours else (other, one)
            yield f"step {step} and what follows is in {longer} only, not in {shorter}"
            return
        lines = [*_rollout_differences(one, other, step), *_differences(ours[step], theirs[step])]
        if lines:
            yield f"step {step} is the first that differs"
            yield from lines
            return


def _rollout_differences(one: Path, other: Path, step: int) -> Iterator[str]:
    """The first completion that differs, in one line."""
    ours, theirs = (_rows(directory, step) for directory in (one, other))
    if len(ours) != len(theirs):
        yield f"rollouts: {len(ours)} completions, and {len(theirs)}"
        return
    for a, b in zip(ours, theirs, strict=True):
        for column in _COLUMNS:
            if a[column] != b[column]:
                where = f"rollouts: prompt {a['prompt_id']}, sample {a['sample']}, {column}"
                yield f"{where}: {_first(a[column], b[column])}"
                return


def _first(ours: Any, theirs: Any) -> str:
    """Where two values part."""
    if isinstance(ours, list) and isinstance(theirs, list):
        for place, (a, b) in enumerate(zip(ours, theirs, strict=False)):
            if a != b:
                return f"at {place} {_brief(a)}, and {_brief(b)}"
        return f"{len(ours)} long, and {len(theirs)}"
    return f"{_brief(ours)}, and {_brief(theirs)}"


def _differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """A line for each leaf that differs."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in [*ours, *(k for k in theirs if k not in ours)]:
            below = f"{path}.{key}" if path else str(key)
            if key not in ours or key not in theirs:
                where = "first" if key in ours else "second"
                yield f"{below} is in the {where} only: {_brief(ours.get(key, theirs.get(key)))}"
            else:
                yield from _differences(ours[key], theirs[key], below)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            yield from _differences(a, b, f"{path}.{place}")
    elif ours != theirs:
        yield f"{path}: {_brief(ours)}, and {_brief(theirs)}"


def _by_step(directory: Path) -> dict[int, dict[str, float]]:
    """A step's metrics by name, without those of the clock."""
    steps: dict[int, dict[str, float]] = {}
    for record in read_metrics(directory):
        kept = {k: v for k, v in record.items() if not k.startswith(_CLOCK)}
        steps.setdefault(record["step"], {}).update(kept)
    return steps


def _rows(directory: Path, step: int) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = directory / "rollouts" / f"step_{step:06d}.parquet"
    if not path.exists():
        return []
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=list(_COLUMNS)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        why = str(error).strip().split("\n")[0]
        raise RunError(f"Cannot read the rollouts {path}: {why}.") from error
    return rows


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path.parent} is not a run: cannot read {path.name} ({error}).") from error
    assert isinstance(found, dict)
    return found


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-16:]}"
