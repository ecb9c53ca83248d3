"""GSM8K's verifier: the data set's own answers, a table of traps, and what holds for every text."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shared_rows import rows_of

from cameleer.types import Score
from cameleer.verifiers.base import Verifier
from cameleer.verifiers.cases.gsm8k import CASES
from cameleer.verifiers.gsm8k import GSM8K
from cameleer.verifiers.text import MAX_STATEMENTS

NEVER_HANGS = settings(deadline=None, max_examples=100, derandomize=True)
PROSE = st.text(alphabet="abc dehilmnrstu,;\n*_`#$-", max_size=80)
"""Digit-free words with markdown and white space; too few letters to announce an answer."""


@pytest.mark.parametrize(("text", "truth", "right", "why"), CASES)
def test_the_verdict_of_the_table(text: str, truth: str, right: bool, why: str):
    score = GSM8K().score(text, truth)
    assert (score.value, score.status) == (float(right), "scored"), f"{why}: {score.reason}"
    assert score.reason and len(score.reason) <= 200


@pytest.mark.parametrize("split", ["test.jsonl", "train.jsonl.gz"])
def test_every_solution_of_the_data_set_is_right_for_its_own_answer(split: str):
    verifier = GSM8K()
    for row in rows_of(f"gsm8k/{split}"):
        truth = row["answer"].split("####")[1].strip().replace(",", "")
        assert verifier.validate(truth) is None
        wrong = str(int(float(truth)) + 1)
        for text in (row["answer"], f"So the answer is {truth}.", rf"\boxed{{{truth}}}"):
            assert verifier.score(text, truth).value == 1.0, text
            assert verifier.score(text, wrong).value == 0.0, text


@pytest.mark.parametrize("truth", ["", "eighteen", "18 or 19", None, [18], True, "1,8", "9" * 5000])
def test_a_truth_that_is_no_number_is_refused_and_never_scored(truth: object):
    assert GSM8K().validate(truth) is not None
    assert GSM8K().score("#### 18", truth).status == "invalid"


@pytest.mark.parametrize("truth", ["18", "-5", "1,800", "0.5", "$18", 18])
def test_a_truth_that_is_a_number_is_read(truth: object):
    assert GSM8K().validate(truth) is None


def test_it_is_a_verifier():
    assert isinstance(GSM8K(), Verifier)


@given(before=PROSE, after=PROSE, answer=st.integers(-(10**9), 10**9))
@NEVER_HANGS
@example(before="**", after="**\n\n# end", answer=-5)
def test_white_space_markdown_and_prose_around_the_statement_change_nothing(
    before: str, after: str, answer: int
):
    for statement in (f"#### {answer}", rf"\boxed{{{answer}}}", f"The answer is {answer}."):
        text = f"{before}\n{statement}\n{after}"
        assert GSM8K().score(text, str(answer)).value == 1.0
        assert GSM8K().score(text, str(answer + 1)).value == 0.0


@given(
    st.text(max_size=300)
    | st.text(alphabet="0123456789.,$-+=/() \n#or\\boxed{}answris", max_size=300)
)
@NEVER_HANGS
def test_any_text_gets_a_verdict(text: str):
    score = GSM8K().score(text, "5")
    assert score.status == "scored" and score.value in (0.0, 1.0) and len(score.reason) <= 200


@given(value=st.integers(-(10**12), 10**12), other=st.integers(-(10**12), 10**12))
@NEVER_HANGS
def test_two_answers_never_help(value: int, other: int):
    if value == other:
        return
    for text in (rf"\boxed{{{value}}} \boxed{{{other}}}", f"#### {value} or {other}"):
        assert GSM8K().score(text, str(value)).value == 0.0
        assert GSM8K().score(text, str(other)).value == 0.0


MEGABYTE = 1_000_000
LONG = {
    "digits": "7" * MEGABYTE,
    "groups of three that end in four": "1" + ",111" * (MEGABYTE // 4) + "1",
    "numbers": "1 " * (MEGABYTE // 2),
    "a sum": "The answer is " + "1+" * (MEGABYTE // 2),
    "open boxes": r"\boxed{" * (MEGABYTE // 7),
    "nested boxes": r"\boxed{" * (MEGABYTE // 8) + "}" * (MEGABYTE // 8),
    "boxes": r"\boxed{1}" * (MEGABYTE // 9),
    "phrases": "the answer is 1. " * (MEGABYTE // 17),
    "phrases without end": "answer to " * (MEGABYTE // 10),
    "hashes": "#### 1\n" * (MEGABYTE // 7),
    "labels": "Step 1 " * (MEGABYTE // 7),
    "corrections": "The answer is 5. Wait, " * (MEGABYTE // 23),
    "new problems": "q" + " " * MEGABYTE,
    "white space": " " * MEGABYTE,
    "lines": "x" + "\n" * MEGABYTE + "x",
    "backslashes": "\\" * MEGABYTE,
    "braces": "{" * MEGABYTE,
    "stars": "*" * MEGABYTE,
    "parentheses": "(" * MEGABYTE + "1",
}


@pytest.mark.parametrize("name", LONG)
def test_a_megabyte_is_read_in_linear_time(name: str):
    begin = time.process_time()
    assert GSM8K().score(LONG[name], "5").status == "scored"
    # Typically 3 to 100 ms; quadratic time would take minutes.
    assert time.process_time() - begin < 0.5


def test_statements_after_the_first_hundred_are_not_read():
    text = "#### 5\n" * MAX_STATEMENTS + r"\boxed{6}"
    assert GSM8K().score(text, "5").value == 0.0  # Boxes are counted on their own.
    assert GSM8K().score("#### 5\n" * MAX_STATEMENTS + "Wait, no.\n#### 6", "5").value == 1.0


def test_a_truth_with_more_digits_than_int_prints_is_compared():
    assert GSM8K().score("#### 18", 10**5000) == Score(0.0, "scored", "stated (phrase): 18")
