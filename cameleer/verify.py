"""How often the verifiers err on a table of cases, and their verdicts on a file of completions."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from cameleer.data.sources import Row, rows_of_file
from cameleer.errors import DataError, RecipeError, nearest
from cameleer.log import console
from cameleer.types import Score
from cameleer.verifiers.base import Verifier, brief
from cameleer.verifiers.cases import CASES, Case
from cameleer.verifiers.gsm8k import GSM8K
from cameleer.verifiers.ifeval import IFEval
from cameleer.verifiers.isolate import Task, VerifierPool
from cameleer.verifiers.math import Math

NAMES = ("gsm8k", "math", "ifeval")
COMPLETION_COLUMNS = ("completion", "response", "text", "output")
TRUTH_COLUMNS = ("ground_truth", "answer", "truth")


def verify_table(cases: Sequence[Case] = CASES) -> int:
    """Print what our rules and the published ones get wrong in a table. 1 where ours do, else 0.

    Without the package that the published rules for mathematics need, they are left out and told.
    """
    columns = {"": verifiers(), "tulu3": verifiers("tulu3", where_possible=True)}
    errors = {compat: _errors(cases, column) for compat, column in columns.items()}
    table = _table("verifier", "rules", "cases", "wrong ones", *_ERRORS)
    for name in NAMES:
        about = [case for case in cases if case.verifier == name]
        wrong = sum(not case.right for case in about)
        for compat, found in errors.items():
            if name not in columns[compat]:
                continue
            kinds = [error for case, error, _ in found if case.verifier == name]
            counts = map(str, [len(about), wrong, *map(kinds.count, _ERRORS)])
            table.add_row(name, compat or "ours", *counts)
    for compat in ("tulu3", ""):
        for case, error, reason in errors[compat]:
            told = f"{brief(case.text)} for {brief(case.truth)} ({case.note}): {reason[:80]}"
            console.print(f"{compat or 'ours'} {case.verifier}, {error}: {told}", markup=False)
    console.print(table)
    return 1 if errors[""] else 0


def verify_file(
    path: Path, *, verifier: str | None = None, compat: str = "", output: Path | None = None
) -> int:
    """Score a file of completions; print counts and accuracy, and write one verdict a row.

    Args:
        verifier: For all rows. None: each row names its own in the column `dataset`.
        output: A .jsonl file to write, with `row`, `verifier`, `value`, `status` and `reason`.

    Raises:
        DataError: The file, or a row of it, cannot be read; nothing has been scored then.
    """
    rows = list(rows_of_file(path))
    if not rows:
        raise DataError(f"{path} has no rows, so there is nothing to verify.")
    if output is not None and output.exists() and os.path.samefile(path, output):
        raise RecipeError(f"--output {output} would overwrite the completions. Name another file.")
    tasks = [_task(row, verifier) for row in rows]
    known = verifiers(compat)
    with VerifierPool({name: known[name] for name in {task[0] for task in tasks}}) as pool:
        scores = pool.score_all(tasks)
    for row, score in zip(rows, scores, strict=True):
        if score.status == "invalid":
            console.print(f"invalid, the first is {row.origin}: {score.reason}", markup=False)
            break
    console.print(_summary(tasks, scores))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(output, "w", encoding="utf-8") as file:
            for row, (name, _, _), score in zip(rows, tasks, scores, strict=True):
                verdict = {"row": row.origin, "verifier": name, **dataclasses.asdict(score)}
                file.write(json.dumps(verdict, ensure_ascii=False) + "\n")
        console.print(f"verdicts: {output}", markup=False)
    return 0


def verifiers(compat: str = "", *, where_possible: bool = False) -> dict[str, Verifier]:
    """The three verifiers, by the names that data sets use.

    Args:
        where_possible: Leave out one that cannot run here, and say why, instead of raising.
    """
    rules: Any = compat
    kinds: dict[str, Any] = {"gsm8k": GSM8K, "math": Math, "ifeval": IFEval}
    found: dict[str, Verifier] = {}
    for name, kind in kinds.items():
        try:
            found[name] = kind(rules)
        except RecipeError as error:
            if not where_possible:
                raise
            console.print(f"not compared: {error}", markup=False)
    return found


_ERRORS = ("false accepts", "false rejects", "undecided")


def _errors(cases: Sequence[Case], column: Mapping[str, Verifier]) -> list[tuple[Case, str, str]]:
    """The cases that get a false verdict, which, and the verifier's reason."""
    with VerifierPool(column) as pool:
        cases = [case for case in cases if case.verifier in column]
        scores = pool.score_all([(case.verifier, case.text, case.truth) for case in cases])
    found = []
    for case, score in zip(cases, scores, strict=True):
        if score.status != "scored":
            found.append((case, "undecided", score.reason))
        elif score.value != float(case.right):
            found.append((case, _ERRORS[case.right], score.reason))
    return found


def _task(row: Row, verifier: str | None) -> Task:
    fields = row.fields
    name = verifier or str(fields.get("dataset") or "").lower()
    if name not in NAMES:
        why = f"names the verifier '{name}' in dataset" if name else "has no column dataset"
        raise DataError(
            f"{row.origin}: the row {why}.{nearest(name, NAMES)} Name one of {', '.join(NAMES)} "
            "there, or give --verifier for all rows."
        )
    text, truth = _first(fields, COMPLETION_COLUMNS), _first(fields, TRUTH_COLUMNS)
    if truth is None and "scores" in fields:
        raise DataError(
            f"{row.origin}: a run's rollouts hold their verdicts (scores) but not the ground "
            "truths. To score the texts again, add these as a column ground_truth."
        )
    for found, columns in ((text, COMPLETION_COLUMNS), (truth, TRUTH_COLUMNS)):
        if found is None:
            raise DataError(
                f"{row.origin}: the row has none of the columns {', '.join(columns)} (it has "
                f"{', '.join(sorted(map(str, fields))) or 'no columns'}). Rename one."
            )
    if not isinstance(text, str):
        raise DataError(
            f"{row.origin}: the completion is of type {type(text).__name__}. It has to be a text; "
            "of a conversation, give the assistant's last turn."
        )
    if name == "gsm8k" and isinstance(truth, str) and "####" in truth:
        truth = truth.rpartition("####")[2].strip().replace(",", "")
    return name, text, truth


def _first(fields: Mapping[str, Any], columns: Sequence[str]) -> Any:
    return next((fields[name] for name in columns if fields.get(name) is not None), None)


def _summary(tasks: Sequence[Task], scores: Sequence[Score]) -> Table:
    table = _table("verifier", "rows", "right", "wrong", "undecided", "invalid", "accuracy")
    for name in [name for name in NAMES if any(task[0] == name for task in tasks)]:
        about = [score for task, score in zip(tasks, scores, strict=True) if task[0] == name]
        statuses = Counter(score.status for score in about)
        scored = statuses["scored"]
        right = sum(score.value for score in about if score.status == "scored")
        table.add_row(
            name,
            f"{len(about):,}",
            f"{right:,g}",
            f"{scored - right:,g}",
            f"{statuses['undecided']:,}",
            f"{statuses['invalid']:,}",
            f"{right / scored:.4f} of {scored:,} scored" if scored else "none scored",
        )
    return table


def _table(*headings: str) -> Table:
    table = Table()
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("verifier", "rules") else "right")
    return table
