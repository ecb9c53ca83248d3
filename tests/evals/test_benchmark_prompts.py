"""Prompts byte by byte, and what becomes of rows that cannot be one."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import pytest

from cameleer.data.chat import TULU
from cameleer.data.sources import Row, rows_of_file
from cameleer.errors import DataError
from cameleer.evals.base import Benchmark, Instance, load
from cameleer.evals.suite import SUITE
from cameleer.verifiers.ifeval import IFEval

GOLDEN = Path(__file__).parent / "golden"


def sample(name: str) -> list[Instance]:
    return SUITE[name].instances(list(rows_of_file(GOLDEN / f"{name}.jsonl")))


def rendered(instance: Instance) -> str:
    template = jinja2.Environment(autoescape=False, keep_trailing_newline=True).from_string(TULU)
    prompt = template.render(
        messages=instance.prompt, eos_token="<|end_of_text|>", add_generation_prompt=True
    )
    return prompt + instance.prefix


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("name", ["gsm8k", "math", "ifeval"])
def test_a_prompt_is_the_published_one_byte_by_byte(name: str, number: int):
    golden = (GOLDEN / f"{name}_{number}.txt").read_bytes()
    assert rendered(sample(name)[number]).encode() == golden


def test_math500_asks_as_math_does():
    rows = list(rows_of_file(GOLDEN / "math.jsonl"))
    as_500 = [Row({**row.fields, "subject": row.fields["type"]}, row.origin) for row in rows]
    for one, other in zip(sample("math"), SUITE["math500"].instances(as_500), strict=True):
        assert (one.prompt, one.truth, one.subject) == (other.prompt, other.truth, other.subject)
        assert other.id == one.id.replace("math:", "math500:")


def test_truths_are_the_final_answers():
    assert [instance.truth for instance in sample("gsm8k")] == ["18", "-10", "1450000"]
    assert [instance.truth for instance in sample("math")] == ["2", r"39^\circ", r"\text{(E)}"]
    assert [instance.id for instance in sample("math")] == ["math:0", "math:1", "math:2"]
    assert [i.subject for i in sample("math")] == ["Algebra", "Geometry", "Precalculus"]


@pytest.mark.parametrize("name", ["gsm8k", "math", "ifeval"])
def test_a_truth_survives_json(name: str):
    for instance in sample(name):
        assert json.loads(json.dumps(instance.truth)) == instance.truth


def test_an_instruction_of_google_is_judged_by_its_label():
    instance = sample("ifeval")[1]
    assert instance.num_parts == 2
    truth = json.loads(json.dumps(instance.truth))
    answers = {"A song, for Guerrero": 0.0, "Hey Guerrero, hey": 0.5, "Hey Guerrero hey": 1.0}
    for text, share in answers.items():
        assert IFEval().score(text, truth).value == share


def test_arguments_of_the_hub_that_are_null_or_empty_are_not_given():
    row = {
        "prompt": "No commas, and at least three words.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [
            {"num_words": None, "relation": None, "keywords": []},
            {"num_words": 3, "relation": "at least", "keywords": None, "letter": ""},
        ],
    }
    (instance,) = SUITE["ifeval"].instances([Row(row, "hub:1")])
    assert instance.truth["kwargs"] == [{}, {"num_words": 3, "relation": "at least"}]


SHAPES = {
    "gsm8k": (1319, 1319, {"": 1319}),
    "math": (
        5000,
        5000,
        {
            "Algebra": 1187,
            "Counting & Probability": 474,
            "Geometry": 479,
            "Intermediate Algebra": 903,
            "Number Theory": 540,
            "Prealgebra": 871,
            "Precalculus": 546,
        },
    ),
    "ifeval": (541, 834, {"": 541}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_whole_benchmark_has_its_known_size(name: str, shared_data: Path):
    instances = load(SUITE[name], shared_data)
    num_instances, num_parts, subjects = SHAPES[name]
    assert len(instances) == num_instances
    assert sum(instance.num_parts for instance in instances) == num_parts
    assert Counter(instance.subject for instance in instances) == subjects


def test_math500_is_part_of_math(shared_data: Path):
    whole, part = (
        {str(i.prompt): (i.truth, i.subject) for i in load(SUITE[name], shared_data)}
        for name in ("math", "math500")
    )
    assert len(part) == 500 and part.items() <= whole.items()


GOOD: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "Two and two?", "answer": "2+2=4\n#### 4"},
    "math": {"problem": "$2+2$?", "type": "Algebra", "solution": r"It is $\boxed{4}$."},
    "math500": {"problem": "$2+2$?", "subject": "Algebra", "solution": r"It is $\boxed{4}$."},
    "ifeval": {
        "prompt": "No commas.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    },
}


def write(benchmark: Benchmark, directory: Path, *rows: dict[str, Any]) -> None:
    file = directory / benchmark.file
    file.parent.mkdir(parents=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


@pytest.mark.parametrize("name", SUITE)
def test_a_benchmark_is_read_from_its_file(name: str, tmp_path: Path):
    write(SUITE[name], tmp_path, GOOD[name], GOOD[name])
    assert [instance.id for instance in load(SUITE[name], tmp_path)] == [f"{name}:0", f"{name}:1"]


@pytest.mark.parametrize(
    ("name", "column"), [(name, column) for name in SUITE for column in SUITE[name].columns]
)
def test_a_row_without_a_column_is_named(name: str, column: str, tmp_path: Path):
    write(SUITE[name], tmp_path, GOOD[name], {**GOOD[name], column: None})
    with pytest.raises(DataError, match=rf":2: the row has no {column}, which {name} needs"):
        load(SUITE[name], tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("gsm8k", {"answer": "It is 4"}, "there is no '####'"),
        ("gsm8k", {"answer": "#### four"}, "it is not a number"),
        ("gsm8k", {"question": 4}, "question has to be text, and is 4"),
        ("math", {"solution": "It is $4$."}, r"its answer in \\boxed\{…\}; it is empty"),
        ("math", {"solution": r"It is \fbox{4}."}, r"its answer in \\boxed\{…\}; it is empty"),
        ("math500", {"subject": ["Algebra"]}, r"subject has to be text, and is \['Algebra'\]"),
        (
            "ifeval",
            {"instruction_id_list": ["punctuation:no_coma"]},
            "Did you mean 'punctuation:no",
        ),
        ("ifeval", {"kwargs": {}}, "names 1 instructions and has no list of kwargs"),
        ("ifeval", {"kwargs": ["a"]}, "the kwargs of punctuation:no_comma are 'a' and not an obj"),
        (
            "ifeval",
            {
                "instruction_id_list": ["length_constraints:number_words"],
                "kwargs": [{"num_words": 0, "relation": "at least"}],
            },
            "length_constraints:number_words needs num_words",
        ),
    ],
)
def test_a_row_that_cannot_be_judged_is_named(
    name: str, change: dict[str, Any], complaint: str, tmp_path: Path
):
    write(SUITE[name], tmp_path, GOOD[name], {**GOOD[name], **change})
    with pytest.raises(DataError, match=rf":2: .*{complaint}"):
        load(SUITE[name], tmp_path)


@pytest.mark.parametrize("name", SUITE)
def test_an_empty_or_absent_file_is_told(name: str, tmp_path: Path):
    with pytest.raises(DataError, match=rf"does not exist: {name} reads {SUITE[name].file}"):
        load(SUITE[name], tmp_path)
    write(SUITE[name], tmp_path)
    with pytest.raises(DataError, match=f"{name} has no instances"):
        load(SUITE[name], tmp_path)
