"""Every rule is asked for, every label can be read, and no request is IFEval's."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest

from cameleer.data.datasets.constraints import prompts
from cameleer.errors import DataError
from cameleer.verifiers.ifeval import IFEval
from cameleer.verifiers.ifeval_checks import RULES


def test_every_rule_has_its_share_and_every_label_can_be_read():
    rows = list(prompts("train"))
    asked = Counter(json.loads(row["ground_truth"])["func_name"] for row in rows)
    assert len(rows) == 5_000 and asked.keys() == RULES.keys() and set(asked.values()) == {200}
    assert {IFEval().validate(row["ground_truth"]) for row in rows} == {None}


def test_splits_share_no_topic_and_are_the_same_every_time():
    train, test = (
        {row["messages"][0]["content"] for row in prompts(split)} for split in ("train", "test")
    )
    assert not train & test and len(test) == 500
    assert list(itertools.islice(prompts("train"), 9)) == list(
        itertools.islice(prompts("train"), 9)
    )
    assert any("camels" in text for text in train) and not any("camels" in text for text in test)


@pytest.mark.parametrize(
    ("rule", "answer", "broken"),
    [
        ("validate_uppercase", "BREAD IS GOOD", "Bread is good"),
        ("validate_no_commas", "Bread is good", "Bread, butter"),
        ("validate_title", "<<Bread>> It is good.", "Bread. It is good."),
        ("validate_quotation", '"Bread is good"', "Bread is good"),
        ("validate_two_responses", "Bread.\n******\nButter.", "Bread."),
        ("validate_json_format", '{"bread": "good"}', "bread: good"),
    ],
)
def test_an_answer_that_keeps_the_constraint_is_right(rule: str, answer: str, broken: str):
    truth = next(
        row["ground_truth"]
        for row in prompts("train")
        if json.loads(row["ground_truth"])["func_name"] == rule
    )
    assert IFEval().score(answer, truth).value == 1 and IFEval().score(broken, truth).value == 0


def test_the_words_that_are_to_be_copied_are_those_before_the_constraint():
    for row in prompts("test"):
        label = json.loads(row["ground_truth"])
        if label["func_name"] == "validate_repeat_prompt":
            assert (
                row["messages"][0]["content"] == f"{label['original_prompt']} {row['constraint']}"
            )


def test_no_request_shares_eight_words_in_a_row_with_ifeval(shared_data: Path):
    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.lower().split()
        return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}

    files = [p for p in (shared_data / "ifeval").iterdir() if "input_data" in p.name]
    theirs: set[tuple[str, ...]] = set()
    for line in files[0].read_text(encoding="utf-8").splitlines():
        theirs |= runs(json.loads(line)["prompt"])
    assert len(theirs) > 5_000
    shared = {
        run for row in prompts("train") for run in runs(row["messages"][0]["content"]) & theirs
    }
    assert not shared


def test_an_unknown_split_is_refused():
    with pytest.raises(DataError, match="no split 'tset'"):
        next(prompts("tset"))
