"""The licence terms of a base model and of all data, united."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cameleer.report.stages import Stage, parent_of, sources_of


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
    from pathlib import Path

    shape = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name)
    files = (".jsonl", ".json", ".gz", ".parquet", ".gguf")
    return bool(shape) and not name.endswith(files) and not Path(name).exists()


def shown(name: str) -> str:
    """A path of this machine by its last part; everything else as it is."""
    return name.rstrip("/").rpartition("/")[2] if name.startswith(("/", "~")) else name


def _terms(stage: Stage) -> Iterator[Term]:
    for role, record in sources_of(stage.recipe):
        name = str(record.get("path" if role == "data" else "source") or "")
        if name and parent_of(stage, name) is None:
            yield Term(shown(name), role.replace("_", " "), str(record.get("license") or ""))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
