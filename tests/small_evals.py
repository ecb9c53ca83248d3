"""A benchmark of a few sums, and a model that says what it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fakes import Says

from cameleer.data.sources import Row, Source
from cameleer.evals.base import Benchmark, Instance, Metric
from cameleer.evals.model import Answer, Question


def instances(rows: Sequence[Row]) -> list[Instance]:
    return [
        Instance(
            id=f"sums:{number}",
            prompt=({"role": "user", "content": row.fields["question"]},),
            truth=row.fields["answer"],
            subject=row.fields.get("subject", ""),
            num_parts=row.fields.get("num_parts", 1),
            choices=tuple(row.fields.get("choices", ())),
        )
        for number, row in enumerate(rows)
    ]


SEVEN = Metric(name="seven", verifier=Says("7"), about="it says 7")

SUMS = Benchmark(
    name="sums",
    version=1,
    about="small sums",
    sources=(Source(path="nobody/sums"),),
    file="sums.jsonl",
    columns=("question", "answer"),
    instances=instances,
    extract=lambda text: text.rpartition(" ")[2],
    metrics=(SEVEN,),
    max_tokens=6,
)

CHATTY = replace(SUMS, samples=2, temperature=1.0)


def write_sums(directory: Path, count: int = 8, **columns: Any) -> Path:
    """A data directory with so many sums. Further columns are functions of the row's number."""
    directory.mkdir(exist_ok=True)
    rows = [
        {
            "question": f"Ida has {n} pens and buys 3 more .",
            "answer": str(n + 3),
            **{name: column(n) for name, column in columns.items()},
        }
        for n in range(count)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / "sums.jsonl").write_text(text, encoding="utf-8")
    return directory


def says_its_number(question: Question) -> Answer:
    """Right where the number of the instance and that of the sample add up to 7, or to 3."""
    total = int(question.instance.id.rpartition(":")[2]) + question.sample
    text = "it is 7" if total in (3, 7) else f"it is {total}"
    return Answer(text, 3, "eos")


class Scripted:
    """Says what a function says, notes what it is asked, and may die of an error on the way."""

    def __init__(
        self,
        say: Callable[[Question], Answer] = says_its_number,
        *,
        dies_after: int | None = None,
        error: type[BaseException] = KeyboardInterrupt,
        context: int | None = None,
        weights: str = "w",
    ) -> None:
        self.name, self.context = "scripted", context
        self.asked: list[tuple[str, int]] = []
        self.limits: list[int] = []
        self._say, self._dies_after, self._error, self._weights = say, dies_after, error, weights

    def identity(self) -> dict[str, Any]:
        return {"kind": "scripted", "weights": self._weights}

    def prompt(self, instance: Instance) -> tuple[str, int | None]:
        text = instance.prompt if isinstance(instance.prompt, str) else self._chat(instance)
        return text, len(text.split())

    def generate(
        self,
        questions: Sequence[Question],
        done: Callable[[int, Answer], None],
        *,
        temperature: float,
        seed: int,
    ) -> None:
        # Backwards, for the order is free.
        for place in reversed(range(len(questions))):
            self._ask(questions[place].instance, questions[place].sample)
            self.limits.append(questions[place].max_tokens)
            done(place, self._say(questions[place]))

    def loglikelihoods(
        self, instances: Sequence[Instance], done: Callable[[int, list[float]], None]
    ) -> None:
        for place, instance in enumerate(instances):
            self._ask(instance, 0)
            done(place, [-float(len(choice)) for choice in instance.choices])

    def _ask(self, instance: Instance, sample: int) -> None:
        if len(self.asked) == self._dies_after:
            raise self._error("as asked")
        self.asked.append((instance.id, sample))

    def _chat(self, instance: Instance) -> str:
        return " ".join(message["content"] for message in instance.prompt)  # type: ignore[index]
