"""A model card's section on data: what the stages read, and what they made for each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cameleer.release.hyperparameters import curation
from cameleer.release.markdown import named, plain, side_by_side, tabular
from cameleer.release.terms import shown, terms
from cameleer.report.stages import Stage, parent_of


def training_data(stages: Sequence[Stage]) -> Iterator[str]:
    """What each stage read, and how those that made data made it."""
    yield _read(stages)
    if curated := [stage for stage in stages if stage.algorithm == "Curate"]:
        yield (
            "Some of it was made on the way. A policy answered questions several times, and the "
            "answers were rated. Of each question the best and the worst answer became a pair, and "
            "a right one, or the best-rated where nothing checks, an example to imitate.\n"
        )
        yield side_by_side([stage.name for stage in curated], [curation(s) for s in curated])


def _read(stages: Sequence[Stage]) -> str:
    licences = {term.what: term.license for term in terms(stages)}
    rows = []
    for stage in stages:
        for place, source in enumerate(stage.recipe.get("data") or ()):
            known = _known_of_data(stage, place)
            name = str(source["path"])
            parent = parent_of(stage, name)
            what = f"made by `{plain(parent.name)}`" if parent else named(shown(name))
            rows.append(
                [
                    plain(stage.name),
                    what + _part(source),
                    _rows(known),
                    f"`{known['sha256']}`" if known.get("sha256") else "none: no local file",
                    "–" if parent else plain(licences.get(shown(name), "") or "not stated"),
                ]
            )
        rows.append([plain(stage.name), _totals(stage), "", "", ""])
    return tabular(["stage", "data", "rows", "sha256", "licence"], [r for r in rows if any(r[1:])])


def _known_of_data(stage: Stage, place: int) -> Mapping[str, Any]:
    data = stage.manifest.get("data") or []
    return data[place] if place < len(data) else {}


def _part(source: Mapping[str, Any]) -> str:
    """Which rows of a source."""
    parts = [f"{source['split']}" if source.get("split") else ""]
    parts += [f"{key} {source[key]}" for key in ("subset", "revision") if source.get(key)]
    if source.get("count") or source.get("share"):
        size = f"{source['count']:,} rows" if source.get("count") else f"share {source['share']:g}"
        parts.append(f"{'the first ' if source.get('take') == 'first' else ''}{size}")
    if source.get("skip_rows"):
        parts.append(f"after row {source['skip_rows']:,}")
    shown_parts = ", ".join(plain(part) for part in parts if part)
    return f" ({shown_parts})" if shown_parts else ""


def _rows(known: Mapping[str, Any]) -> str:
    """How many a source has, and what became of them."""
    if "rows" not in known:
        return "not recorded"
    taken = known.get("taken", known["rows"])
    parts = [f"{known['rows']:,}" if taken == known["rows"] else f"{taken:,} of {known['rows']:,}"]
    if known.get("tokens"):
        parts.append(f"{known['tokens']:,} tokens")
    if known.get("trained_tokens"):
        parts.append(f"{known['trained_tokens']:,} trained")
    if known.get("truncated"):
        parts.append(f"{known['truncated']:,} cut")
    if dropped := sum((known.get("dropped") or {}).values()):
        parts.append(f"{dropped:,} left out")
    return ", ".join(parts)


def _totals(stage: Stage) -> str:
    manifest = stage.manifest
    counts = {
        "prompts used": manifest.get("prompts"),
        "examples used": manifest.get("examples"),
    }
    return "; ".join(f"{what}: {count:,}" for what, count in counts.items() if count)
