"""MATH's verifier: the data set's own answers, a table of traps, and what holds for every text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_rows import rows_of

from cameleer.verifiers.base import Verifier
from cameleer.verifiers.cases.math import CASES
from cameleer.verifiers.isolate import VerifierPool
from cameleer.verifiers.latex import canonical
from cameleer.verifiers.math import Math
from cameleer.verifiers.text import boxes

NEVER_HANGS = settings(deadline=None, max_examples=100, derandomize=True)
PROSE = st.text(alphabet="abc dehilmnstu,;\n*_`#-", max_size=80)
"""Digit-free words with markdown and white space; too few letters to announce an answer."""

STATE_SEVERAL = {
    # Several boxes: intermediate results, or one for each part of the problem.
    *(91, 333, 414, 2152, 2549, 2656, 2703, 2716, 2912, 2936, 4060, 4559, 4562, 4860),
    # "The answer is $6 \\times 3 = 18$" in the middle, another value in the box.
    *(3324, 3476, 3765, 3891),
    315,  # "the answer is $\\sqrt[8]{8},$ or $\\boxed{C}.$"
    3883,  # Lines that begin with "Question 2:" look like another problem.
}
"""Rows of MATH's test split whose worked solution is not right as a completion."""


@pytest.mark.parametrize(("text", "truth", "right", "why"), CASES)
def test_the_verdict_of_the_table(pool: VerifierPool, text: str, truth: str, right: bool, why: str):
    (score,) = pool.score_all([("math", text, truth)])
    assert (score.value, score.status) == (float(right), "scored"), f"{why}: {score.reason}"
    assert score.reason and len(score.reason) <= 200


@pytest.fixture(scope="module")
def solutions() -> list[tuple[str, str]]:
    """Each worked solution of MATH's test split with its answer, the content of its last box."""
    rows = rows_of("math/test.jsonl.gz")
    return [(row["solution"], boxes(row["solution"])[-1].answer) for row in rows]


@pytest.mark.parametrize(
    "form",
    [r"\boxed{%s}", "Final Answer: The final answer is $%s$. I hope it is correct."],
)
def test_every_answer_of_the_data_set_is_right_for_itself(
    solutions: list[tuple[str, str]], form: str
):
    for _, truth in solutions:
        assert Math().validate(truth) is None
        assert Math().score(form % truth, truth).value == 1.0, truth


def test_solutions_of_the_data_set_are_right_unless_they_state_several_answers(
    pool: VerifierPool, solutions: list[tuple[str, str]]
):
    scores = pool.score_all([("math", text, truth) for text, truth in solutions])
    assert {score.status for score in scores} == {"scored"}
    assert {row for row, score in enumerate(scores) if not score.value} == STATE_SEVERAL


def test_the_answer_of_another_problem_is_wrong(solutions: list[tuple[str, str]]):
    """Neighbours whose answers differ in spelling and are both plain numbers."""
    truths = [truth for _, truth in solutions if truth.isdigit()]
    for truth, other in itertools.pairwise(truths):
        assert Math().score(rf"\boxed{{{other}}}", truth).value == float(truth == other)


@pytest.mark.parametrize("truth", ["", "   ", "$", None, 5, "x" * 2000])
def test_a_truth_that_cannot_be_read_is_refused_and_never_scored(truth: object):
    assert Math().validate(truth) is not None
    assert Math().score(r"\boxed{5}", truth).status == "invalid"


def test_it_is_a_verifier():
    assert isinstance(Math(), Verifier)


@given(before=PROSE, after=PROSE)
@NEVER_HANGS
def test_white_space_markdown_and_prose_around_the_statement_change_nothing(
    before: str, after: str
):
    for statement in (r"\boxed{\frac12}", "The final answer is $0.5$. I hope it is correct."):
        text = f"{before}\n{statement}\n{after}"
        assert Math().score(text, r"\frac{1}{2}").value == 1.0
        assert Math().score(text, r"\frac{1}{3}").value == 0.0


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6))
@NEVER_HANGS
def test_all_spellings_of_a_fraction_are_equal(over: int, under: int):
    truth = rf"\frac{{{over}}}{{{under}}}"
    for spelling in (truth, rf"\dfrac{{{2 * over}}}{{{2 * under}}}", f"{over}/{under}"):
        assert Math().score(rf"\boxed{{{spelling}}}", truth).value == 1.0
        assert Math().score(rf"\boxed{{-1{spelling.lstrip('-')}}}", truth).value == 0.0


@given(st.text(max_size=60))
@NEVER_HANGS
def test_any_text_has_a_canonical_spelling_that_equals_itself(text: str):
    if canonical(text):
        assert Math().score(rf"\boxed{{{text}}} \boxed{{{text}}}", text).status == "scored"


LATEX = st.recursive(
    st.sampled_from(
        ["x", "y", "2", "10", "0.5", r"\pi", "i", r"\infty", "99", "n", r"\text{a}", ""]
    ),
    lambda part: st.one_of(
        st.tuples(part, part).map(lambda p: rf"\frac{{{p[0]}}}{{{p[1]}}}"),
        st.tuples(part, part).map(lambda p: f"{{{p[0]}}}^{{{p[1]}}}"),
        st.tuples(part, st.sampled_from("+-*/=,!<|&_"), part).map("".join),
        part.map(lambda p: rf"\sqrt{{{p}}}"),
        part.map(lambda p: rf"\left({p}\right]"),
        part.map(lambda p: rf"\sin {p}"),
        part.map(lambda p: rf"\log_{{{p}}}"),
        part.map(lambda p: rf"\{{{p}\}}"),
        part.map(lambda p: rf"\begin{{pmatrix}}{p}\\{p}\end{{pmatrix}}"),
        part.map(lambda p: rf"\int_0^{{{p}}}"),
        part.map(lambda p: rf"\{p}{{"),
    ),
    max_leaves=8,
)


@given(st.lists(st.tuples(LATEX, LATEX), min_size=20, max_size=20))
@settings(deadline=None, max_examples=10, derandomize=True)
def test_nasty_latex_gets_an_answer_within_the_limits(
    pool: VerifierPool, pairs: list[tuple[str, str]]
):
    crashes = pool.counts["crash"]
    scores = pool.score_all([("math", rf"\boxed{{{text}}}", truth) for text, truth in pairs])
    for score in scores:
        assert score.status in ("scored", "undecided", "invalid") and len(score.reason) <= 200
    assert pool.counts["crash"] == crashes, (
        "a limit was hit in a way that the worker did not expect"
    )
