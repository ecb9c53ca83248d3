"""Grade-school word problems: the answer is one number (Cobbe et al. 2021, arXiv:2110.14168)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

from cameleer.types import Score
from cameleer.verifiers import clause, numbers, tulu3
from cameleer.verifiers.base import brief
from cameleer.verifiers.clause import Reading
from cameleer.verifiers.text import (
    Statement,
    before_new_problem,
    boxes,
    phrases,
    that_count,
)


@dataclass(frozen=True)
class GSM8K:
    """Right if the number that the text gives as its answer equals the truth exactly.

    `cameleer.verifiers.text` says which statement counts, `cameleer.verifiers.clause` which number
    of it. Units, currency, percent signs and remarks are ignored. A text without any statement is
    judged by its last number, as by the code that trained Tulu 3.1 (there the number after the last
    equals sign of that sentence did not go first): models often end in "…so she makes 18 dollars
    every day."
    """

    compat: Literal["", "tulu3"] = ""
    """Empty: the rules above. ``tulu3``: the published rule, to reproduce the rewards of Tulu 3
    with its errors (`cameleer.verifiers.tulu3`)."""

    isolated: ClassVar[bool] = False
    """Regular expressions of linear time: 1 MB of any text takes tens of milliseconds."""

    def __post_init__(self) -> None:
        tulu3.check_compat("GSM8K", self.compat)

    def score(self, text: str, truth: Any) -> Score:
        gold = _gold(truth)
        if gold is None:
            return Score(0.0, "invalid", f"ground truth {brief(truth)}: {_NO_NUMBER}")
        if self.compat == "tulu3":
            right = tulu3.gsm8k_is_right(text, _spelled(truth))
            return Score(float(right), reason="the last number, as published")
        rule, readings = _readings(numbers.with_ascii_digits(before_new_problem(text)))
        if not readings:
            return Score(0.0, reason="the text gives no number")
        for reading in readings:
            if reading.value is None:
                return Score(0.0, reason=f"{rule}: {reading.why}")
        shown = ", ".join(reading.shown[:24] for reading in readings[:4])
        if len({reading.value for reading in readings}) > 1:
            return Score(0.0, reason=f"conflicting answers: {shown}")
        return Score(float(readings[0].value == gold), reason=f"{rule}: {shown}")

    def validate(self, truth: Any) -> str | None:
        return _NO_NUMBER if _gold(truth) is None else None


_NO_NUMBER = "it is not a number such as 18 or -2.5"


def _gold(truth: Any) -> Fraction | None:
    if isinstance(truth, int) and not isinstance(truth, bool):
        return Fraction(truth)
    if isinstance(truth, float):
        truth = _spelled(truth)
    return numbers.read(truth.strip().removeprefix("$")) if isinstance(truth, str) else None


def _spelled(truth: Any) -> str:
    """A truth as text: 18.0 as 18, and 0.1 as a tenth, which no float is."""
    return repr(truth).removesuffix(".0") if isinstance(truth, float) else str(truth)


def _readings(text: str) -> tuple[str, list[Reading]]:
    """The numbers that have to be right, and the rule that found them."""
    readings: dict[Statement, Reading] = {}
    stated = boxes(text)
    for box in stated:
        readings[box] = _box(text, box)
    for phrase in phrases(text, latex=False):
        reading = _phrase(phrase)
        leads_to_box = any(phrase.start <= box.start < phrase.end for box in stated)
        # A phrase that leads to a box is that box, unless it offers alternatives beside it.
        if reading and (not leads_to_box or reading.why == clause.ALTERNATIVES):
            readings[phrase] = reading
    if readings:
        counted = that_count(text, list(readings))
        return f"stated ({counted[0].kind})", [readings[statement] for statement in counted]
    last = _last_number(text)
    return "last number", [last] if last else []


def _box(text: str, box: Statement) -> Reading:
    """What the box says, unless the words right after it offer another number."""
    reading = clause.read(box.answer[:400], max_words=8)
    if reading is None:
        return Reading(None, why="a box without a number")
    if reading.value is None:
        return reading
    rest = _SENTENCE_END.split(text[box.end : box.end + 200])[0]
    return clause.with_alternatives(reading, clause.tokenize(rest), adjacent=False)


def _phrase(phrase: Statement) -> Reading | None:
    """What the phrase says, or None where it does not announce a number after all."""
    answer = phrase.answer[:400]
    if phrase.kind == "phrase":
        return clause.read(answer, max_words=8)
    reading = clause.read(answer, max_words=0)
    hedges = reading is not None and reading.why == clause.ALTERNATIVES
    # The published few-shot form is "Answer: There are 15 trees. … So the answer is 6."
    return reading if hedges or _SHORT.fullmatch(answer.rstrip()) else None


def _last_number(text: str) -> Reading | None:
    """The last number of the text; labels such as "Step 2" and remarks "(out of 20)" are none."""
    for _ in range(8):
        from_end = _DIGIT.search(text[::-1])
        if from_end is None:
            return None
        end = len(text) - from_end.start()
        start = max(0, end - 400)
        begins = [mark.end() for mark in _SENTENCE_END.finditer(text, start, end)]
        sentence = text[begins[-1] if begins else start : end]
        if label := _LABEL.search(sentence):
            text = text[: end - len(label[0])]
            continue
        whole = sentence + _SENTENCE_END.split(text[end : end + 200])[0]
        without_remarks = _REMARK.sub(" ", whole)
        has_number = _DIGIT.search(without_remarks) is not None
        return clause.last_equals_or_number(without_remarks if has_number else sentence)
    return None


_DIGIT = re.compile(r"[0-9]")
_SENTENCE_END = re.compile(r"\n|[.!?](?![0-9])")
_LABEL = re.compile(
    r"(?:step|part|figure|table|case|equation|example|method|option)[ \t]#?[0-9]{1,3}$",
    re.IGNORECASE,
)
_REMARK = re.compile(r"\([^()\n]{0,200}[a-zA-Z][^()\n]{0,200}\)")
_SHORT = re.compile(r"[^\sA-Za-z]+(?:[ ][^\s]+){0,3}|[^A-Za-z]*=[^A-Za-z]*")
