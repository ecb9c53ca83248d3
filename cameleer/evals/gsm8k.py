"""GSM8K: grade-school word problems, 8 worked examples, one number (arXiv:2110.14168).

The formulation is ``gsm8k::tulu`` of github.com/allenai/olmes, with the limit of 4,096 tokens that
Tulu 3.1 was run with (512 are the task's own). Examples are those of Wei et al. 2022,
arXiv:2201.11903, each a turn of the user and one of the assistant.
"""

from __future__ import annotations

from collections.abc import Sequence

from cameleer.data.sources import Row, Source
from cameleer.errors import DataError
from cameleer.evals.base import Benchmark, Instance, Metric, text_in, worked_examples
from cameleer.types import Message
from cameleer.verifiers.gsm8k import GSM8K
from cameleer.verifiers.published import LastNumber
from cameleer.verifiers.tulu3 import last_number


def instances(rows: Sequence[Row]) -> list[Instance]:
    examples: list[Message] = []
    for example in worked_examples("gsm8k_8.json"):
        examples.append({"role": "user", "content": f"Question: {example['question']}"})
        examples.append({"role": "assistant", "content": f"{_PREFIX} {example['answer']}"})
    return [
        Instance(
            id=f"gsm8k:{number}",
            prompt=(
                *examples,
                {"role": "user", "content": f"Question: {text_in(row, 'question')}"},
            ),
            prefix=_PREFIX,
            truth=_truth(row),
        )
        for number, row in enumerate(rows)
    ]


def _truth(row: Row) -> str:
    _, mark, final = text_in(row, "answer").rpartition("####")
    truth = final.strip().replace(",", "")
    problem = GSM8K().validate(truth) if mark else "there is no '####'"
    if problem is not None:
        raise DataError(f"{row.origin}: the answer has to end in '#### ' and a number; {problem}.")
    return truth


_PREFIX = "Answer:"

BENCHMARK = Benchmark(
    name="gsm8k",
    version=1,
    about="grade-school word problems, 8-shot, exact match of the last number (1,319)",
    sources=(Source(path="openai/gsm8k", subset="main", split="test"),),
    file="gsm8k/test.jsonl",
    columns=("question", "answer"),
    instances=instances,
    extract=last_number,
    metrics=(
        Metric(
            name="exact_match",
            verifier=LastNumber(),
            about="the last number is spelled as the truth is, as published for Tulu 3",
        ),
        Metric(
            name="correct",
            verifier=GSM8K(),
            about="the number given as the answer equals the truth, sign and value",
        ),
    ),
    max_tokens=4096,
    stop=("Question:", "</s>", "<|im_end|>"),
)
