"""One page over a run or a ladder that opens anywhere, without a network: `report.html`."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import cameleer
from cameleer.files import unwritable
from cameleer.report.answers import KINDS, Sampled, examples
from cameleer.report.concerns import concerns
from cameleer.report.look import CSS
from cameleer.report.panels import plots_of
from cameleer.report.plots import Plot, colour_of, draw
from cameleer.report.scores import Score, Table, score_table
from cameleer.report.stages import Stage, Tree, flat, read_tree
from cameleer.train.metric_docs import Metric, find, healthy_range, primary_scores

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser itself sees to it that nothing is fetched and no script runs."""
_LONGEST = 4_000
"""Characters of a prompt or answer that are shown."""
_SAMPLED_STEPS = 6


def write_report(
    directory: Path, output: Path | None = None, *, written: datetime | None = None
) -> Path:
    """Write the page of a run or ladder, finished or not.

    Args:
        output: The file; ``report.html`` in the directory otherwise.
        written: The date that the page states. None: now.

    Raises:
        RunError: The directory is neither a run nor a ladder, or nothing can be written.
    """
    output = output or directory / "report.html"
    text = page(read_tree(directory), written or datetime.now(UTC))
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise unwritable(output.parent, error) from error
    return output


def page(tree: Tree, written: datetime) -> str:
    """The whole page. The same files and date give the same text."""
    return "".join(_page(tree, written))


def _page(tree: Tree, written: datetime) -> Iterator[str]:
    name = _e(tree.name)
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} · Cameleer</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<header><h1>{name}</h1>"
    )
    yield f'<p class="soft">{_e(_introduction(tree))}</p>'
    if tree.is_ladder:
        links = (f'<a href="#{_id(s.name)}">{_e(s.name)}</a>' for s in tree.stages)
        yield f"<nav aria-label='Stages'>{''.join(links)}</nav>"
    yield "</header>\n<main>"
    yield from _stages_table(tree.stages)
    yield from _scores(score_table(tree.stages))
    for stage in tree.stages:
        yield from _stage(stage, tree.is_ladder)
    yield (
        f"</main>\n<footer>Written {written:%Y-%m-%d %H:%M} UTC by Cameleer "
        f"{_e(cameleer.__version__)}. Every number is in the run's own files: metrics.jsonl, "
        "rollouts/, evals/, recipe.json and manifest.json.</footer>\n</body>\n</html>\n"
    )


def _introduction(tree: Tree) -> str:
    if not tree.is_ladder:
        return f"A run of {tree.stages[0].algorithm}."
    names = " → ".join(stage.name for stage in tree.stages)
    return f"A ladder of {len(tree.stages)} stages: {names}."


# All stages


def _stages_table(stages: Sequence[Stage]) -> Iterator[str]:
    rows = []
    for stage in stages:
        state, kind = _state(stage)
        commit = str(stage.manifest.get("commit") or "–")[:9]
        rows.append(
            [
                f'<th scope="row">{_e(stage.name)}</th>',
                f"<td>{_e(stage.algorithm)}</td>",
                f'<td class="{kind}">{_e(state)}</td>',
                f'<td class="number">{_duration(stage.seconds)}</td>',
                f'<td><code class="short">{_e(commit)}</code></td>',
            ]
        )
    yield _table(("stage", "algorithm", "state", "time in steps", "commit"), rows)


def _state(stage: Stage) -> tuple[str, str]:
    """What became of a stage, and its CSS class."""
    if not stage.has_begun:
        return "not begun", "left"
    if not stage.is_training:
        return "data", "done"
    if stage.last_step >= stage.num_steps:
        return f"finished, {stage.num_steps:,} steps", "done"
    return f"unfinished, {stage.last_step:,} of {stage.num_steps:,} steps", "left"


def _scores(table: Table) -> Iterator[str]:
    if not table.rows:
        return
    yield "<h2>Scores</h2><p class='soft'>Percent, with the interval of 95 % below.</p>"
    rows = [
        [
            f'<th scope="row">{_e(row.label)}<br><span class="soft">{_e(row.metric)}</span></th>',
            *(_score(score) for score in row.scores),
        ]
        for row in table.rows
    ]
    yield _table(("", *table.columns), rows, numbers_from=1)
    yield "".join(f'<p class="soft">{_e(note)}</p>' for note in table.notes)


def _score(score: Score | None) -> str:
    if score is None:
        return '<td class="number">–</td>'
    left, width = 100 * score.low, max(1.0, 100 * (score.high - score.low))
    bar = f'<i style="left:{left:.1f}%;width:{width:.1f}%"></i>'
    return (
        f'<td class="number">{score.percent}<small>{score.span}</small>'
        f'<span class="span" aria-hidden="true">{bar}</span></td>'
    )


# One stage


def _stage(stage: Stage, in_ladder: bool) -> Iterator[str]:
    if in_ladder:
        yield f'<h2 id="{_id(stage.name)}">{_e(stage.name)}: {_e(stage.algorithm)}</h2>'
    if not stage.has_begun:
        yield "<p>This stage has not begun.</p>"
        return
    yield from _concerns(stage)
    yield from _made(stage)
    panels = [_panel(plot, keys) for plot, keys in plots_of(stage)]
    if panels:
        yield f"<h3>Learning curves</h3><div class='panels'>{''.join(panels)}</div>"
    elif stage.is_training:
        yield "<p>No step was finished, so there are no curves.</p>"
    yield from _rollouts(stage)
    yield from _same_questions(stage)
    yield "<h3>Details</h3>"
    if stage.metrics:
        yield _metrics(stage)
    yield _leaves("Recipe", flat(stage.recipe))
    yield _leaves("Manifest: commit, packages, hardware, data", flat(stage.manifest))


def _concerns(stage: Stage) -> Iterator[str]:
    found = [f"<li>{_e(text)}</li>" for text in concerns(stage)]
    if found:
        yield f"<h3>To look at</h3><ul class='concerns'>{''.join(found)}</ul>"


def _made(stage: Stage) -> Iterator[str]:
    """The files of rows that a stage made."""
    for path in sorted(stage.directory.glob("*.jsonl")):
        if path.name not in ("metrics.jsonl", "samples.jsonl", "parity.jsonl"):
            with path.open("rb") as file:
                count = sum(1 for _ in file)
            yield f"<p><code>{_e(path.name)}</code>: {count:,} rows.</p>"


def _panel(plot: Plot, keys: Sequence[str]) -> str:
    plot_id = _id(plot.id)
    drawing = draw(Plot(**{**vars(plot), "id": plot_id}))
    swatches = [
        f'<span style="border-top-color:{colour};border-top-style:{dash}"></span>'
        for colour, dash in map(colour_of, range(len(plot.lines)))
    ]
    if len(plot.lines) == 1:
        swatches = [""]  # Nothing to tell apart.
    legend = "".join(
        f"<li>{swatch}{_e(line.label)}</li>"
        for swatch, line in zip(swatches, plot.lines, strict=True)
    )
    notes = []
    if drawing.steps_a_point > 1:
        count = drawing.steps_a_point
        notes.append(
            f"Each point is the mean of {count:,} recorded steps"
            + ("." if plot.is_stacked else "; the band runs from the least of them to the most.")
        )
    if sure := [line.label for line in plot.lines if line.low is not None and line.is_whole]:
        notes.append(f"Bars or bands of {', '.join(sure)}: 95 % intervals.")
    if drawing.num_missing:
        notes.append(f"Values that are no finite number, shown as gaps: {drawing.num_missing:,}.")
    caption = f"<figcaption>{_e(' '.join(notes))}</figcaption>" if notes else ""
    return (
        f'<figure><h4>{_e(plot.title)}</h4><ul class="legend">{legend}</ul>{drawing.svg}'
        f"{caption}{_explained(keys)}</figure>"
    )


def _explained(keys: Iterable[str]) -> str:
    """What metric_docs knows of the metrics, each formula once."""
    known = {metric.key: metric for key in keys if (metric := find(key))}
    entries = "".join(
        f"<dt><code>{_e(metric.key)}</code></dt><dd>{_e(' '.join(_facts(metric)))}</dd>"
        for metric in known.values()
    )
    return f"<details><summary>What is this?</summary><dl>{entries}</dl></details>" if known else ""


def _facts(metric: Metric) -> Iterator[str]:
    yield metric.formula.rstrip(".") + "."
    if metric.unit:
        yield f"Unit: {metric.unit}."
    if healthy_range(metric) != "any":
        yield f"Healthy: {healthy_range(metric)}."
    yield metric.advice


def _rollouts(stage: Stage) -> Iterator[str]:
    found, unreadable = examples(stage)
    for problem in unreadable:
        yield f'<p class="left">{_e(problem)}</p>'
    cards = [_sample(sampled) for kind in KINDS for sampled in found[kind]]
    if cards:
        none = [kind for kind in KINDS if not found[kind] and kind != "rated"]
        yield "<h3>Completions</h3><p class='soft'>Up to three of each kind, the newest first."
        yield f" None that was {_e(' or '.join(none))} in the steps looked at." if none else ""
        yield f"</p><div class='samples'>{''.join(cards)}</div>"


def _sample(sampled: Sampled) -> str:
    row = sampled.row
    verdicts = "; ".join(
        f"{score['verifier']}: {score['value']:g}"
        + ("" if score["status"] == "scored" else f" ({score['status']})")
        + (f", {score['reason']}" if score["reason"] else "")
        + (f" (truth: {_cut(truth, 100)})" if (truth := score.get("truth")) else "")
        for score in row["scores"]
    )
    numbers = [
        f"{name} {row[key]:.3g}"
        for name, key in (("reward", "reward"), ("advantage", "advantage"))
        if row[key] is not None and math.isfinite(row[key])
    ]
    facts = [
        f"step {row['step']:,}",
        row["prompt_id"],
        f"sample {row['sample']}",
        f"{len(row['tokens']):,} tokens, ended by {row['finish_reason']}",
        *numbers,
    ]
    prompt = sampled.prompt
    if prompt is None:
        prompt = f"({len(row['prompt_tokens'])} tokens; no tokenizer of the run is at hand)"
    return (
        f'<article class="sample"><span class="kind {sampled.kind}">{sampled.kind}</span> '
        f'<span class="soft">{_e(" · ".join(facts))}</span>'
        f'<div class="text">{_e(_cut(prompt))}</div><div class="text">{_e(_cut(row["text"]))}</div>'
        f'<p class="soft">{_e(verdicts)}</p></article>'
    )


def _same_questions(stage: Stage) -> Iterator[str]:
    """The greedy answers of samples.jsonl, from the first step to the last."""
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for line in stage.samples:
        by_prompt.setdefault(line["prompt"], []).append(line)
    if not by_prompt:
        return
    yield "<h3>The same questions, as training went on</h3><p class='soft'>Greedy answers.</p>"
    for prompt, lines in by_prompt.items():
        rows = [
            [f'<td class="number">{line["step"]:,}</td>', f"<td>{_block(line['answer'])}</td>"]
            for line in _spread(lines, _SAMPLED_STEPS)
        ]
        yield _block(prompt) + _table(("step", "answer"), rows)


def _spread(lines: Sequence[Any], count: int) -> list[Any]:
    """The first, the last, and others at like distances between them."""
    if len(lines) <= count:
        return list(lines)
    places = {round(i * (len(lines) - 1) / (count - 1)) for i in range(count)}
    return [lines[place] for place in sorted(places)]


def _metrics(stage: Stage) -> str:
    """Every metric: its first and last value, its range, and whether it is healthy now."""
    keys = dict.fromkeys(key for line in stage.metrics for key in line if key != "step")
    primary = set(primary_scores(keys))
    rows = []
    for key in keys:
        values = [float(line[key]) for line in stage.metrics if key in line]
        finite = [value for value in values if math.isfinite(value)]
        metric = find(key)
        left = metric is not None and not metric.healthy(values[-1])
        ends = [min(finite), max(finite)] if finite else [math.nan, math.nan]
        numbers = [values[0], values[-1], *ends]
        name = f"<strong>{_e(key)}</strong>" if key in primary else f"<code>{_e(key)}</code>"
        rows.append(
            [
                f'<th scope="row">{name}</th>',
                *(f'<td class="number">{value:,.4g}</td>' for value in numbers),
                f'<td class="{"left" if left else ""}">'
                f"{_e(healthy_range(metric)) if metric else '–'}{' !' if left else ''}</td>",
                f"<td>{_e(metric.formula) if metric else ''}</td>",
            ]
        )
    head = ("metric", "first", "last", "least", "most", "healthy", "what it is")
    table = _table(head, rows, numbers_from=1, numbers_to=5)
    return f"<details><summary>All {len(rows)} metrics</summary>{table}</details>"


def _leaves(title: str, leaves: Iterable[tuple[str, str]]) -> str:
    rows = [
        [f"<td><code>{_e(path)}</code></td>", f"<td><code>{_e(value)}</code></td>"]
        for path, value in leaves
    ]
    table = _table(("", ""), rows)
    return f"<details><summary>{_e(title)}</summary>{table}</details>"


# Pieces


def _table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers_from: int = 99,
    numbers_to: int = 99,
) -> str:
    """Cells come as HTML; the head as text."""
    kinds = [" class=number" if numbers_from <= i < numbers_to else "" for i in range(len(head))]
    cells = "".join(
        f'<th scope="col"{kind}>{_e(text)}</th>' for kind, text in zip(kinds, head, strict=True)
    )
    top = f"<thead><tr>{cells}</tr></thead>" if any(head) else ""
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>\n'


def _block(text: str) -> str:
    return f'<div class="text">{_e(_cut(text))}</div>'


def _cut(text: str, longest: int = _LONGEST) -> str:
    """The beginning and the end of a long text, and how much lies between."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters …]\n{text[-half:]}"


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _id(name: str) -> str:
    """A name of the user's as an id that is safe wherever an id stands."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name)
    if plain == name:
        return f"s-{plain}"
    return f"s-{plain}-{hashlib.sha256(json.dumps(name).encode()).hexdigest()[:6]}"


def _e(text: object) -> str:
    """Text that is inert in HTML, in an element and in a quoted attribute alike."""
    return escape(str(text).encode("utf-8", "replace").decode("utf-8"))
