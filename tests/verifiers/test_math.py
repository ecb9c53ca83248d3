"""MATH's verifier: the data set's own answers, a table of traps, and what holds for every text."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_rows import rows_of

from cameleer.verifiers.base import Verifier
from cameleer.verifiers.cases.math import CASES
from cameleer.verifiers.equivalence import number, too_large
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

UP, DOWN = (",".join(map(str, numbers)) for numbers in (range(30), reversed(range(30))))
EDGES: list[tuple[str, str, bool, str]] = [
    # Which statement.
    (r"\boxed{5}\boxed{6}", "5", False, "two boxes side by side"),
    (r"The answer is 5. So \boxed{6}", "6", False, "a phrase, then another box"),
    (r"The answer is $2+3=\boxed{5}$", "5", True, "work in the phrase that leads to a box"),
    (r"The answer is one or the other of these here. \boxed{5}", "5", True, "a sentence with or"),
    ("Answer: $3$ and $4$ and $5$", "3,4,5", True, "a list after a label"),
    ("The answer is 3 $x$", "3x", True, "a number before its formula"),
    ("Answer: " + "x" * 200, "x" * 200, True, "words of 200 characters"),
    ("Answer: " + "x" * 201, "x" * 201, False, "longer words are no answer"),
    ("The answer is one two three four five", "one two three four five", True, "five words"),
    ("The answer is one two three four five six", "one two three four five six", False,
     "six words are a sentence"),
    ("Answer: so x is $5$", "5", True, "three blanks before the formula of a label"),
    ("Answer: so here x is $5$. But $6$", "5", False, "four are a worked solution"),
    ("The answer is so here x is $5$. But $6$", "5", True, "and no matter after a phrase"),
    ("The answer is 3$x$, $y$", "3x,y", True, "a number that touches its formula"),
    ("The answer is so $5$ and 6 or $7$.", "5", False, "an alternative after other words"),
    ("The answer is $5$ apples $6$.", "5", False, "two formulas with a word between"),
    ("$5$" + " so" * 1300, "5", True, "the last formula, 3,900 characters before the end"),
    ("$5$" + " so" * 1400, "5", False, "4,200 characters before the end"),
    ("$5$, or so we think, $6$", "6", True, "the last formula after other words"),
    (r"Hence $2 = 5$.", "5", False, "a false equation"),
    (r"Hence $x = 2 = 5$.", "5", True, "the last side of a named value"),
    (r"\boxed{%s}" % ("x" * 1000), "x" * 1000, True, "as long as an answer may be"),
    (r"\boxed{%s}" % ("x" * 1001), "x" * 1000, False, "one character too long"),
    # Parts.
    (r"\boxed{3,4}", r"\{3,4\}", True, "a list for a set"),
    (r"\boxed{\{3,4\}}", "3,4", True, "a set for a list"),
    (rf"\boxed{{{UP}}}", DOWN, True, "30 parts"),
    (rf"\boxed{{{UP},30}}", f"30,{DOWN}", False, "31 parts are not compared"),
    (r"\boxed{(1,2),(3,4)}", "(3,4),(1,2)", True, "a list of pairs has no order"),
    (r"\boxed{(1,2),(3,4)}", "(1,2),(4,3)", False, "each pair has one"),
    (r"\boxed{((1,\frac42),3)}", "((1,2),3)", True, "a pair in a pair"),
    (r"\boxed{1+x,x+2}", "2+x,x+1", True, "equal parts in another order and spelling"),
    (r"\boxed{(x+1)^2}", "(1+x)^2", True, "a bracket that opens a power"),
    (r"\boxed{a(b,c)}", "(b,c)", False, "a letter before a pair"),
    (r"\boxed{(1,2)(3)}", "6", False, "a bracket that closes before the end"),
    (r"\boxed{-3,3}", r"\pm3", True, "both signs, for one sign that says so"),
    (r"\boxed{\{\frac62\}}", r"\{3\}", True, "a set of one"),
    (r"\boxed{\begin{pmatrix}1\\2\\\end{pmatrix}}", r"\begin{pmatrix}1\\2\end{pmatrix}", True,
     "a line break after the last row"),
    # Intervals.
    (r"\boxed{3 \le x}", r"[3,\infty)", True, "a bound on the left"),
    (r"\boxed{3 > x}", r"(-\infty,3)", True, "a bound on the left, from above"),
    (r"\boxed{1<x<2<3}", "(1,2)", False, "a bound too many on the right"),
    (r"\boxed{1<2<x}", r"(2,\infty)", False, "a bound too many on the left"),
    (r"\boxed{x<y<3}", r"(-\infty,3)", False, "two variables"),
    (r"\boxed{1<2}", "(1,2)", False, "no variable"),
    # Names, words, numbers.
    (r"\boxed{x=1, 2}", "x=1,x=2", True, "the name left out the second time"),
    (r"\boxed{even-odd}", "evenodd", False, "words with a sign between"),
    (r"\boxed{evens}", "even", False, "a longer word"),
    (r"\boxed{2.0\overline{1}}", r"\frac{181}{90}", True, "a zero before the digits that repeat"),
    (r"\boxed{-\frac{-1}{2}}", r"\frac12", True, "two signs"),
    (r"\boxed{1\frac{-1}{2}}", r"\frac12", False, "a sign within a mixed number"),
    (r"\boxed{5 cm}", "5 m", False, "another unit"),
]  # fmt: skip
"""Where a rule ends, beside the table that comes with the package."""


@pytest.mark.parametrize(("text", "truth", "right", "why"), [*CASES, *EDGES])
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


@pytest.mark.parametrize("truth", ["", "   ", "$", None, 5, "x" * 2000, r"\frac{", "1}", "}{"])
def test_a_truth_that_cannot_be_read_is_refused_and_never_scored(truth: object):
    why = Math().validate(truth)
    score = Math().score(r"\boxed{5}", truth)
    assert why is not None and why in score.reason
    assert (score.value, score.status) == (0.0, "invalid")


def test_a_truth_has_a_thousand_characters_at_most():
    assert Math().validate("x" * 1000) is None
    assert Math().validate("x" * 1001) == "it is longer than 1000 characters"


REASONS = [
    ("so", "5", "the text gives no answer"),
    (r"\boxed{5}", "5", "stated (box): '5' (same spelling)"),
    (r"The answer is $5$, so \boxed{5}", "5", "stated (box): '5' (same spelling)"),
    ("The answer is $5$.\n" r"\boxed{5}", "5", "stated (phrase): '5' (same spelling)"),
    ("Answer: 5.0", "5", "stated (label): '5.0' (same spelling)"),
    ("The answer is $6$.", "5", "stated (phrase): '6' (exact numbers)"),
    ("Hence $6$.", "5", "last formula: '6' (exact numbers)"),
    ("$5$ or $6$", "6", r"last formula: '5 \text{ or } 6' (alternatives joined by 'or')"),
    (r"\boxed{1+x}", "x+1", "stated (box): '1+x' (math-verify)"),
    (r"\boxed{5} \boxed{6} \boxed{5}", "5", "stated (box): '6', one of 2 answers (exact numbers)"),
    (r"\boxed{5} or 6", "5", "stated (box): '5 or …' (alternatives joined by 'or')"),
    (r"\boxed{x=\sqrt2}", r"\sqrt{2}", r"stated (box): 'x=\sqrt2' (same spelling)"),
    (r"\boxed{\frac12} so \boxed{0.5}", "0.5", r"stated (box): '\frac12' (same spelling)"),
    ("$x$: $5$ or $6$", "6", r"last formula: '5 \text{ or } 6' (alternatives joined by 'or')"),
    (r"\boxed{5}", "east", "stated (box): '5' (words)"),
    (r"\boxed{east}", "5", "stated (box): 'east' (words)"),
    (r"\boxed{1\pm2}", "3,-2", r"stated (box): '1\pm2' (part by part)"),
    (r"\boxed{x<3}", r"(-\infty,3)", "stated (box): 'x<3' (the same interval)"),
    (r"\boxed{x<3}", "5", "stated (box): 'x<3' (one answer has parts, the other has not)"),
    (r"\boxed{2=3}", "5", "stated (box): '2=3' (an equation where a value is asked)"),
    (r"\boxed{odd}", r"\text{even}", "stated (box): 'odd' (words)"),
    (r"\boxed{9:30}", "3:10", "stated (box): '9:30' (times of day are compared by spelling)"),
    (r"\boxed{101_2}", "5",
     "stated (box): '101_2' (a number in another base is compared by spelling)"),
    (r"\boxed{5}", "101_2", "stated (box): '5' (a number in another base is compared by spelling)"),
    (r"\boxed{3,4}", "5", "stated (box): '3,4' (one answer has parts, the other has not)"),
    (r"\boxed{5}", "3,4", "stated (box): '5' (one answer has parts, the other has not)"),
    (r"\boxed{(1,2,3)}", "(1,2)",
     "stated (box): '(1,2,3)' (() of 3 parts where () of 2 parts is asked)"),
    (r"\boxed{(1,3)}", "(1,2)", "stated (box): '(1,3)' (part by part)"),
    (r"\boxed{\infty}", "5x", r"stated (box): '\infty' (infinity is compared by spelling)"),
    (r"\boxed{5x}", r"\infty", "stated (box): '5x' (infinity is compared by spelling)"),
    (r"\boxed{3x!}", "6x", "stated (box): '3x!' (! is work that is not carried out)"),
    (r"\boxed{2+3}", "5", "stated (box): '2+3' (arithmetic that is not carried out)"),
    (r"\boxed{2^10}", "1024", "stated (box): '2^10' (arithmetic that is not carried out)"),
    (r"\boxed{x**99999}", "y", "stated (box): 'x**99999' (an exponent too large)"),
    (r"\boxed{--5}", "5", "stated (box): '--5' (brackets or signs that are not resolved)"),
    (r"\boxed{5x}", "5", "stated (box): '5x' (an expression where a number is asked)"),
    (r"\boxed{x^{y^2}}", "x", "stated (box): 'x^{y^2}' (an exponent too large)"),
    (r"\boxed{x}", "x^{y^2}", "stated (box): 'x' (an exponent too large)"),
    (r"\boxed{5 cm}", "5 m", "stated (box): '5 cm' (cm where m is asked)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "truth", "reason"), REASONS)
def test_the_reason_names_the_statement_and_the_rule(text: str, truth: str, reason: str):
    assert Math().score(text, truth).reason == reason


def test_what_math_verify_cannot_evaluate_gets_no_verdict(pool: VerifierPool):
    (score,) = pool.score_all([("math", r"\boxed{\frac{1}{0}}", r"\frac{2}{0}")])
    assert score.status == "undecided" and "Can't evaluate" in score.reason


NUMBERS = [
    ("-1800.5", Fraction(-3601, 2)),
    (r"\frac{2}{4}", Fraction(1, 2)),
    (r"-\frac{2}{4}", Fraction(-1, 2)),
    (r"\frac{-2}{4}", Fraction(-1, 2)),
    (r"-\frac{-2}{4}", Fraction(1, 2)),
    (r"-1\frac{1}{2}", Fraction(-3, 2)),
    (r"1\frac{-1}{2}", None),
    (r"\frac{1}{0}", None),
    (r"0.\overline{12}", Fraction(12, 99)),
    (r"-1.1\overline{6}", Fraction(-7, 6)),
    (r".0\overline{3}", Fraction(1, 30)),
    ("5*10^{-3}", Fraction(1, 200)),
    ("-1.5*10^2", Fraction(-150)),
    ("0" * 199 + "5", Fraction(5)),
    ("0" * 200 + "5", None),
    ("x", None),
]


@pytest.mark.parametrize(("spelling", "value"), NUMBERS)
def test_the_exact_value_of_a_number(spelling: str, value: Fraction | None):
    assert number(spelling) == value


SIZES = [
    ("(" * 20 + ")" * 20, None),
    ("(" * 21 + ")" * 21, "nested too deeply"),
    ("([{" * 7 + "}])" * 7, "nested too deeply"),
    ("()" * 21, None),
    ("x+" * 200, None),
    ("x+" * 200 + "x", "too long"),
    ("x^{1234}", None),
    ("x^{12345}", "an exponent too large"),
    ("x^1234", None),
    ("x^12345", "an exponent too large"),
    ("x^-12345", "an exponent too large"),
    ("x^{2^3}", "an exponent too large"),
    ("x^2^3", "an exponent too large"),
    ("x^2+y^3", None),
    ("x^{2}+y^{3^4}", "an exponent too large"),
    ("x^{2}+y!", None),
    ("x^{(2)}", "an exponent too large"),
    ("x^(2)", "an exponent too large"),
    ("x^{2!}", "an exponent too large"),
    ("9999!", None),
    ("99999!", "a factorial too large"),
    ("9!!", "a factorial too large"),
    ("(9)!", "a factorial too large"),
    ("{9}!", "a factorial too large"),
    ("{9}", None),
]


@pytest.mark.parametrize(("answer", "why"), SIZES)
def test_what_would_keep_a_computer_algebra_system_busy_is_not_shown_to_it(
    answer: str, why: str | None
):
    assert too_large(answer) == why


def test_it_is_a_verifier():
    assert isinstance(Math(), Verifier) and Math().isolated
    assert len({Math(), Math()}) == 1  # A value, which can be compared and never changes.


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
    if Math().validate(text) is None:
        assert Math().score(rf"\boxed{{{text}}} \boxed{{{text}}}", text).status == "scored"
    else:
        assert not canonical(text) or "{" in text or "}" in text


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


@pytest.mark.parametrize("text", [r"The answer is \quad.", r"The answer is \text{}.", "So $ $"])
@pytest.mark.parametrize("truth", ["5", "x"])
def test_an_answer_that_is_nothing_is_wrong(text: str, truth: str):
    score = Math().score(text, truth)
    assert score.value == 0 and "(empty)" in score.reason
