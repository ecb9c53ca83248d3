"""The licence terms of a base model and of all data, united."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cameleer.report.stages import Stage, parent_of, sources_of
from cameleer.user_files import is_in_a_file

PATH_FIELDS = ("source", "path", "data")
"""Fields of a recipe that may hold the path of a model or of data."""
CODE_FIELDS = ("class", "engine", "benchmarks", "keep_best", "benchmark")
"""Those that may hold ``file.py:NAME``, as the ones above may too."""
CHECKPOINT = re.compile(r"(?:.*/)?([^/]+)/checkpoints/(step_\d+)/model/?")
"""A model that a run ended with: the run's name, and the step's."""
_FILES = (".jsonl", ".json", ".gz", ".parquet", ".gguf")


@dataclass(frozen=True)
class Term:
    """What one model or data set that went into the weights may be used for."""

    what: str
    """Its hub id, path or function."""
    role: str
    """"model", "data" and so on."""
    license: str
    """As the recipe states it. Empty: not stated."""


def terms(stages: Sequence[Stage]) -> list[Term]:
    """Those of all stages, each thing once. What a stage itself made has no terms of its own."""
    found = {(term.what, term.license): term for stage in stages for term in _terms(stage)}
    return list(found.values())


def united(found: Sequence[Term]) -> dict[str, str]:
    """The fields of a model card's header. All terms hold together; ``other`` where they differ."""
    names = sorted({term.license.strip().lower() for term in found})
    if not all(names) or not names:
        return {"license": "other", "license_name": "not-fully-stated"}
    if len(names) == 1 and re.fullmatch(r"[a-z0-9.+-]+", names[0]):
        return {"license": names[0]}
    return {"license": "other", "license_name": _slug("-and-".join(names))}


def is_hub_id(name: str) -> bool:
    """Whether a name is that of a model or data set on the hub, and not a path or function."""
    shape = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name)
    return bool(shape) and not name.endswith(_FILES) and not Path(name).exists()


def is_path(name: str) -> bool:
    """Whether a name is that of a file or directory, which another machine may not have."""
    if name.startswith(("/", "~", ".")) or is_in_a_file(name):
        return True
    looks_local = "/" in name or name.endswith(_FILES) or Path(name).exists()
    return ":" not in name and looks_local and not is_hub_id(name)


def shown(name: str) -> str:
    """A path by its last part, but a run's checkpoint by run and step; all else as it is."""
    if found := CHECKPOINT.fullmatch(name):
        return f"{found[1]}-{found[2]}"
    return name.rstrip("/").rpartition("/")[2] if is_path(name) else name


def _terms(stage: Stage) -> Iterator[Term]:
    for role, record in sources_of(stage.recipe):
        name = str(record.get("path" if role == "data" else "source") or "")
        if name and parent_of(stage, name) is None:
            yield Term(shown(name), role.replace("_", " "), str(record.get("license") or ""))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
