"""A benchmark that the tiny model can answer: sums, and whether it begins as it was shown to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cameleer.data.sources import Row, Source
from cameleer.evals.base import Benchmark, Instance, Metric
from cameleer.types import Score


@dataclass(frozen=True)
class Marked:
    """Right when the answer has the mark that demonstrations end with, or (wanted=False) not."""

    wanted: bool = True
    isolated: ClassVar[bool] = False

    def score(self, text: str, truth: Any) -> Score:
        return Score(float(("####" in text) == self.wanted))

    def validate(self, truth: Any) -> str | None:
        return None


def instances(rows: Sequence[Row]) -> list[Instance]:
    return [
        Instance(
            id=f"sums:{number}",
            prompt=({"role": "user", "content": row.fields["question"]},),
            truth=row.fields["answer"],
        )
        for number, row in enumerate(rows)
    ]


BENCHMARK = Benchmark(
    name="sums",
    version=1,
    about="sums",
    sources=(
        Source(path="cameleer.data.datasets.arithmetic:problems", format="gsm8k", split="test"),
    ),
    file="sums.jsonl",
    columns=("question", "answer"),
    instances=instances,
    extract=str.strip,
    metrics=(
        Metric(name="marked", verifier=Marked(), about="has the mark"),
        Metric(name="unmarked", verifier=Marked(wanted=False), about="has no mark"),
    ),
    max_tokens=12,
)
