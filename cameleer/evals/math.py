r"""MATH: competition problems, 4 worked examples, an answer in LaTeX (arXiv:2103.03874).

The formulation is ``minerva_math::tulu`` of github.com/allenai/olmes, with the limit of 4,096
tokens that Tulu 3.1 was run with (1,024 are the task's own). Examples are those of Lewkowycz et al.
2022, arXiv:2206.14858, each a turn of the user and one of the assistant.

MATH-500 (Lightman et al. 2023, arXiv:2305.20050) has 500 of its 5,000 problems, the same prompts
and rules, and the mean over problems, since its subjects are too small for a mean over them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

from cameleer.data.sources import Row, Source
from cameleer.errors import DataError
from cameleer.evals.base import Benchmark, Instance, Metric, text_in, worked_examples
from cameleer.types import Message
from cameleer.verifiers.base import Verifier
from cameleer.verifiers.math import Math
from cameleer.verifiers.published import MathVerify, Minerva, candidates
from cameleer.verifiers.tulu3 import last_box


def instances(rows: Sequence[Row], *, name: str, subject: str) -> list[Instance]:
    """
    Args:
        name: Begins the ids.
        subject: The column that has it.
    """
    examples: list[Message] = []
    for example in worked_examples("minerva_math_4.json"):
        examples.append({"role": "user", "content": _question(example["problem"])})
        examples.append({"role": "assistant", "content": example["solution"]})
    return [
        Instance(
            id=f"{name}:{number}",
            prompt=(
                *examples,
                {"role": "user", "content": _question(text_in(row, "problem"))},
            ),
            truth=_truth(row),
            subject=text_in(row, subject),
        )
        for number, row in enumerate(rows)
    ]


def answers(text: str) -> str:
    """All that the flexible rule takes for an answer, any of which may be right."""
    return " or ".join(dict.fromkeys(candidates(text)))


def _question(problem: str) -> str:
    return f"Problem:\n{problem}\n\nSolution:"


def _truth(row: Row) -> str:
    truth = next(last_box(text_in(row, "solution")), "")
    if (problem := Math().validate(truth)) is not None:
        raise DataError(rf"{row.origin}: the solution needs its answer in \boxed{{…}}; {problem}.")
    return truth


def _metrics(average: Literal["instances", "subjects"]) -> tuple[Metric, ...]:
    return tuple(
        Metric(name=name, verifier=verifier, about=about, average=average)
        for name, verifier, about in _RULES
    )


_RULES: tuple[tuple[str, Verifier, str], ...] = (
    ("flex", Minerva(), "any answer of the text equals the truth, as published for Tulu 3"),
    ("strict", Minerva(flex=False), "the answer in Minerva's closing sentence does, by sympy"),
    ("math_verify", MathVerify(), "what math-verify reads in the whole text does"),
    ("correct", Math(), "what the text gives as its answer is equivalent to the truth"),
)
_SUBSETS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)

BENCHMARK = Benchmark(
    name="math",
    version=1,
    about="competition mathematics, 4-shot, flexible match, mean of 7 subjects (5,000)",
    sources=tuple(
        Source(path="EleutherAI/hendrycks_math", subset=subset, split="test") for subset in _SUBSETS
    ),
    file="math/test.jsonl.gz",
    columns=("problem", "type", "solution"),
    instances=functools.partial(instances, name="math", subject="type"),
    extract=answers,
    metrics=_metrics("subjects"),
    max_tokens=4096,
)

MATH500 = dataclasses.replace(
    BENCHMARK,
    name="math500",
    about="500 problems of MATH, 4-shot, flexible match",
    sources=(Source(path="HuggingFaceH4/MATH-500", split="test"),),
    file="math/math500.jsonl.gz",
    columns=("problem", "subject", "solution"),
    instances=functools.partial(instances, name="math500", subject="subject"),
    metrics=_metrics("instances"),
)
