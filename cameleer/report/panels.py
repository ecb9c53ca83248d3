"""Which plots a stage gets: those whose metrics it has, and what they show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from cameleer.evals import stats
from cameleer.report.plots import Line, Plot, series
from cameleer.report.stages import Stage


@dataclass(frozen=True)
class Panel:
    title: str
    keys: tuple[str, ...]
    """Patterns of metrics, drawn in this order."""
    is_share: bool = False
    is_log: bool = False
    alone: bool = True
    """False: a single line would be that of another panel again."""
    all_zero: bool = True
    """False: counts of what never happened are not shown."""


PANELS = (
    Panel("Right answers", ("verifiable_rate", "heldout/accuracy"), is_share=True),
    Panel("Right answers by source", ("verifiable_rate/*",), is_share=True, alone=False),
    Panel("Reward", ("reward/mean", "reward/std")),
    Panel("Reward by source", ("reward/mean/*",), alone=False),
    Panel("Pairs ranked rightly", ("*/accuracies", "*/accuracy"), is_share=True),
    Panel(
        "Margin between chosen and rejected", ("rewards/chosen", "rewards/rejected", "*/margins")
    ),
    Panel("Log-probability of the pairs", ("logps/*",)),
    Panel("Loss", ("loss", "sft/nll")),
    Panel("Variance that the value model explains", ("value/explained_variance",)),
    Panel("Value model", ("value/loss", "value/mean", "value/clip_fraction")),
    Panel("Tokens a completion or example", ("length/mean",)),
    Panel("Cut off at the limit of tokens", ("finish/length",), is_share=True),
    Panel("Groups without contrast", ("groups/zero*", "groups/all*"), is_share=True),
    Panel("Groups sampled in their stead", ("groups/refilled",)),
    Panel("KL to the reference", ("policy/kl",)),
    Panel("Entropy", ("policy/entropy",)),
    Panel("Clip fraction", ("policy/clip_fraction",)),
    Panel("Ratio of new to old probability", ("policy/ratio",)),
    Panel("Gradient norm", ("optim/*grad_norm*",)),
    Panel("Learning rate", ("optim/*learning_rate*",)),
    Panel("Engine against learner", ("engine/logprob_difference_*",), is_log=True),
    Panel("Checks without a verdict", ("status/undecided", "status/invalid"), all_zero=False),
    Panel("Tokens a second", ("throughput/*",)),
)
_OF_ANOTHER = ("heldout/*", "eval/*")
"""What a pattern of many rooms may not take from them."""
_PHASES = ("rollout", "verify", "score", "update")


def plots_of(stage: Stage) -> Iterator[tuple[Plot, tuple[str, ...]]]:
    """Each plot, and the metrics in it."""
    keys = list(dict.fromkeys(key for line in stage.metrics for key in line if key != "step"))
    for number, panel in enumerate(PANELS):
        if number == 1 and (benchmarks := _benchmarks(stage)):
            yield benchmarks
        names = _matching(panel, keys)
        lines = [line for key in names if (line := _of(stage, key)) is not None]
        if not lines or (len(lines) == 1 and not panel.alone):
            continue
        if not panel.all_zero and not any(np.nansum(line.values) for line in lines):
            continue
        yield (
            Plot(
                id=f"{stage.name}-{number}",
                title=panel.title,
                lines=tuple(lines),
                is_share=panel.is_share,
                is_log=panel.is_log
                and all(np.nanmin(line.values, initial=1) > 0 for line in lines),
            ),
            tuple(names),
        )
    if stack := _step_time(stage):
        yield stack


def _matching(panel: Panel, keys: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for pattern in panel.keys:
        for key in keys:
            foreign = pattern.startswith("*") and any(fnmatchcase(key, p) for p in _OF_ANOTHER)
            if fnmatchcase(key, pattern) and not foreign:
                found.setdefault(key)
    return list(found)


def _of(stage: Stage, key: str) -> Line | None:
    names = {"verifiable_rate": "training prompts", "heldout/accuracy": "held out"}
    line = series(stage.metrics, key, names.get(key) or key)
    if line is None or key != "heldout/accuracy":
        return line
    counts = [m.get("heldout/num_prompts", 0) for m in stage.metrics if key in m]
    if len(counts) != len(line.values) or not all(counts) or not np.isfinite(line.values).all():
        return line
    ends = [stats.wilson(round(v * n), int(n)) for v, n in zip(line.values, counts, strict=True)]
    low, high = np.array(ends).T
    return Line(line.label, line.steps, line.values, low, high)


def _benchmarks(stage: Stage) -> tuple[Plot, tuple[str, ...]] | None:
    """The primary metric of each benchmark, with its interval."""
    found: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    metrics: dict[str, str] = {}
    for line in stage.metrics:
        if not any(key.startswith("eval/") for key in line):
            continue
        for name, result in stage.results(line["step"]).items():
            metric, score = next(iter(result["metrics"].items()))
            metrics[name] = f"eval/{name}/{metric}"
            found.setdefault(name, []).append((line["step"], score))
    if not found:
        return None
    lines = tuple(
        Line(
            name,
            steps=np.array([float(step) for step, _ in scores]),
            values=np.array([score["value"] for _, score in scores]),
            low=np.array([score["low"] for _, score in scores]),
            high=np.array([score["high"] for _, score in scores]),
        )
        for name, scores in found.items()
    )
    plot = Plot(id=f"{stage.name}-benchmarks", title="Benchmarks", lines=lines, is_share=True)
    return plot, tuple(metrics.values())


def _step_time(stage: Stage) -> tuple[Plot, tuple[str, ...]] | None:
    """The phases of each step, one upon the other, and what they leave of the step."""
    steps = [line for line in stage.metrics if math.isfinite(line.get("time/step", math.nan))]
    names = [name for name in _PHASES if any(f"time/{name}" in line for line in steps)]
    others = sorted({key for line in steps for key in line if key.startswith("time/")})
    names += [key[5:] for key in others if key[5:] not in (*names, "step")]
    if not steps or not names:
        return None
    at = np.array([float(line["step"]) for line in steps])
    heights = [np.array([line.get(f"time/{name}", 0.0) for line in steps]) for name in names]
    rest = np.array([line["time/step"] for line in steps]) - np.sum(heights, axis=0)
    lines = [Line(name, at, height) for name, height in zip(names, heights, strict=True)]
    if rest.max() > 0.01 * np.sum(heights, axis=0).max():
        lines.append(Line("other", at, rest.clip(min=0)))
    plot = Plot(
        id=f"{stage.name}-time", title="Seconds a step", lines=tuple(lines), is_stacked=True
    )
    return plot, tuple(f"time/{name}" for name in (*names, "step"))
