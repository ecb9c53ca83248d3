"""What verifiers share: numbers, statements, and how a reason quotes a text."""

from __future__ import annotations

from fractions import Fraction

import pytest

from cameleer.verifiers import numbers
from cameleer.verifiers.base import brief
from cameleer.verifiers.latex import canonical, unit
from cameleer.verifiers.text import before_new_problem, boxes, matching_braces, phrases, that_count

NUMBERS = [
    ("18", Fraction(18)),
    (" 18. ", Fraction(18)),
    ("-1,800.50", Fraction(-3601, 2)),
    ("+.5", Fraction(1, 2)),
    ("1e3", Fraction(1000)),
    ("-2.5E-1", Fraction(-1, 4)),
    ("2 1/2", Fraction(5, 2)),
    ("-2 1/2", Fraction(-5, 2)),
    ("+2 1/2", Fraction(5, 2)),
    ("2 1/0", None),
    ("2 0/1", Fraction(2)),
    ("1,80", None),
    ("--5", None),
    ("", None),
    ("9" * 200, Fraction(10**200 - 1)),
    ("9" * 201, None),
]


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_a_number_is_read_exactly(text: str, value: Fraction | None):
    assert numbers.read(text) == value


def test_digits_of_all_scripts_are_digits():
    assert numbers.with_ascii_digits("１٨ é 18 ² ½") == "18 é 18 ² ½"


def test_a_quote_is_one_line_and_leaves_out_the_middle_of_a_long_text():
    letters = "".join(map(chr, range(ord("A"), ord("A") + 61)))
    assert brief(letters[:60]) == f"'{letters[:60]}'"
    assert brief(letters) == f"'{letters[:48]}…{letters[-11:]}'"
    assert brief(letters, limit=20) == f"'{letters[:8]}…{letters[-11:]}'"
    assert brief(" a\n\n b\t") == "'a b'"
    assert brief(" " * 200 + "a") == "'a'"
    assert brief(None) == "of type NoneType"


def test_a_long_text_is_not_read_to_its_end_for_a_quote():
    assert brief("a" * 240 + "b") == brief("a" * 240)
    assert brief("a" * 239 + "b") != brief("a" * 240)


def test_braces_match_across_others_and_not_after_a_backslash():
    assert matching_braces(r"{a{b}\{c}}{") == {0: 8, 2: 4}
    assert matching_braces("{{}}", 1) == {1: 2}
    assert matching_braces("{{}}", 0, 3) == {1: 2}


def test_a_box_ends_behind_its_brace():
    text = r"so \boxed{a{b}} and \boxed 5."
    assert [(text[box.start : box.end], box.answer) for box in boxes(text)] == [
        (r"\boxed{a{b}}", "a{b}"),
        (r"\boxed 5.", "5"),
    ]
    assert boxes(r"\boxed{ } \boxed{") == []


def test_a_box_in_a_box_is_none_and_boxes_may_lie_far_apart():
    text = r"\boxed{1} \boxed{\boxed{2}}" + " " * 30_000 + r"\boxed{3}"
    assert [box.answer for box in boxes(text)] == ["1", r"\boxed{2}", "3"]


def test_a_phrase_ends_with_its_sentence_or_after_a_thousand_characters():
    (phrase,) = phrases("So the answer is: 5 or so. It is 6.", latex=False)
    assert (phrase.kind, phrase.start, phrase.answer) == ("phrase", 7, "5 or so")
    (phrase,) = phrases("The answer is " + "so " * 1000, latex=False)
    assert (phrase.kind, len(phrase.answer)) == ("phrase", 1000)


def test_in_mathematics_a_full_stop_ends_no_sentence():
    text = "The answer is $x. y$ so. It is 6."
    assert [phrase.answer for phrase in phrases(text, latex=True)] == ["$x. y$ so"]
    assert [phrase.answer for phrase in phrases(text, latex=False)] == ["$x"]
    text = r"The answer is \[x. y\] so $z."
    assert [phrase.answer for phrase in phrases(text, latex=True)] == [r"\[x. y\] so $z."]


def test_a_later_cue_in_the_same_sentence_replaces_a_label_and_ends_a_phrase():
    text = "Final Answer: the answer is 5 #### 6"
    assert [(p.kind, p.answer.strip()) for p in phrases(text, latex=False)] == [
        ("phrase", "5"),
        ("phrase", "6"),
    ]


def test_of_several_statements_the_first_phrase_and_all_boxes_count():
    text = r"The answer is 1. \boxed{2} The answer is 3. \boxed{4}"
    counted = that_count(text, [*boxes(text), *phrases(text, latex=False)])
    assert [statement.answer for statement in counted] == ["1", "2", "4"]


def test_only_the_statements_after_the_last_correction_count():
    text = r"\boxed{1} Hmm, \boxed{2} \boxed{3} Wait, \boxed{4} \boxed{5}"
    assert [statement.answer for statement in that_count(text, boxes(text))] == ["4", "5"]


def test_a_new_problem_ends_the_text_unless_it_opens_it():
    assert before_new_problem("\n\nQuestion: 1?\n5\nQuestion: 2?") == "\n\nQuestion: 1?\n5"
    assert before_new_problem("5\nquestion mark") == "5\nquestion mark"


SPELLINGS = [
    (r"\dfrac12", r"\frac{1}{2}"),
    (r"10\,000", "10000"),
    ("1,000", "1000"),
    (r"\text{ and }", ""),
    (r"3 \text{ and } 4", "3,4"),
    (r"3 \text{ or } 4", "3∨4"),
    (r"\text{even.}", "even"),
    (r"5 \text{ cm}^2", "5"),
    (r"x=\text{even}", "x=even"),
    (r"(\text{odd}, \text{even})", "(odd,even)"),
    (r"5\text{ }", "5"),
    (r"3\text{:}2", "3:2"),
    (r"\boxed{3} + \boxed{4}", "3+4"),
]


@pytest.mark.parametrize(("answer", "spelling"), SPELLINGS)
def test_an_answer_has_one_spelling(answer: str, spelling: str):
    assert canonical(answer) == spelling


@pytest.mark.parametrize(
    ("answer", "short"),
    [
        (r"5\text{ centimeters}", "cm"),
        ("9 a.m.", "a.m."),
        ("9 PM", "p.m."),
        ("5 furlongs", ""),
        ("5", ""),
        ("x" * 60 + "5 cm", "cm"),
    ],
)
def test_the_unit_after_a_number(answer: str, short: str):
    assert unit(answer) == short
