"""The rules behind published columns: verdicts worked out from the published code."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from cameleer.errors import RecipeError
from cameleer.verifiers.gsm8k import GSM8K
from cameleer.verifiers.isolate import VerifierPool
from cameleer.verifiers.published import LastNumber, MathVerify, Minerva, candidates
from cameleer.verifiers.tulu3 import last_number

FLEX, STRICT = Minerva(flex=True), Minerva(flex=False)
HOPE = ". I hope it is correct."
SAID = "Final Answer: The final answer is "

LAST_NUMBERS = [
    ("So the answer is 18.", "18"),
    ("#### 18.00", "18.00"),
    ("It costs $1,450,000.", "1450000"),
    ("1,2,3", "3"),  # After 1,2 no digit is left before the second comma.
    ("1,234,567.5", "1234567.5"),
    ("So it is -10 degrees", "10"),
    ("So it is -10.5 degrees", "-10.5"),
    ("3 + +.5", "+.5"),
    ("5-3", "3"),
    ("5-3.0", "-3.0"),
    ("18 of 20", "20"),
    ("1.2.3", ".3"),
    ("18e3", "3"),
    ("½ or ٣", "٣"),  # A half is no digit, an Arabic three is.
    ("eighteen", "eighteen"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "number"), LAST_NUMBERS)
def test_the_last_number_of_a_text(text: str, number: str):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("text", "truth", "right"),
    [
        ("So the answer is 18.", "18", True),
        ("So the answer is $18.00.", "18", False),
        ("So the answer is 2,125", "2125", True),
        ("So the answer is 2125", "2,125", True),
        ("The temperature is -10.", "-10", True),
        ("The temperature is 10.", "-10", True),  # The truth loses its sign too.
        ("The temperature is -2.5.", "-2.5", True),
        ("The temperature is 2.5.", "-2.5", False),
        ("#### 18\nThat was step 3.", "18", False),
        ("no number", "18", False),
        ("", "18", False),
    ],
)
def test_a_word_problem_is_judged_by_the_spelling_of_its_last_number(
    text: str, truth: str, right: bool
):
    assert LastNumber().score(text, truth).value == right


def test_evaluation_and_training_differ_in_the_truths_sign_only():
    trained, evaluated = GSM8K(compat="tulu3"), LastNumber()
    for text, _ in LAST_NUMBERS:
        for truth in ("18", "18.00", "3", "10", "-10.5", "1450000"):
            assert trained.score(text, truth).value == evaluated.score(text, truth).value
    assert trained.score("-10", "-10").value == 0 and evaluated.score("-10", "-10").value == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{SAID}$x = 5$ cm{HOPE}", ["5"]),
        (rf"\boxed{{6}} {SAID}$5${HOPE}", ["5", "6"]),
        (r"\boxed{6} and \boxed{\text{east}}", ["east"]),
        (r"\boxed{\frac12} and $7$", [r"\frac{1}{2}"]),
        (r"so \boxed 5$ or $6$", ["5"]),
        (r"\fbox{6} or $7$", ["7"]),
        (r"\fbox{6}", [r"\fbox{6}"]),
        (r"\boxed{5", [r"\boxed{5"]),
        ("$5$ or $6$", ["6"]),
        ("costs $5 or $6", ["5or"]),
        ("costs $5", ["costs5"]),
        ("x = 5", ["5"]),
        (f"{SAID}$5$.", ["5"]),  # Not closed: the last formula.
        (f"{SAID}$5$. I hope it is correct", ["5"]),
        (f"{SAID}5. ", ["5"]),  # The rule closes every text with "I hope it is correct."
        (f"{SAID}5{HOPE} {SAID}6{HOPE}", ["5"]),
        (f"{SAID}\n5{HOPE}", ["FinalAnswer:Thefinalansweris\n5.Ihopeitiscorrect."]),
        (f"{SAID}{HOPE}", [""]),
        (r"\boxed{}", [""]),
        ("", [""]),
    ],
)
def test_what_counts_as_an_answer(text: str, found: list[str]):
    assert candidates(text) == found


MATH_TABLE = [
    # text, truth, flex, strict, why
    (f"{SAID}$5${HOPE}", "5", True, True, "as asked"),
    (f"{SAID}5.{HOPE}", "5", False, False, "sympy reads no point at the end"),
    (f"{SAID}$5$. ", "5", True, True, "the rest of the sentence is added"),
    (f"{SAID}$5$", "5", True, False, "not closed: the last formula"),
    (r"\boxed{5}", "5", True, False, "a box is not Minerva's sentence"),
    (rf"\boxed{{5}} {SAID}$6${HOPE}", "5", True, False, "any of the two"),
    (rf"\boxed{{5}} {SAID}$6${HOPE}", "6", True, True, "any of the two"),
    (rf"\boxed{{5}} {SAID}$6${HOPE}", "7", False, False, "none"),
    (r"\boxed{5} or \boxed{6}", "5", False, False, "the last box"),
    (r"\fbox{5}", "5", False, False, "the other box is none"),
    (f"{SAID}$\\frac{{2}}{{4}}${HOPE}", r"\frac12", True, True, "sympy"),
    (f"{SAID}$0.5${HOPE}", r"\frac12", True, True, "sympy"),
    (f"{SAID}$1+x${HOPE}", "x+1", True, True, "sympy"),
    (f"{SAID}${{5}} \\text{{ cm}}${HOPE}", r"5\text{ cm}", True, True, "units go on both sides"),
    (f"{SAID}$x=5${HOPE}", "5", True, True, "what stands before an equals sign goes"),
    (f"{SAID}5 = 6{HOPE}", "6", True, True, "what stands before an equals sign goes"),
    (f"{SAID}$1,000${HOPE}", r"1{,}000", True, True, "commas of whole numbers"),
    (f"{SAID}$(1,2)${HOPE}", "(1,2)", True, False, "sympy reads no pairs"),
    (f"{SAID}$(1, 2)${HOPE}", r"\left(1,2\right)", False, False, "ft, a unit, goes from \\left"),
    (f"{SAID}$[2,5)${HOPE}", "[2,5)", True, False, "sympy reads no intervals"),
    (f"{SAID}(E){HOPE}", r"\text{(E)}", True, True, "sympy takes the letter for Euler's number"),
    (f"{SAID}E{HOPE}", r"\text{(E)}", True, True, "sympy sees no brackets"),
    (f"{SAID}east{HOPE}", r"\text{east}", True, True, "sympy multiplies letters"),
    (f"{SAID}seat{HOPE}", r"\text{east}", True, True, "in any order"),
    (f"{SAID}$50\\%${HOPE}", r"50\%", True, False, "sympy reads no percent"),
    (f"{SAID}$50${HOPE}", r"50\%", True, False, "strings without percent"),
    (f"{SAID}$39${HOPE}", r"39^\circ", True, True, "degrees go"),
    (f"{SAID}$1,2${HOPE}", "2,1", False, False, "the order counts"),
    ("x = 5", "5", True, False, "the whole text, after its equals sign"),
    ("The answer is 5", "5", False, False, "the whole text"),
    ("", "5", False, False, "nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "truth", "flex", "strict", "why"), MATH_TABLE)
def test_the_published_verdicts_on_mathematics(
    text: str, truth: str, flex: bool, strict: bool, why: str
):
    assert FLEX.score(text, truth).value == flex, why
    assert STRICT.score(text, truth).value == strict, why


@pytest.mark.parametrize(
    ("text", "truth", "right"),
    [
        (r"It is $\boxed{\frac{2}{4}}$.", r"\frac{1}{2}", True),
        ("The final answer is $[2,5)$.", "[2,5)", True),
        ("The answer is 5", "5", True),
        ("The answer is 6", "5", False),
        ("no answer", "5", False),
        ("", "5", False),
    ],
)
def test_math_verify_reads_the_whole_text(text: str, truth: str, right: bool):
    assert MathVerify().score(text, truth).value == right


@pytest.mark.parametrize("verifier", [LastNumber(), FLEX, STRICT, MathVerify()], ids=repr)
@pytest.mark.parametrize("truth", ["", None, math.nan, ["5"]])
def test_a_truth_that_is_none_is_refused(verifier: Any, truth: Any):
    assert verifier.validate(truth) is not None
    assert verifier.score("5", truth).status == "invalid"


def test_they_work_in_a_pool():
    verifiers = {"flex": FLEX, "strict": STRICT, "math_verify": MathVerify(), "last": LastNumber()}
    assert pickle.loads(pickle.dumps(verifiers)) == verifiers
    with VerifierPool(verifiers, num_workers=1, cpu_limit_s=2.0) as pool:
        cases = [(name, rf"\boxed{{5}} {SAID}$6${HOPE}", "5") for name in verifiers]
        assert [score.value for score in pool.score_all(cases)] == [1.0, 0.0, 0.0, 0.0]


def test_the_parser_that_sympy_needs_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cameleer.verifiers.tulu3._antlr", lambda: "")
    needs: list[Callable[[], object]] = [
        FLEX.check_installed,
        STRICT.check_installed,
        lambda: FLEX.score("5", "5"),
    ]
    for need in needs:
        with pytest.raises(
            RecipeError, match=r"Minerva\(flex=.*4\.11, and none.*leave this metric"
        ):
            need()


def test_the_reason_of_math_verify_is_the_last_of_what_it_read():
    reason = MathVerify().score(r"First $x=3$. So $\boxed{7}$.", "7").reason
    assert reason == "parsed: '['7']'"
