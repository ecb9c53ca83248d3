"""Results of evaluations side by side, and which of their differences are more than chance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cameleer.errors import RunError, nearest
from cameleer.evals import stats
from cameleer.evals.published import COLUMNS
from cameleer.log import console

_FORMAT = 1
_PARQUET = ("instance", "sample", "subject", "num_parts", "prompt_sha", "truth", "scores")


def compare(references: Sequence[str], common: bool = False) -> int:
    """Print scores side by side, and whether each column differs from the first.

    A reference is a directory of `cameleer eval` or a key of `cameleer.evals.published`. With
    `common`, results on other instances are compared on those that they share. Returns the exit
    status.

    Raises:
        RunError: A reference is no result, or two results were not made in the same way.
    """
    columns = [read_column(reference) for reference in references]
    rows = compare_columns(columns, common)
    labels = _labels(references)
    console.print(_table(labels, rows))
    for line in (*_smallest(labels, rows), *_notes(labels, columns, rows)):
        console.print(line, markup=False)
    return 0


@dataclass(frozen=True)
class Answered:
    """An instance as a model answered it."""

    prompt_sha: str
    truth: str
    subject: str
    num_parts: int
    values: Mapping[str, float]
    """By metric: the mean over the samples, where an undecided one is 0."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A benchmark's answers in one column. Of a published score there is only the estimate."""

    version: int
    decoding: Mapping[str, Any]
    averages: Mapping[str, str]
    """How each metric averages. The first is the primary one, which is what gets published."""
    answers: Mapping[str, Answered]
    """By instance id."""
    note: str = ""
    """What a reader of the score has to know."""


@dataclass(frozen=True)
class Column:
    name: str
    results: Mapping[str, Measured | stats.Estimate]
    """By benchmark."""


@dataclass(frozen=True)
class Row:
    """A metric of a benchmark, with an entry for each column. None: it has no such score."""

    benchmark: str
    metric: str
    scores: tuple[stats.Estimate | None, ...]
    differences: tuple[stats.Difference | None, ...]
    """To the first column, whose own is None."""


def read_column(reference: str) -> Column:
    """A results directory, or a published column by its key."""
    if reference in COLUMNS:
        found = {name: COLUMNS[reference].estimate(name) for name in COLUMNS[reference].percent}
        return Column(reference, {name: each for name, each in found.items() if each})
    path = Path(reference) / "results.json"
    if not path.is_file():
        raise RunError(
            f"{reference} has no results.json and is no published column."
            f"{nearest(reference, COLUMNS)} Name a directory that `cameleer eval` wrote, or one of "
            f"{', '.join(COLUMNS)}."
        )
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"Cannot read {path}: {error}. Evaluate again.") from error
    if results["format"] != _FORMAT:
        raise RunError(
            f"{path} has format {results['format']}, and this version of Cameleer reads {_FORMAT}. "
            "Compare with the version that wrote it, or evaluate again."
        )
    if results["profile"] == "smoke":
        raise RunError(
            f"{reference} is a smoke run, which shows that all works on a few instances and is no "
            "score. Evaluate with the profile dev or full."
        )
    return Column(
        reference,
        {
            name: _read_result(path.parent / f"{name}.parquet", summary)
            for name, summary in results["benchmarks"].items()
        },
    )


def compare_columns(columns: Sequence[Column], common: bool = False) -> list[Row]:
    """Rows for the benchmarks that the first column shares with another, in its order."""
    if len(columns) < 2:
        raise RunError("One result has nothing to be compared with. Name another one.")
    first, *others = columns
    shared = [name for name in first.results if any(name in other.results for other in others)]
    if not shared:
        raise RunError(
            f"{first.name} has {', '.join(first.results) or 'no benchmark'}, and no other column "
            "has any of these. Evaluate the same benchmarks."
        )
    return [row for name in shared for row in _rows(name, columns, common)]


def _rows(benchmark: str, columns: Sequence[Column], common: bool) -> Iterator[Row]:
    results = [column.results.get(benchmark) for column in columns]
    measured = {
        column.name: result
        for column, result in zip(columns, results, strict=True)
        if isinstance(result, Measured)
    }
    ids = _instances(benchmark, measured, common)
    metrics = list(next(iter(measured.values())).averages) if measured else ["published"]
    for metric in metrics:
        scores = [_score(result, metric, metric == metrics[0], ids) for result in results]
        differences = [
            _difference(results[0], result, scores[0], score, metric, ids)
            for result, score in zip(results[1:], scores[1:], strict=True)
        ]
        if any(differences):
            yield Row(benchmark, metric, tuple(scores), (None, *differences))


def _instances(benchmark: str, measured: Mapping[str, Measured], common: bool) -> tuple[str, ...]:
    """Ids of the instances to compare. Raises RunError where results were not made alike."""
    if not measured:
        return ()
    (name, first), *others = measured.items()
    ids = set(first.answers)
    for other_name, other in others:
        for what, ours, theirs in _ways(first, other):
            if ours != theirs:
                raise RunError(
                    f"{benchmark} was made in two ways: {what} is {ours} in {name}, and {theirs} "
                    f"in {other_name}. Evaluate one of them again."
                )
        both = ids & other.answers.keys()
        if not both:
            raise RunError(f"{name} and {other_name} share no instance of {benchmark}.")
        if not common and not len(both) == len(ids) == len(other.answers):
            raise RunError(
                f"{benchmark} has {len(ids):,} instances in {name}, {len(other.answers):,} in "
                f"{other_name}, and {len(both):,} are in both. Evaluate with one profile, or "
                "compare these with --common."
            )
        ids = both
        for each in sorted(ids):
            for what in ("prompt_sha", "truth"):
                ours, theirs = (getattr(r.answers[each], what) for r in (first, other))
                if ours != theirs:
                    raise RunError(
                        f"{name} and {other_name} do not ask the same of {each}: {what} is "
                        f"{ours} and {theirs}. Evaluate one of them again on the other's data."
                    )
    return tuple(sorted(ids))


def _ways(one: Measured, other: Measured) -> Iterator[tuple[str, Any, Any]]:
    """What makes two results comparable, with both values."""
    yield "version", one.version, other.version
    for key in sorted(one.decoding.keys() | other.decoding.keys()):
        yield key, one.decoding.get(key), other.decoding.get(key)
    for metric in one.averages.keys() & other.averages.keys():
        yield f"the average of {metric}", one.averages[metric], other.averages[metric]


def _score(
    result: Measured | stats.Estimate | None, metric: str, is_primary: bool, ids: Iterable[str]
) -> stats.Estimate | None:
    if isinstance(result, Measured):
        return stats.estimate(*_values(result, metric, ids)) if metric in result.averages else None
    return result if is_primary else None


def _difference(
    first: Measured | stats.Estimate | None,
    other: Measured | stats.Estimate | None,
    before: stats.Estimate | None,
    after: stats.Estimate | None,
    metric: str,
    ids: Iterable[str],
) -> stats.Difference | None:
    if before is None or after is None:
        return None
    if not isinstance(first, Measured) or not isinstance(other, Measured):
        return stats.unpaired(before, after)
    before_I, weights_I, subjects_I = _values(first, metric, ids)
    after_I, _, _ = _values(other, metric, ids)
    return stats.paired(before_I, after_I, weights_I, subjects_I)


def _values(
    result: Measured, metric: str, ids: Iterable[str]
) -> tuple[list[float], list[int] | None, list[str] | None]:
    """Values, weights and subjects, as `stats.estimate` takes them."""
    asked = [result.answers[each] for each in ids]
    average = result.averages[metric]
    return (
        [each.values[metric] for each in asked],
        [each.num_parts for each in asked] if average == "parts" else None,
        [each.subject for each in asked] if average == "subjects" else None,
    )


def _read_result(path: Path, summary: Mapping[str, Any]) -> Measured:
    metrics = summary["metrics"]
    result = Measured(
        version=summary["version"],
        decoding=summary["decoding"],
        averages={name: metric["average"] for name, metric in metrics.items()},
        answers=_read_answers(path, list(metrics), summary["samples"]),
        note=_note(summary),
    )
    if len(result.answers) != summary["num_instances"]:
        raise RunError(
            f"{path} has {len(result.answers):,} instances, and results.json beside it says "
            f"{summary['num_instances']:,}. Evaluate again."
        )
    for name, metric in metrics.items():
        value = stats.estimate(*_values(result, name, result.answers)).value
        if abs(value - metric["value"]) > 1e-6:
            raise RunError(
                f"{path} gives {value:.4f} for {name}, and results.json beside it says "
                f"{metric['value']:.4f}. Evaluate again."
            )
    return result


def _read_answers(path: Path, metrics: Sequence[str], num_samples: int) -> dict[str, Answered]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path, columns=list(_PARQUET)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        why = str(error).strip().split("\n")[0]
        raise RunError(f"Cannot read the answers {path}: {why}. Evaluate again.") from error
    samples: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        samples.setdefault(row["instance"], []).append(row)
    answers = {}
    for each, of_it in samples.items():
        if sorted(row["sample"] for row in of_it) != list(range(num_samples)):
            raise RunError(
                f"{path} has the samples {sorted(row['sample'] for row in of_it)} of {each}, and "
                f"not 0 to {num_samples - 1}. Evaluate again."
            )
        values = dict.fromkeys(metrics, 0.0)
        for row in of_it:
            for score in row["scores"]:
                if score["status"] == "scored" and score["metric"] in values:
                    values[score["metric"]] += score["value"] / num_samples
        # Tenths may add up to a little more than 1.
        values = {metric: min(value, 1.0) for metric, value in values.items()}
        row = of_it[0]
        answers[each] = Answered(
            row["prompt_sha"], row["truth"], row["subject"], row["num_parts"], values
        )
    return answers


def _note(summary: Mapping[str, Any]) -> str:
    primary = next(iter(summary["metrics"].values()))
    notes = []
    if summary["num_instances"] < summary["num_available"]:
        notes.append(f"{summary['num_instances']:,} of {summary['num_available']:,} instances")
    if primary["undecided"]:
        notes.append(f"{primary['undecided']:,} answers undecided, which count as wrong")
    return ", ".join(notes)


def _labels(references: Sequence[str]) -> list[str]:
    """The last parts of paths, where these tell them apart."""
    names = [Path(reference).name for reference in references]
    return names if len(set(names)) == len(set(references)) else list(references)


def _table(labels: Sequence[str], rows: Sequence[Row]) -> Table:
    """Scores and differences in points, each with one standard error."""
    table = Table(title="points ± one standard error", title_justify="left")
    table.add_column("benchmark", overflow="fold")
    for label in (*labels, *(f"{label} against {labels[0]}" for label in labels[1:])):
        table.add_column(label, justify="right", overflow="fold")
    for row in rows:
        scores = ["–" if s is None else _points(s.value, s.standard_error) for s in row.scores]
        differences = [
            "–" if d is None else f"{_points(d.difference, d.standard_error, '+')} {d.verdict}"
            for d in row.differences[1:]
        ]
        table.add_row(f"{row.benchmark} {row.metric}", *scores, *differences)
    return table


def _points(value: float, error: float, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f} ± {100 * error:.1f}"


def _smallest(labels: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """A line a benchmark: what its primary metric, which comes first, could have shown."""
    primary = {row.benchmark: row for row in reversed(rows)}
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        sizes = [
            f"{_size(d)} to {label} ({'paired' if d.is_paired else 'not paired'}, "
            f"{d.num_instances:,} instances)"
            for label, d in zip(labels, primary[benchmark].differences, strict=True)
            if d is not None
        ]
        yield f"{benchmark}: the smallest difference seen in 4 of 5 cases is {', '.join(sizes)}"


def _size(difference: stats.Difference) -> str:
    if not difference.standard_error:
        return "unknown, since no instance differs from the rest,"
    return f"{100 * stats.smallest_difference(difference.standard_error):.1f} points"


def _notes(labels: Sequence[str], columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    for label, column in zip(labels, columns, strict=True):
        if column.name in COLUMNS:
            yield f"{label}: {COLUMNS[column.name].source}"
        for benchmark in dict.fromkeys(row.benchmark for row in rows):
            result = column.results.get(benchmark)
            if isinstance(result, Measured) and result.note:
                yield f"{label}, {benchmark}: {result.note}"
