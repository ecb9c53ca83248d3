"""The learning curve of a run as SVG, and the table it ends with."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from cameleer.evals.stats import wilson
from cameleer.train.metric_docs import primary_scores

_PANELS = (
    ("Correct", ("verifiable_rate", "heldout/accuracy")),
    ("Reward", ("reward/mean",)),
    ("Loss", ("loss",)),
    ("Tokens a completion", ("length/mean",)),
    ("Entropy, nats", ("policy/entropy",)),
    ("KL to the reference, nats", ("policy/kl",)),
    ("Clip fraction", ("policy/clip_fraction",)),
    ("Gradient norm", ("optim/grad_norm",)),
)
_COLOURS = ("#8a5a2b", "#1f6f78", "#b23a48", "#4b5d67")

_TABLE = (
    ("held-out accuracy", "heldout/accuracy", ".3f"),
    ("correct", "verifiable_rate", ".3f"),
    ("reward", "reward/mean", ".2f"),
    ("loss", "loss", ".4f"),
    ("tokens a completion", "length/mean", ".1f"),
    ("ended by length", "finish/length", ".3f"),
    ("groups without contrast", "groups/zero_variance", ".3f"),
    ("entropy", "policy/entropy", ".3f"),
    ("KL to the reference", "policy/kl", ".4f"),
    ("engine-learner difference", "engine/logprob_difference_mean", ".1e"),
    ("seconds a step", "time/step", ".2f"),
    ("tokens a second", "throughput/tokens_per_s", ",.0f"),
)


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    text = (directory / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def series(records: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Steps at which a metric was recorded, and its values."""
    present = [r for r in records if key in r]
    return [r["step"] for r in present], [r[key] for r in present]


def draw_curve(directory: Path, path: Path | None = None) -> Path:
    """Draw a run's metrics.jsonl, into ``learning_curve.svg`` beside it or into another file."""
    # pyplot keeps state and wants a display; a figure of its own needs neither.
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    records = read_metrics(directory)
    scores = tuple(primary_scores(dict.fromkeys(key for r in records for key in r)))
    panels = [
        (t, keys)
        for t, keys in (*_PANELS, ("Benchmarks", scores))
        if any(series(records, k)[0] for k in keys)
    ]
    if any("reward/mean" in r for r in records):
        panels = [(title, keys) for title, keys in panels if title != "Loss"]
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(9, 2.4 * rows), layout="constrained")
    FigureCanvasSVG(figure)
    figure.suptitle(f"{directory.parent.name}/{directory.name}")
    for place, (title, keys) in enumerate(panels):
        axes = figure.add_subplot(rows, 2, place + 1)
        for colour, key in zip(itertools.cycle(_COLOURS), keys, strict=False):
            steps, values = series(records, key)
            if not steps:
                continue
            few = len(steps) < 12
            label = {"verifiable_rate": "training prompts", "heldout/accuracy": "held out"}
            axes.plot(
                steps,
                values,
                color=colour,
                lw=1.4,
                marker="o" if few else "",
                label=label.get(key) or "/".join(key.split("/")[1:]),
            )
        if len(axes.lines) > 1 or keys is scores:
            axes.legend(frameon=False)
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if place >= len(panels) - 2:
            axes.set_xlabel("step")
    path = path or directory / "learning_curve.svg"
    figure.savefig(path, format=path.suffix[1:], dpi=150)
    return path


def summary_table(directory: Path) -> Table:
    """First and last values of what matters, a column for each."""
    records = read_metrics(directory)
    table = Table(title=str(directory), title_justify="left")
    for column, side in (("", "left"), ("first", "right"), ("last", "right")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    for label, key, form in _TABLE:
        _, values = series(records, key)
        if values:
            table.add_row(label, format(values[0], form), format(values[-1], form))
    for key in sorted({k for r in records for k in r if k.startswith("verifiable_rate/")}):
        _, values = series(records, key)
        table.add_row(f"correct, {key.split('/')[1]}", f"{values[0]:.3f}", f"{values[-1]:.3f}")
    for key in primary_scores(dict.fromkeys(key for r in records for key in r)):
        _, values = series(records, key)
        table.add_row(key.removeprefix("eval/"), f"{values[0]:.3f}", f"{values[-1]:.3f}")
    return table


def heldout_line(directory: Path) -> str | None:
    """``held-out accuracy: 0.41 -> 0.87 (500 problems)``, or None where nothing was held out."""
    records: list[Mapping[str, Any]] = [
        r for r in read_metrics(directory) if "heldout/accuracy" in r
    ]
    if not records:
        return None
    first, last = records[0]["heldout/accuracy"], records[-1]["heldout/accuracy"]
    count, what = records[-1].get("heldout/num_prompts"), "problems"
    if count is None:
        count, what = records[-1]["heldout/num_pairs"], "pairs"
    return f"held-out accuracy: {first:.2f} -> {last:.2f} ({count} {what})"


def ladder_table(directories: Sequence[Path]) -> Table:
    """Held-out accuracy after each stage, with Wilson's interval."""
    table = Table(title="held-out accuracy", title_justify="left")
    for column, side in (
        ("stage", "left"),
        ("before", "right"),
        ("after", "right"),
        ("95 %", "right"),
    ):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    for directory in directories:
        records = [r for r in read_metrics(directory) if "heldout/accuracy" in r]
        if records:
            last = records[-1]
            of_pairs = "heldout/num_pairs" in last
            count = int(last["heldout/num_pairs" if of_pairs else "heldout/num_prompts"])
            low, high = wilson(round(last["heldout/accuracy"] * count), count)
            table.add_row(
                f"{directory.name} (pairs ranked)" if of_pairs else directory.name,
                f"{records[0]['heldout/accuracy']:.3f}",
                f"{last['heldout/accuracy']:.3f}",
                f"{low:.3f} to {high:.3f}",
            )
    return table
