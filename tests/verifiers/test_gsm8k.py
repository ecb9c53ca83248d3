"""GSM8K's verifier: the data set's own answers, a table of traps, and what holds for every text."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shared_rows import rows_of

from cameleer.types import Score
from cameleer.verifiers.base import Verifier
from cameleer.verifiers.cases.gsm8k import CASES
from cameleer.verifiers.gsm8k import GSM8K

NEVER_HANGS = settings(deadline=None, max_examples=100, derandomize=True)
PROSE = st.text(alphabet="abc dehilmnrstu,;\n*_`#$-", max_size=80)
"""Digit-free words with markdown and white space; too few letters to announce an answer."""

EIGHT = "abc def ghi jkl mno pqr stu vwx"
EDGES: list[tuple[str, str, bool, str]] = [
    ("The answer is 2 times 9.", "9", False, "a product that is not carried out"),
    ("The answer is 20 minus 2.", "20", False, "a difference that is not carried out"),
    # Which statement.
    (r"\boxed{5}\boxed{6}", "5", False, "two boxes side by side"),
    (r"The answer is 5. So \boxed{6}", "6", False, "a phrase, then another box"),
    (r"The answer is 2 + 3 = \boxed{5}", "5", True, "work in the phrase that leads to a box"),
    (r"\boxed{\text{so } \boxed{5} of 6", "5", True, "an unclosed box around a closed one"),
    (r"\boxed{\boxed{5}} \boxed{6}", "5", False, "a box in a box, then another one"),
    (r"So \boxed 5. It is 6.", "5", True, "a full stop after a box without braces"),
    ("Answer: The answer is 18. She has 19 hens.", "18", True, "a label leads to a phrase"),
    ("The answer is not 5. The answer is 18. She has 19.", "18", True, "a denial, then a phrase"),
    ("Answer: Take 5 or 6 eggs. The answer is 7.", "7", True, "a worked solution opens with words"),
    ("Answer: 18\nThe answer is 19.", "18", True, "the first, a label"),
    ("The answer is 5. Wait, that is wrong.", "5", True, "a correction that corrects nothing"),
    (r"Wait, that is wrong. So \boxed{5} \boxed{6}", "6", False, "a correction before both"),
    (r"\boxed{18} 3 more to go", "18", True, "a number of something else after a box"),
    # How far from the statement the number may stand.
    (f"The answer is {EIGHT} 18. She has 20.", "18", True, "eight words before the number"),
    (f"The answer is {EIGHT} xy 18. She has 20.", "18", False, "nine words are no statement"),
    (f"The answer is {EIGHT} x 18. She has 20.", "18", True, "a letter is no ninth word"),
    (f"The answer is {EIGHT} only 18. She has 20.", "18", True, "nor is a hedge"),
    (rf"\boxed{{{EIGHT} 18}}", "18", True, "eight words in a box"),
    (rf"\boxed{{{EIGHT} xyz 18}}", "18", False, "nine words in a box"),
    ("So she makes 18." + "\nStep 2" * 7, "18", True, "seven labels behind the last number"),
    ("So she makes 18." + "\nStep 2" * 8, "18", False, "eight labels"),
    ("(so she has 18 eggs)", "18", True, "a remark alone is no remark"),
    # Other numbers beside it.
    ("The answer is 18 if you count the 2 cows.", "18", True, "one condition is none"),
    ("The answer is 18 (100%).", "18", True, "a remark without words"),
    ("The answer is 18 [or so] 19", "18", False, "an alternative in other brackets"),
    ("17, 18", "18", False, "an enumeration of two"),
    ("18 or 18 eggs", "18", True, "no other number"),
    ("18, 18", "18", True, "the same number twice"),
    ("18, is it not", "18", True, "a question tag is no denial"),
    ("Total: 3 = 5", "5", False, "two different numbers after a colon"),
    ("x = 3 = 5", "5", False, "two different numbers after an equals sign"),
    ("x + 3 = 5", "5", True, "the last number of a sum is no other answer"),
    ("200 < 220 eggs", "220", True, "a comparison at the beginning is no bound"),
    ("She pays 18 or 19.", "19", False, "alternatives, no statement"),
    ("She pays 18, then 19.", "19", True, "one after the other"),
    ("She pays 18, perhaps 19.", "19", True, "the last number"),
    ("3 or so, then 18 is 18 eggs", "18", True, "an alternative to an earlier number"),
    ("She pays 18 = 18 eggs.", "18", True, "the same number on both sides"),
    ("She will not be 18.", "18", False, "a denial without a statement"),
    (r"\boxed{\text{not } 18}", "18", False, "a denial in a box"),
    ("The answer is more than (18).", "18", False, "a bound before a bracket"),
    ("She has more than -18.", "-18", False, "a bound before a sign"),
    # Signs and arithmetic.
    ("-18", "-18", True, "a sign at the beginning"),
    ("The answer is x=18.", "18", True, "an equals sign and no blank"),
    ("18-", "18", True, "a dash after the number"),
    ("It is 10 -18", "-18", True, "a sign between blank and number"),
    ("It is, say, 10-18", "18", True, "a range after several words"),
    ("It is x/-6", "-6", True, "a sign after a slash"),
    ("= 18", "18", True, "an equals sign at the beginning"),
    ("It is 10-18", "18", True, "a range after a word"),
    ("It is 10-18", "-18", False, "a hyphen between numbers is no sign, after a word"),
    ("It is 10 degrees, then -18", "-18", True, "a sign after a blank"),
    ("The answer is 16 large brown hen eggs - 4 = 12 eggs.", "12", True, "a unit of four words"),
    ("The answer is 16 very large brown hen eggs - 4 = 12 eggs.", "16", True, "not one of five"),
    ("The answer is 18 - that is all.", "18", True, "a dash and no number"),
    ("The answer is (9) * (2) = (18).", "18", True, "numbers in brackets"),
    ("The answer is (9 + 9).", "18", False, "a sum in brackets"),
    ("The answer is 3 * 6 = 18 = 9 * 2.", "18", True, "the side that is a number"),
    ("The answer is 9 * 2 = 36/2 = 18.", "18", True, "a division to be carried out, and its value"),
    ("The answer is 5 * 1 = 10/4.", "2.5", True, "a fraction as the last side"),
    ("The answer is 0/5.", "0", False, "a division to be carried out"),
    ("The answer is " + "9" * 201 + "/5.", "5", False, "a number that cannot be read, divided"),
    ("The answer is 5/" + "9" * 201, "5", False, "a division by what cannot be read"),
    ("The answer is 1/0.", "0", False, "a division by zero"),
    ("The answer is 2 1/0.", "2", False, "a division by zero"),
    ("The answer is -1/2.", "-0.5", True, "a negative fraction"),
    ("The answer is -2 1/2.", "-2.5", True, "a negative mixed number"),
    ("The answer is +2 1/2.", "2.5", True, "a positive mixed number"),
    ("The answer is 1e-1.", "0.1", True, "a negative exponent"),
    ("#### " + "9" * 200, "9" * 200, True, "as many digits as are read"),
    ("#### " + "9" * 201, "9" * 200, False, "one digit too many"),
]  # fmt: skip
"""Where a rule ends, beside the table that comes with the package."""


@pytest.mark.parametrize(("text", "truth", "right", "why"), [*CASES, *EDGES])
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


@pytest.mark.parametrize(
    "truth", ["", "eighteen", "18 or 19", None, [18], True, math.nan, "1,8", "9" * 5000]
)
def test_a_truth_that_is_no_number_is_refused_and_never_scored(truth: object):
    why = GSM8K().validate(truth)
    score = GSM8K().score("#### 18", truth)
    assert why is not None and why in score.reason
    assert (score.value, score.status) == (0.0, "invalid")


@pytest.mark.parametrize("truth", ["18", "-5", "1,800", "0.5", "$18", 18, 18.0, 3.5, -1e16])
def test_a_truth_that_is_a_number_is_read(truth: object):
    assert GSM8K().validate(truth) is None


@pytest.mark.parametrize(("truth", "right"), [(18.0, "18"), (0.1, "0.1"), (-2.5, "-2.5")])
def test_a_truth_of_json_s_decimals_is_the_number_that_is_written(truth: float, right: str):
    for verifier in (GSM8K(), GSM8K(compat="tulu3")):
        assert verifier.score(f"#### {right}", truth).value == 1.0
        assert verifier.score("#### 7", truth).value == 0.0


def test_it_is_a_verifier():
    assert isinstance(GSM8K(), Verifier) and not GSM8K().isolated
    assert len({GSM8K(), GSM8K()}) == 1  # A value, which can be compared and never changes.


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
    text = "#### 5\n" * 100 + r"\boxed{6}"
    assert GSM8K().score(text, "5").value == 0.0  # Boxes are counted on their own.
    assert GSM8K().score("#### 5\n" * 100 + "Wait, no.\n#### 6", "5").value == 1.0
    assert GSM8K().score("#### 5\n" * 99 + "Wait, no.\n#### 6", "5").value == 0.0
    assert GSM8K().score(r"\boxed{5}" * 100 + r"\boxed{6}", "5").value == 1.0
    assert GSM8K().score(r"\boxed{5}" * 99 + r"\boxed{6}", "5").value == 0.0


def test_a_box_of_ten_thousand_characters_is_a_box():
    assert GSM8K().score(rf"\boxed{{18 {'so ' * 3000}}} or 19", "18").value == 0.0
    assert GSM8K().score(rf"\boxed{{18 {'so ' * 3000}}} of 19", "18").value == 1.0


REASONS = [
    ("so", "the text gives no number"),
    ("#### 18", "stated (phrase): 18"),
    ("#### 18\n" r"\boxed{18.0}", "stated (phrase): 18, 18.0"),
    (r"\boxed{+1,800.50}", "stated (box): +1,800.50"),
    ("Answer: 18", "stated (label): 18"),
    ("She makes 18.", "last number: 18"),
    ("#### 1/2", "stated (phrase): 1/2"),
    ("#### " + "7" * 30, "stated (phrase): " + "7" * 24),
    (
        r"\boxed{1} \boxed{22} \boxed{3} \boxed{4} \boxed{5}",
        "conflicting answers: 1, 22, 3, 4",
    ),
    ("#### 5 or 6", "stated (phrase): more than one number"),
    ("#### 2 + 3", "stated (phrase): arithmetic that is not carried out"),
    ("#### 36/2", "stated (phrase): arithmetic that is not carried out"),
    ("#### sqrt(4)", "stated (phrase): arithmetic that is not carried out"),
    ("#### 3 = 5", "stated (phrase): two different numbers are called equal"),
    ("3, 5", "last number: more than one number"),
    ("3 = 5", "last number: two different numbers are called equal"),
    ("3 eggs = 5", "last number: 5"),
    ("so: 3 = 5", "last number: two different numbers are called equal"),
    ("#### more than 5", "stated (phrase): a bound"),
    ("It is under 5", "last number: a bound"),
    ("#### isn't 5", "stated (phrase): a denial"),
    ("She will not be 5", "last number: a denial"),
    ("#### " + "7" * 201, "stated (phrase): a number that cannot be read"),
    ("7" * 201, "last number: a number that cannot be read"),
    (r"\boxed{so}", "stated (box): a box without a number"),
]


@pytest.mark.parametrize(("text", "reason"), REASONS)
def test_the_reason_names_the_rule_and_what_it_read(text: str, reason: str):
    assert GSM8K().score(text, "18").reason == reason


def test_a_truth_with_more_digits_than_int_prints_is_compared():
    assert GSM8K().score("#### 18", 10**5000) == Score(0.0, "scored", "stated (phrase): 18")
