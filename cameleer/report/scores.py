"""What the stages of a ladder score, with intervals, as rows of a table like a model card's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cameleer.evals import stats
from cameleer.report.stages import Stage


@dataclass(frozen=True)
class Score:
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float
    error: float
    """One standard error."""

    @property
    def percent(self) -> str:
        return f"{100 * self.value:.1f}"

    @property
    def span(self) -> str:
        return f"{100 * self.low:.1f} to {100 * self.high:.1f}"


@dataclass(frozen=True)
class Row:
    label: str
    """The benchmark and how many instances it has, or what was held out."""
    metric: str
    scores: tuple[Score | None, ...]
    """One for each column. None: it was not measured."""


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def score_table(stages: Sequence[Stage], *, steps: Mapping[str, int] | None = None) -> Table:
    """Held-out accuracy and benchmarks: before the first stage, and after each.

    Args:
        steps: The step to score, by the stage's name, where it is not the newest that was scored.
    """
    begun = [stage for stage in stages if stage.metrics and stage.is_training]
    columns, found = [], []
    if begun and (start := _scores(begun[0], 0)):
        columns.append("start")
        found.append(start)
    for stage in begun:
        step = (steps or {}).get(stage.name, _newest(stage))
        columns.append(stage.name if step == stage.num_steps else f"{stage.name}, step {step}")
        found.append(_scores(stage, step))
    keys = dict.fromkeys(key for scores in found for key in scores)
    rows = [Row(*key, tuple(scores.get(key) for scores in found)) for key in keys]
    if len(benchmarks := [row for row in rows if row.metric != _HELD_OUT]) > 1:
        rows.append(_average(benchmarks))
    return Table(tuple(columns), tuple(rows), tuple(_notes(begun)))


_HELD_OUT = "accuracy"

_Key = tuple[str, str]


def _scores(stage: Stage, step: int) -> dict[_Key, Score]:
    found: dict[_Key, Score] = {}
    line = next((each for each in stage.metrics if each["step"] == step), {})
    if "heldout/accuracy" in line:
        of_pairs = line.get("heldout/num_pairs")
        accuracy, count = line["heldout/accuracy"], int(of_pairs or line["heldout/num_prompts"])
        low, high = stats.wilson(round(accuracy * count), count)
        error = stats.proportion(accuracy, count).standard_error
        found[_held_out(stage), _HELD_OUT] = Score(accuracy, low, high, error)
    for name, result in stage.results(step).items():
        metric, value = next(iter(result["metrics"].items()))
        count, available = result["num_instances"], result["num_available"]
        size = f"{count:,}" if count == available else f"{count:,} of {available:,}"
        found[f"{name} ({size})", metric] = Score(
            value["value"], value["low"], value["high"], value["standard_error"]
        )
    return found


def _held_out(stage: Stage) -> str:
    """What tells held-out questions apart; stages that share them share a row."""
    heldout: Mapping[str, Any] = stage.recipe.get("heldout") or {}
    names = [source["name"] or source["path"] for source in heldout.get("sources", ())]
    if any(source["format"] == "preference" for source in heldout.get("sources", ())):
        return f"held out: pairs of {', '.join(names)} ranked ({heldout.get('num_prompts', 0):,})"
    temperature = heldout.get("temperature", 0.0)
    how = "greedy" if temperature == 0 else f"temperature {temperature:g}"
    verifiers = stage.recipe.get("verifiers") or {}
    rules = sorted({str(each.get("class", "")).rpartition(":")[2] for each in verifiers.values()})
    facts = ", ".join([f"{heldout.get('num_prompts', 0):,}", how, *rules])
    return f"held out: {', '.join(names)} ({facts})"


def _newest(stage: Stage) -> int:
    """The last step with a score; the last of all where none has one."""
    for line in reversed(stage.metrics):
        if "heldout/accuracy" in line or stage.results(line["step"]):
            return int(line["step"])
    return stage.last_step


def _average(rows: Sequence[Row]) -> Row:
    """The mean over benchmarks, of columns that have them all."""
    means: list[Score | None] = []
    for scores in zip(*(row.scores for row in rows), strict=True):
        known = [score for score in scores if score is not None]
        if len(known) < len(rows):
            means.append(None)
            continue
        mean = sum(score.value for score in known) / len(known)
        error = math.sqrt(sum(score.error**2 for score in known)) / len(known)
        low, high = max(0.0, mean - 1.96 * error), min(1.0, mean + 1.96 * error)
        means.append(Score(mean, low, high, error))
    return Row("average", "mean of the benchmarks", tuple(means))


def _notes(stages: Sequence[Stage]) -> list[str]:
    notes = []
    for stage in stages:
        of_heldout = [line for line in stage.metrics if "heldout/accuracy" in line]
        if of_heldout and (count := of_heldout[-1].get("heldout/undecided")):
            notes.append(
                f"{stage.name}: {count:,} held-out answers reached no verdict and are left out."
            )
    return notes
