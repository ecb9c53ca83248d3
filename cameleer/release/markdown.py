"""The few forms of Markdown that a model card has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape


def named(name: str) -> str:
    return f"`{plain(name)}`" if name else "a model that is not recorded"


def bullets(lines: Iterable[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def tabular(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def side_by_side(heads: Sequence[str], columns: Sequence[Mapping[str, str]]) -> str:
    """A table of a row for each label that any column has."""
    labels: list[str] = []
    for column in columns:
        place = 0
        for label in column:
            if label not in labels:
                labels.insert(place, label)  # Behind what it stands behind in its own column.
            place = labels.index(label) + 1
    cells = [[label, *(column.get(label, "–") for column in columns)] for label in labels]
    return tabular(["", *map(plain, heads)], [list(map(plain, row)) for row in cells])


def plain(value: object) -> str:
    """A text that stays one cell, and no HTML."""
    flat = " ".join(str(value).split())
    return escape(flat, quote=False).replace("|", "\\|").replace("`", "'")
