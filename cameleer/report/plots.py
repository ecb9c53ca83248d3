"""Plots as inline SVG, drawn by matplotlib in colours that the page's style sheet decides."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 500
"""Points of a line. Longer series are drawn as means of equal numbers of steps."""
_FEW = 12
"""Up to so many points get a mark each."""
_INK, _GRID = "#a1a2a3", "#a4a5a6"
_SERIES = tuple(f"#b{i}c{i}d{i}" for i in range(8))
"""Colours nobody uses, which become those of the style sheet."""
_VARIABLES = {_INK: "var(--ink-soft)", _GRID: "var(--line)"} | {
    colour: f"var(--series-{i})" for i, colour in enumerate(_SERIES)
}
_DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))
"""Of the first eight lines, the next eight and the rest."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """One metric over the steps."""

    label: str
    steps: Floats
    values: Floats
    """NaN where the line has a gap."""
    low: Floats | None = None
    high: Floats | None = None
    """The ends of a band around it, or of error bars where there are few points."""
    num_missing: int = 0
    """Values that were recorded and are no finite number."""

    @property
    def is_whole(self) -> bool:
        """Whether every step is drawn."""
        return len(self.steps) <= MAX_POINTS


@dataclass(frozen=True)
class Plot:
    """One figure of the page."""

    id: str
    """Unique in the page."""
    title: str
    lines: tuple[Line, ...]
    is_share: bool = False
    is_log: bool = False
    """Where all values are above 0."""
    is_stacked: bool = False
    x_label: str = "step"


@dataclass(frozen=True)
class Drawing:
    svg: str
    steps_a_point: int
    """1 where every step is drawn."""
    num_missing: int


def series(metrics: Sequence[Mapping[str, Any]], key: str, label: str) -> Line | None:
    """A metric as a line, or None where no step has it.

    One that most steps have has a gap where a step lacks it; one that few have is joined up.
    """
    present = [line for line in metrics if key in line]
    if not present:
        return None
    of_training = [line for line in metrics if "time/step" in line or line["step"] > 0]
    every_step = 2 * len(present) >= len(of_training)
    shown = (of_training if present[0]["step"] > 0 else metrics) if every_step else present
    values = np.array([float(line.get(key, math.nan)) for line in shown])
    bad = sum(not math.isfinite(float(line[key])) for line in present)
    values[~np.isfinite(values)] = math.nan
    steps = np.array([float(line["step"]) for line in shown])
    return Line(label, steps, values, num_missing=bad)


def draw(plot: Plot) -> Drawing:
    """The plot as an SVG element whose ids begin with its own; the same every time."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    size = max(_steps_a_point(len(line.steps)) for line in plot.lines)
    lines = [_binned(line, size) for line in plot.lines]
    known = np.concatenate([line.values[np.isfinite(line.values)] for line in lines])
    is_log = plot.is_log and len(known) > 0 and known.min() > 0
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": plot.id,
        "text.parse_math": False,
        "font.size": 8.5,
        "axes.formatter.use_mathtext": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.6, 2.5))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.115, 0.15, 0.865, 0.81))
        _dress(axes, plot.x_label, is_log)
        if plot.is_stacked:
            _stack(axes, lines)
        else:
            for number, line in enumerate(lines):
                _line(axes, line, number)
        _fit(axes, plot, lines, known)
        text = _written(figure)
    missing = sum(line.num_missing for line in plot.lines)
    return Drawing(_inline(text, plot), size, missing)


def colour_of(number: int) -> tuple[str, str]:
    """Colour and dash of a plot's line, for a legend beside it."""
    dashes = ("solid", "dashed", "dotted")
    colour = _VARIABLES[_SERIES[number % len(_SERIES)]]
    return colour, dashes[min(number // len(_SERIES), len(dashes) - 1)]


def _steps_a_point(count: int) -> int:
    return -(-count // MAX_POINTS)


def _binned(line: Line, size: int) -> Line:
    """Means of `size` neighbours, with the least and the most of them as a band."""
    if size == 1 or line.is_whole:
        return line
    values = [line.values[i : i + size] for i in range(0, len(line.values), size)]
    known = [chunk[np.isfinite(chunk)] for chunk in values]
    mean, low, high = (
        np.array([function(chunk) if len(chunk) else math.nan for chunk in known])
        for function in (np.mean, np.min, np.max)
    )
    steps = np.array([line.steps[i : i + size].mean() for i in range(0, len(line.steps), size)])
    return Line(line.label, steps, mean, low, high, line.num_missing)


def _dress(axes: Any, x_label: str, is_log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    axes.patch.set_visible(False)
    axes.figure.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    axes.tick_params(colors=_INK, length=0, pad=4)
    axes.tick_params(axis="x", length=3)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.label.set_color(_INK)
    axes.set_xlabel(x_label, labelpad=1)
    if is_log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.6g}"))


def _line(axes: Any, line: Line, number: int) -> None:
    colour = _SERIES[number % len(_SERIES)]
    dash = _DASHES[min(number // len(_SERIES), len(_DASHES) - 1)]
    known = np.isfinite(line.values)
    if line.low is not None and line.high is not None:
        if known.sum() <= _FEW:
            around = (line.values - line.low, line.high - line.values)
            axes.errorbar(
                line.steps[known],
                line.values[known],
                yerr=np.clip([each[known] for each in around], 0, None),
                fmt="none",
                ecolor=colour,
                elinewidth=1.1,
                capsize=2.5,
            )
        else:
            axes.fill_between(
                line.steps, line.low, line.high, color=colour, alpha=0.25, linewidth=0.7
            )
    few = known.sum() <= _FEW
    alone = known & ~np.r_[False, known[:-1]] & ~np.r_[known[1:], False]
    axes.plot(
        line.steps,
        line.values,
        color=colour,
        linestyle=dash,
        linewidth=1.6,
        solid_joinstyle="round",
        marker="o",
        markersize=4,
        markevery=list(np.flatnonzero(known if few else alone)),
    )


def _stack(axes: Any, lines: Sequence[Line]) -> None:
    steps = lines[0].steps
    heights = [np.nan_to_num(line.values) for line in lines]
    if len(steps) == 1:
        bottoms = itertools.accumulate((h[0] for h in heights), initial=0.0)
        for number, (height, bottom) in enumerate(zip(heights, bottoms, strict=False)):
            axes.bar(steps, height, bottom=bottom, width=0.4, color=_SERIES[number % len(_SERIES)])
        return
    colours = [_SERIES[i % len(_SERIES)] for i in range(len(lines))]
    axes.stackplot(steps, heights, colors=colours, linewidth=0, alpha=0.9)


def _fit(axes: Any, plot: Plot, lines: Sequence[Line], known: Floats) -> None:
    steps = np.concatenate([line.steps for line in lines])
    first, last = steps.min(), steps.max()
    room = 0.5 if first == last else 0.02 * (last - first)
    axes.set_xlim(first - room, last + room)
    if first == last:
        axes.set_xticks([first])
    if not len(known):
        axes.set_yticks([])
        return
    if plot.is_share:
        highest = max([*known, *(np.nanmax(line.high) for line in lines if line.high is not None)])
        axes.set_ylim(0, min(1.02, max(highest * 1.08, 0.02)))
    elif plot.is_stacked:
        axes.set_ylim(0, None)
    elif known.min() == known.max():
        # matplotlib would magnify rounding.
        middle, room = known.min(), (abs(known.min()) or 1) * 0.5
        axes.set_ylim(middle - room, middle + room)


def _written(figure: Any) -> str:
    import io

    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(out, format="svg", metadata=nothing)
    return out.getvalue()


def _inline(text: str, plot: Plot) -> str:
    """matplotlib's file as an element of a page: ids of its own, colours of the style sheet."""
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    body = re.search(r"<svg[^>]*>(.*)</svg>", body, re.DOTALL)[1]  # type: ignore[index]
    body = re.sub(r'\bid="', f'id="{plot.id}-', body)
    body = re.sub(r'xlink:href="#|href="#', f'href="#{plot.id}-', body)
    body = body.replace("url(#", f"url(#{plot.id}-")
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    # The page's own font, which is there offline too.
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)
    body = re.sub(r">\s+<", "><", body)
    view = re.search(r'viewBox="[^"]*"', text)[0]  # type: ignore[index]
    return (
        f'<svg {view} role="img" aria-labelledby="{plot.id}-title {plot.id}-desc">'
        f'<title id="{plot.id}-title">{escape(plot.title)} by {escape(plot.x_label)}</title>'
        f'<desc id="{plot.id}-desc">{escape(" ".join(_described(plot)))}</desc>{body}</svg>'
    )


def _described(plot: Plot) -> Iterator[str]:
    """What the plot shows, for who does not see it."""
    for line in plot.lines:
        known = np.flatnonzero(np.isfinite(line.values))
        if not len(known):
            yield f"{line.label}: no finite number."
            continue
        first, last = known[0], known[-1]
        yield (
            f"{line.label}: {line.values[first]:.4g} at {line.steps[first]:,.0f}, "
            f"{line.values[last]:.4g} at {line.steps[last]:,.0f}, "
            f"least {np.nanmin(line.values):.4g}, most {np.nanmax(line.values):.4g}."
        )
