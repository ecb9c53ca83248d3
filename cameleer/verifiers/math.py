"""Competition mathematics: the answer is LaTeX (Hendrycks et al. 2021, arXiv:2103.03874)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from cameleer.types import Score
from cameleer.verifiers import latex, tulu3
from cameleer.verifiers.base import brief
from cameleer.verifiers.equivalence import Verdict, compare, number
from cameleer.verifiers.latex import canonical, unit
from cameleer.verifiers.numbers import with_ascii_digits
from cameleer.verifiers.text import (
    Statement,
    before_new_problem,
    boxes,
    braces_match,
    phrases,
    that_count,
)


@dataclass(frozen=True)
class Math:
    r"""Right if what the text gives as its answer is equivalent to the truth.

    The answer stands in a box, in Minerva's "Final Answer: The final answer is $X$. I hope it is
    correct.", or after another phrase. `cameleer.verifiers.text` says which of them count: all that
    count must be right, so that a second answer never helps. Without any, the last ``$…$`` of the
    text is the answer, as in the code that trained Tulu 3.1. `cameleer.verifiers.equivalence` says
    what is equivalent.

    Called directly, `score` has no time limit: guards refuse towers of powers and the like, but
    simplification may still take long. A `VerifierPool` limits it.
    """

    compat: Literal["", "tulu3"] = ""
    """Empty: the rules above. ``tulu3``: the published rule, to reproduce the rewards of Tulu 3
    with its errors (`cameleer.verifiers.tulu3`)."""

    isolated: ClassVar[bool] = True

    def __post_init__(self) -> None:
        tulu3.check_compat("Math", self.compat)

    def score(self, text: str, truth: Any) -> Score:
        if (problem := self.validate(truth)) is not None:
            return Score(0.0, "invalid", f"ground truth {brief(truth)}: {problem}")
        if self.compat == "tulu3":
            right = tulu3.math_is_right(text, truth)
            return Score(float(right), reason="any candidate, as published")
        gold = canonical(truth)
        rule, answers = _answers(with_ascii_digits(before_new_problem(text)))
        if not answers:
            return Score(0.0, reason="the text gives no answer")
        for answer in answers:
            verdict = _compare(gold, unit(truth), answer)
            if not verdict.equal:
                others = f", one of {len(answers)} answers" if len(answers) > 1 else ""
                return Score(0.0, reason=f"{rule}: {brief(answer)}{others} ({verdict.why[:60]})")
        return Score(1.0, reason=f"{rule}: {brief(answers[0])} ({verdict.why})")

    def validate(self, truth: Any) -> str | None:
        if not isinstance(truth, str):
            return f"it is a {type(truth).__name__}, not a string"
        if len(truth) > latex.MAX_CHARACTERS:
            return f"it is longer than {latex.MAX_CHARACTERS} characters"
        if not braces_match(truth):
            return "its braces do not match"
        return None if canonical(truth) else "it is empty"

    def warm_up(self) -> None:
        """Import math-verify or sympy, and let them build their caches."""
        self.score(r"\boxed{x+1}", "1+x")


def _compare(gold: str, gold_unit: str, answer: str) -> Verdict:
    if len(answer) > latex.MAX_CHARACTERS:
        return Verdict(False, "too long")
    if gold_unit and (other := unit(answer)) not in ("", gold_unit):
        return Verdict(False, f"{other} where {gold_unit} is asked")
    spelling = canonical(answer)
    return compare(gold, spelling) if spelling else Verdict(False, "empty")


def _answers(text: str) -> tuple[str, list[str]]:
    """The answers that have to be right, each spelling once, and the rule that found them."""
    boxed = [box for box in boxes(text) if canonical(box.answer)]
    stated: list[Statement] = [_with_alternative(text, box) for box in boxed]
    for phrase in phrases(text, latex=True):
        leads_to_box = any(phrase.start <= box.start < phrase.end for box in boxed)
        answer = None if leads_to_box else _in_phrase(phrase)
        # "The answer is in lowest terms" says nothing against the box.
        if answer and not (boxed and _PROSE.fullmatch(answer)):
            stated.append(Statement(phrase.kind, phrase.start, phrase.end, answer))
        elif leads_to_box and _OR.search(phrase.answer):
            stated.append(Statement(phrase.kind, phrase.start, phrase.end, phrase.answer))
    if stated:
        counted = that_count(text, stated)
        return f"stated ({counted[0].kind})", list(dict.fromkeys(s.answer for s in counted))
    end = text[-4000:]
    formulas = list(_FORMULA.finditer(end))
    if len(formulas) > 1 and _JUST_OR.fullmatch(end[formulas[-2].end() : formulas[-1].start()]):
        return "last formula", [f"{_inside(formulas[-2])}{OR_WORD}{_inside(formulas[-1])}"]
    return "last formula", [_last_side(_inside(formulas[-1]))] if formulas else []


def _with_alternative(text: str, box: Statement) -> Statement:
    """A box that is followed by "or" and a formula or number is no single answer."""
    if _OR_AFTER_BOX.match(text, box.end):
        return Statement(box.kind, box.start, box.end, f"{box.answer} or …")
    return box


def _in_phrase(phrase: Statement) -> str | None:
    """The formulas of the sentence, joined by what joins them; its words where it has none."""
    sentence = phrase.answer.strip(" \t\r\n*_:")
    if sentence.startswith((r"\begin{align", r"\begin{eq", r"$$\begin{align")):
        return None
    formulas = list(_FORMULA.finditer(sentence))
    if not formulas:
        sentence = sentence.rstrip(" .*")
        if phrase.kind == "label" or len(sentence.split()) <= 5:
            return sentence if len(sentence) <= 200 else None
        return None
    if phrase.kind == "label" and sentence[: formulas[0].start()].count(" ") > 3:
        return None
    answer = (
        sentence[: formulas[0].start()] if _TOUCHES.search(sentence[: formulas[0].start()]) else ""
    )
    for formula, following in zip(formulas, [*formulas[1:], None], strict=False):
        answer += _inside(formula)
        if following is not None:
            between = sentence[formula.end() : following.start()]
            answer += (
                OR_WORD
                if _OR.search(between)
                else (", " if _JOINS.fullmatch(between) else f" {between} ")
            )
    return answer


def _last_side(formula: str) -> str:
    """A formula that nobody called the answer is often ``x = 2 + 3 = 5``; ``3 = 5`` stays."""
    before, equals, last = formula.rpartition("=")
    return formula if not equals or number(canonical(before)) is not None else last


def _inside(formula: re.Match[str]) -> str:
    return formula[1] or formula[2] or formula[3]


OR_WORD = r" \text{ or } "
_OR = re.compile(r"\bor\b", re.IGNORECASE)
_JUST_OR = re.compile(r"[ \t,(]{1,4}or(?:[ \t]{1,3}[a-z]{1,12}){0,2}[ \t]{1,3}", re.IGNORECASE)
_OR_AFTER_BOX = re.compile(
    r"[ \t$]{0,6}[,(]?[ \t$]{0,4}(?:or|maybe|perhaps|possibly|alternatively)\b,?"
    r"(?:[ \t]{1,3}[a-z]{1,12}){0,2}[ \t]{0,4}(?:\$?[0-9\\-])(?<!\\)",
    re.IGNORECASE,
)
_PROSE = re.compile(r"[^0-9$\\\s]+(?:\s+[^0-9$\\\s]+)+")
_JOINS = re.compile(r"\s*(?:,|and|,\s*and|&)\s*")
_TOUCHES = re.compile(r"[0-9]\s*$")
_FORMULA = re.compile(
    r"\$\$?((?:[^$\\]|\\.){1,1000})\$\$?|\\\((.{1,1000}?)\\\)|\\\[((?:.|\n){1,1000}?)\\\]"
)
