"""The rules that trained Tulu 3, with their errors; verdicts worked out from the published code."""

from __future__ import annotations

import importlib.metadata

import pytest

from cameleer.errors import RecipeError
from cameleer.verifiers.gsm8k import GSM8K
from cameleer.verifiers.isolate import VerifierPool
from cameleer.verifiers.math import Math
from cameleer.verifiers.tulu3 import (
    equal,
    equal_by_sympy,
    gsm8k_is_right,
    math_is_right,
    minerva_statement,
)

GSM8K_TABLE = [
    ("The answer is 18.", "18", True, "the last number"),
    ("The answer is 18, so 1,800 cents.", "1800", True, "commas between digits go"),
    ("1,8", "18", True, "all of them"),
    ("#### 18.0", "18", False, "strings are compared"),
    ("#### 18.00", "18.00", True, "strings are compared"),
    ("18 (out of 20)", "18", False, "the last number"),
    ("18 (out of 20)", "20", True, "the last number"),
    ("#### -5", "-5", False, "whole numbers lose their sign"),
    ("#### -5", "5", True, "whole numbers lose their sign"),
    ("#### -5.5", "-5.5", True, "decimals keep it"),
    ("$5$ or $6$", "6", True, "the last number"),
    ("3=5", "5", True, "the last number"),
    ("cm5", "5", True, "the last number"),
    ("no number", "no number", True, "without a number, the text"),
]
MATH_TABLE = [
    (r"\boxed{2\sqrt{2}}", r"\sqrt{8}", True, "sympy"),
    (r"\boxed{x+1}", "1+x", True, "sympy"),
    (r"\boxed{\frac{2}{4}}", r"\frac{1}{2}", True, "sympy"),
    (r"\boxed{0.5}", r"\frac{1}{2}", True, "a rule of strings"),
    (r"\boxed{2+3}", "5", True, "sympy adds"),
    (r"\boxed{3=5}", "5", True, "what stands before a short name's equals sign goes"),
    (r"\boxed{abc=5}", "5", False, "a longer name stays, and sympy subtracts no equations"),
    (r"\boxed{1,2}", "1", True, "sympy reads up to the comma"),
    (r"\boxed{1\frac{1}{2}}", r"\frac{3}{2}", False, "sympy multiplies a mixed number"),
    (r"\boxed{1\frac{1}{2}}", r"\frac{1}{2}", True, "sympy multiplies a mixed number"),
    (r"\boxed{5\%}", "5", True, "percent goes"),
    (r"\boxed{5\text{ cm}}", "5", True, "a unit goes"),
    (r"\boxed{5\text{ cm}\text{ m}}", "5", False, "two units were an error"),
    (r"\boxed{\dfrac12}", r"\frac{1}{2}", True, "braces"),
    (r"\boxed{\sqrt2}", r"\sqrt{2}", True, "braces"),
    (r"\boxed{1/2}", r"\frac{1}{2}", True, "a slash"),
    (r"\boxed{(1,2)}", r"\left( 1, 2 \right)", True, "spaces and \\left"),
    (r"\boxed{5} \boxed{6}", "6", True, "the last box"),
    (r"\boxed{5} \boxed{6}", "5", False, "the last box"),
    (r"so \boxed 5$", "5", True, "up to the dollar"),
    (r"\fbox{5}", "5", False, "the other box was an error, and the whole text is no answer"),
    (r"\boxed{7}. Final Answer: The final answer is 5. I hope it is correct.", "5", True, "any"),
    (r"\boxed{7}. Final Answer: The final answer is 5. I hope it is correct.", "7", True, "any"),
    (r"\boxed{7}. Final Answer: The final answer is 5. I hope it is correct.", "6", False, "any"),
    ("Final Answer: The final answer is $x = 1,000$ dollars. I hope it is correct.", "1000", True,
     "Minerva's spelling"),
    ("Final Answer: The final answer is $3$ square cm. I hope it is correct.", "3", True, "units"),
    ("Final Answer: The final answer is 5.", "5", False, "not closed: the whole text"),
    ("$5$ or $6$", "6", True, "the last two dollars"),
    ("$5$ or $6$", "5", False, "the last two dollars"),
    ("x = 5", "5", True, "the whole text after its equals sign"),
    ("the answer is 5", "5", False, "the whole text"),
    (r"\boxed{9^{9^{9}}}", "5", False, "not shown to sympy"),
    (r"\boxed{" + "9" * 100_000 + "}", "9", False, "not read"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "truth", "right", "why"), GSM8K_TABLE)
def test_the_published_verdict_on_a_word_problem(text: str, truth: str, right: bool, why: str):
    assert gsm8k_is_right(text, truth) == right, why


@pytest.mark.parametrize(("text", "truth", "right", "why"), MATH_TABLE)
def test_the_published_verdict_on_mathematics(text: str, truth: str, right: bool, why: str):
    assert math_is_right(text, truth) == right, why


def test_verifiers_follow_the_published_rules_on_request():
    tulu3 = {"gsm8k": GSM8K(compat="tulu3"), "math": Math(compat="tulu3")}
    with VerifierPool(tulu3, num_workers=1) as pool:
        scores = pool.score_all([("gsm8k", "3=5", "5"), ("math", r"\boxed{3=5}", "5")])
        unreadable = pool.score_all([("gsm8k", "five", "five"), ("math", r"\boxed{}", "")])
    assert [score.value for score in scores] == [1.0, 1.0]
    assert all("as published" in score.reason for score in scores)
    assert [score.status for score in unreadable] == ["invalid", "invalid"]


@pytest.mark.parametrize("verifier", [GSM8K, Math])
def test_rules_of_another_name_are_refused(verifier: type):
    with pytest.raises(RecipeError, match=r"no rules named compat='tulu'.*'tulu3'"):
        verifier(compat="tulu")


def test_the_parser_that_sympy_needs_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "4.13.2")
    with pytest.raises(RecipeError, match=r"4\.13\.2 is installed. pip install 'antlr4.*4\.11\.1'"):
        Math(compat="tulu3")
    assert Math() and GSM8K(compat="tulu3")


@pytest.mark.parametrize(
    "text",
    ["\\text{" * 150_000, "Final Answer: The final answer is " * 30_000, "$" * 10**6, "{" * 10**6],
)
def test_a_megabyte_takes_no_time(pool: VerifierPool, text: str):
    assert not math_is_right(text, "5") and not math_is_right(rf"\boxed{{{text}", "5")
    assert not gsm8k_is_right(text, "5")


FINAL = "Final Answer: The final answer is "
HOPE = " I hope it is correct."
CANDIDATES = [
    (f"So 5.\n{FINAL}$6$.{HOPE}", "6", True, "Minerva's sentence on a later line"),
    (f"{FINAL}5\n{FINAL}$6$.{HOPE}", "6", True, "the first line that has both parts"),
    (f"{FINAL}$5$.{HOPE}\n{FINAL}$6$.{HOPE}", "6", False, "the first line that has both parts"),
    (f"{FINAL}so $5$ and $6$.{HOPE}", "5", True, "between the first two dollars"),
    (f"{FINAL}5$ and.{HOPE}", "5and", True, "one dollar goes"),
    (f"{FINAL}1,000 or so.{HOPE}", "1,000orso", True, "commas stay between words"),
    ("3$x", "3x", True, "one dollar in the text: all of it"),
    ("so $3$x", "3", True, "what the last two dollars hold"),
    (r"\boxed,5{}", "5{", False, "a box without a brace is none"),
    (r"\boxed{5} and \boxed", "5", False, "the last box counts, which is none"),
    (r"\boxed{{5}}", "{5}", True, "braces in the box"),
    (r"\boxed{" + "x" * 10_000 + "}", "x" * 10_000, True, "as many characters as are read"),
    (r"\boxed{" + "x" * 10_001 + "}", "x" * 10_001, False, "one character too many"),
    (r"\boxed{1/2}", r"\frac{1}{2}", True, "a slash between whole numbers"),
    (r"\boxed{x/2}", "x/2", True, "what their code failed on is compared as it is"),
    (r"\boxed{}", "", True, "nothing equals nothing"),
]


@pytest.mark.parametrize(("text", "truth", "right", "why"), CANDIDATES)
def test_the_published_choice_of_candidates(text: str, truth: str, right: bool, why: str):
    assert math_is_right(text, truth) == right, why


SPELLINGS = [
    (".5", "0.5", True),
    ("5.5", "05.5", False),
    ("x=5", "5", True),
    ("xy=5", "5", True),
    ("xyz=5", "5", False),
    ("x=y=5", "y=5", False),
    (r"\sqrt2x", r"\sqrt{2}x", True),
    (r"\sqrt{2}x", r"\sqrt{2}x", True),
    (r"1\sqrt2\sqrt3x", r"1\sqrt{2}\sqrt{3}x", True),
    (r"\frac12x", r"\frac{1}{2}x", True),
    (r"\frac1{2}x", r"\frac{1}{2}x", True),
    (r"\frac{1}{2}x", r"\frac{1}{2}x", True),
    (r"\frac{1}2", r"\frac{1}{2}", False),
    (r"\frac1π", r"\frac{1}{π}", True),
    (r"\fracπ2x", r"\frac{π}{2}x", True),
    (r"3\frac12\frac34", r"3\frac{1}{2}\frac{3}{4}", True),
    (r"\tfrac12", r"\dfrac12", True),
    (r"5 \text{ cm}", "5", False),
    (r"\left(1 , 2\right)", "(1,2)", True),
    ("x/2", "x/2", True),
    ("x/2", "x /2", False),
]


@pytest.mark.parametrize(("answer", "truth", "right"), SPELLINGS)
def test_the_published_rules_of_spelling(answer: str, truth: str, right: bool):
    tail = "y" * 401  # With it sympy is not asked, and the strings decide.
    assert math_is_right(rf"\boxed{{{answer}{tail}}}", truth + tail) == right


def test_the_parser_that_sympy_needs_may_be_missing(monkeypatch: pytest.MonkeyPatch):
    def none(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", none)
    with pytest.raises(RecipeError, match="and none is installed"):
        Math(compat="tulu3")


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("4", "2", False),  # Their remainder is 0, their difference is not.
        ("6", "3", False),
        (r"\frac{2}{4}", r"\frac{1}{2}", True),
        ("x+1", "1+x", True),
    ],
)
def test_symbolic_equality_is_that_of_a_difference(answer: str, truth: str, right: bool):
    assert equal_by_sympy(answer, truth) == right


def test_a_fraction_of_whole_numbers_is_spelled_out_before_sympy_is_asked(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("cameleer.verifiers.tulu3.equal_by_sympy", lambda *_: False)
    assert equal("1/2", r"\frac{1}{2}") and equal(r"\frac12", "1/2")
    assert not equal("01/2", r"\frac{1}{2}")


def test_a_line_that_only_closes_like_minervas_is_no_statement():
    assert list(minerva_statement("x" * 34 + "5. I hope it is correct.")) == []
    stated = "Final Answer: The final answer is $5$. I hope it is correct."
    assert list(minerva_statement(f"Well. I hope it is correct.\n{stated}")) == ["$5$"]
