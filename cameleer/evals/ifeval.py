"""IFEval: instructions whose keeping can be checked, without examples (arXiv:2311.07911).

The formulation is ``ifeval::tulu`` of github.com/allenai/olmes, with the limit of 4,096 tokens that
Tulu 3.1 was run with (2,048 are the task's own). Arguments that are null, 0 or empty count as not
given, as there. Where an instruction needs them the original draws some at random, and this refuses
the row; none of IFEval's 541 is such a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cameleer.data.sources import Row, Source
from cameleer.errors import DataError
from cameleer.evals.base import Benchmark, Instance, Metric, text_in
from cameleer.verifiers.ifeval import IFEval


def instances(rows: Sequence[Row]) -> list[Instance]:
    found = []
    for number, row in enumerate(rows):
        truth = _truth(row)
        found.append(
            Instance(
                id=f"ifeval:{number}",
                prompt=({"role": "user", "content": text_in(row, "prompt")},),
                truth=truth,
                num_parts=len(truth["instruction_id_list"]),
            )
        )
    return found


def _truth(row: Row) -> dict[str, Any]:
    kwargs = row.fields["kwargs"]
    if isinstance(kwargs, list) and all(isinstance(each, dict | None) for each in kwargs):
        kwargs = [{name: v for name, v in (each or {}).items() if v} for each in kwargs]
    truth = {"instruction_id_list": row.fields["instruction_id_list"], "kwargs": kwargs}
    if (problem := IFEval().validate(truth)) is not None:
        raise DataError(f"{row.origin}: the instructions cannot be checked: {problem}.")
    return truth


def _metric(name: str, about: str, *, loose: bool, whole: bool) -> Metric:
    return Metric(
        name=name,
        verifier=IFEval(loose=loose),
        about=about,
        average="instances" if whole else "parts",
        whole=whole,
    )


_LOOSE = "by the answer, or it without its first or last line or its asterisks"

BENCHMARK = Benchmark(
    name="ifeval",
    version=1,
    about="checkable instructions, 0-shot, prompts with all of theirs kept, loosely (541)",
    sources=(Source(path="google/IFEval", split="train"),),
    file="ifeval/input_data.jsonl",
    columns=("prompt", "instruction_id_list", "kwargs"),
    instances=instances,
    extract=str,
    metrics=(
        _metric("prompt_level_loose_acc", f"prompts all kept {_LOOSE}", loose=True, whole=True),
        _metric("inst_level_loose_acc", f"instructions kept {_LOOSE}", loose=True, whole=False),
        _metric("prompt_level_strict_acc", "prompts all kept", loose=False, whole=True),
        _metric("inst_level_strict_acc", "instructions kept", loose=False, whole=False),
    ),
    max_tokens=4096,
)
