r"""One spelling for answers that differ in spelling only: ``\dfrac12`` is ``\frac{1}{2}``.

The conventions are those of the MATH data set (Hendrycks et al. 2021, arXiv:2103.03874; Lewkowycz
et al. 2022, arXiv:2206.14858, appendix D): a unit after a number, a percent sign, degrees and
dollars are dropped on both sides, so ``5`` is right for ``5\%`` and for ``5\text{ cm}``.
"""

from __future__ import annotations

import re

from cameleer.verifiers.text import boxes

MAX_CHARACTERS = 1000
"""Longer answers are not read. The longest of MATH's 12,500 has fewer than 160."""

OR = "\N{LOGICAL OR}"
"""What ``or`` between alternatives becomes."""


def canonical(answer: str) -> str:
    """The answer in its one spelling, without white space. Empty when nothing is left of it."""
    answer = _unboxed(answer[:MAX_CHARACTERS])
    for old, new in _CHARACTERS:
        answer = answer.replace(old, new)
    for pattern, replacement in _RULES:
        answer = pattern.sub(replacement, answer)
    answer = _GROUPS.sub(lambda digits: "".join(digits[0].split()), _without_text(answer))
    for pattern, replacement in _LATE_RULES:
        answer = pattern.sub(replacement, answer)
    return answer.replace(",", "") if _THOUSANDS.fullmatch(answer) else answer


def unit(answer: str) -> str:
    """The unit after the answer's number, by its short name; empty for none, or one not listed.

    It serves to tell ``5 cm`` from ``5 m`` and nine in the morning from nine in the evening, where
    both sides name a unit.
    """
    found = _UNIT_AT_END.search(answer[-60:])
    return _UNITS.get(found[1].replace(".", "").lower(), "") if found else ""


def _unboxed(answer: str) -> str:
    found = boxes(answer)
    for box in reversed(found):
        answer = answer[: box.start] + _unboxed(box.answer) + answer[box.end :]
    return answer


def _without_text(answer: str) -> str:
    r"""Take ``\text{…}`` off words that are the answer, and drop it where it holds a unit."""

    def words(match: re.Match[str]) -> str:
        inside = match["inside"].strip(" .,")
        bare = re.sub(r"\W", "", inside).lower()
        if bare in ("and", "or"):
            return "," if bare == "and" else OR
        opens = not answer[: match.start()].strip("$({[ ")
        joins = answer[: match.start()].rstrip().endswith((",", OR, "=", "("))
        if opens or joins or len(bare) == 0:
            return inside
        return ""

    answer = re.sub(r"\\text\s?\{(?P<inside>[^{}]*)\}(?P<power>\s?\^\s?\{?[23]\}?)?", words, answer)
    answer = _WORD_OR.sub(OR, answer)
    answer = _WORD_AND.sub(",", answer)
    return _UNIT.sub(r"\1", answer)


_CHARACTERS = [
    ("\u2212", "-"), ("\u2013", "-"), ("\u00d7", "*"), ("·", "*"), ("÷", "/"), ("±", r"\pm "),
    ("π", r"\pi "), ("∞", r"\infty "), ("θ", r"\theta "), ("√", r"\sqrt "), ("°", r"^\circ "),
    ("≤", r"\leq "), ("≥", r"\geq "), ("≠", r"\neq "), ("\u222a", r"\cup "), ("∩", r"\cap "),
    ("²", "^2"), ("³", "^3"), ("½", r"\frac{1}{2}"), ("\u00a0", " "), ("\u2009", " "),
    ("\u2019", "'"), ("`", ""), ("**", "^"),
]  # fmt: skip

_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"^\s*\^+|\^+\s*$|^[\s*_]+|[\s*_]+$", ""),  # Markdown's bold, which became a power.
        (r"\\\$|\$|\\[()]|\\displaystyle(?![a-zA-Z])", ""),
        (r"\\(?:left|right|[bB]igg?[lr]?|m?left|m?right)(?![a-zA-Z])\.?", ""),
        (r",\s?\\!|\{,\}", ","),
        (r"(?<!\\)\\(?:[,;:! ]|q?quad|thinspace|(?:phantom|hspace)\s?\{[^{}]*\}|hfill)|~", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:mbox|(?:text|math)(?:bf|it|rm|sf)|rm|bf|operatorname)(?=\s?\{)", r"\\text"),
        (r"\\(?:bold|boldsymbol|mathbb|mathcal|overline|vec)(?![a-zA-Z])\s?(?=\{?[a-zA-Z])", ""),
        (r"\\(?:text)?color\s?\{[a-zA-Z]{1,20}\}", ""),
        (r"\^\s?\{?\s?\\text\s?\{(?:st|nd|rd|th)\}\s?\}?", ""),
        (r"\^\s?\{?\s?\\(?:circ|degree)(?![a-zA-Z])\s?\}?|\\degree(?![a-zA-Z])", ""),
        (r"\\%|%", ""),
        (r"\\(?:cdot|times|ast)(?![a-zA-Z])", "*"),
        (r"\\div(?![a-zA-Z])", "/"),
        (r"\\(?:le|leqslant)(?![a-zA-Z])", r"\\leq"),
        (r"\\(?:ge|geqslant)(?![a-zA-Z])", r"\\geq"),
        (r"\\ne(?![a-zA-Z])", r"\\neq"),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\begin\{(?:[bpB]?matrix\}|array\}\{[^{}]*\})", r"\\begin{pmatrix}"),
        (r"\\end\{(?:[bpB]?matrix|array)\}", r"\\end{pmatrix}"),
        (r"\\(?:sim|approx)(?![a-zA-Z])", "="),
        (r"\\varnothing(?![a-zA-Z])|\\\{\s{0,4}\\\}", r"\\emptyset"),
    ]
]  # fmt: skip

_ARG = r"(?:[0-9a-zA-Z]|\\[a-zA-Z]+)"
_LATE_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\frac\s?([0-9])\s?([0-9])(?!\{)", r"\\frac{\1}{\2}"),
        (rf"\\frac\s?({_ARG})\s?\{{", r"\\frac{\1}{"),
        (rf"\\frac\s?({_ARG})\s?({_ARG})", r"\\frac{\1}{\2}"),
        (r"(\\frac\{[^{}]*\})" rf"\s?({_ARG})", r"\1{\2}"),
        (rf"\\sqrt\s*([0-9]{{1,20}}|{_ARG})", r"\\sqrt{\1}"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt\s*(?=\{)", r"\\sqrt"),
        (
            r"(?<![0-9a-zA-Z}^_/.])(-?)([0-9]{1,20})\s?/\s?([0-9]{1,20})(?![0-9a-zA-Z^.(])",
            r"\1\\frac{\2}{\3}",
        ),
        (r"(?<![0-9])\.(?=[0-9])", "0."),
        (r"(?<![0-9.])([0-9]{1,40})\.0{1,20}(?![0-9]|\\overline)", r"\1"),
        (r"(?<![0-9a-zA-Z)}])\+(?=\\infty)", ""),
        # Digits side by side are two numbers, never one number glued together.
        (r"(?<=[0-9])\s+(?=[0-9])", ","),
        (r"\s+", ""),
        (r"([\^_])\{([0-9a-zA-Z])\}", r"\1\2"),
        (r"\{\}", ""),
        (r"^\(([A-Z])\)$", r"\1"),
        (r"[.,;:]+$", ""),
        (r"^\{(-?[0-9.]+)\}$", r"\1"),
        (r"^:+", ""),
    ]
]
_GROUPS = re.compile(r"(?<![0-9.])[0-9]{1,3}(?:\s[0-9]{3}){1,8}(?![0-9])")
_THOUSANDS = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3}){1,8}(?:\.[0-9]+)?")
_WORD_OR = re.compile(r"(?<![a-zA-Z\\])or(?![a-zA-Z])", re.IGNORECASE)
_WORD_AND = re.compile(r",?\s(?<![a-zA-Z\\])and(?![a-zA-Z])", re.IGNORECASE)
_UNITS = {
    spelling: unit
    for unit, spellings in {
        "a.m.": "am", "p.m.": "pm",
        "mm": "mm millimeter millimeters", "cm": "cm centimeter centimeters",
        "m": "m meter meters metre metres", "km": "km kilometer kilometers",
        "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard yards", "mi": "mi mile miles",
        "mg": "mg milligram milligrams", "g": "g gram grams", "kg": "kg kilogram kilograms",
        "oz": "oz ounce ounces", "lb": "lb lbs pound pounds",
        "s": "sec second seconds", "min": "min minute minutes", "h": "hr hrs hour hours",
        "days": "day days", "weeks": "week weeks", "months": "month months", "years": "year years",
        "cents": "cent cents", "dollars": "dollar dollars",
        "ml": "ml milliliter milliliters", "l": "liter liters", "degrees": "degree degrees",
    }.items()
    for spelling in spellings.split()
}  # fmt: skip
_UNIT_AT_END = re.compile(
    r"[0-9}]\s{0,4}(?:\\(?:[ ,;:!]|text|mbox|mathrm|textrm)\s{0,4}|[{~\s]){0,6}"
    r"(?:(?:square|cubic|sq\.?|cu\.?)\s)?([a-zA-Z]{1,11}|[apAP]\.[mM]\.)\.?[\s}$]{0,4}"
    r"(?:\^\s?\{?[23]\}?)?[\s$.]{0,4}$"
)
_SHORT_UNITS = "cm|mm|km|in|ft|yd|mi|kg|mg|lb|lbs|oz|hr|hrs|min|sec|ml|mph|sq|cu|deg"
_UNIT_WORD = rf"(?:(?:{_SHORT_UNITS})(?![a-zA-Z])|[a-zA-Z]{{4,20}})\.?"
_UNIT = re.compile(
    rf"(^[^a-zA-Z\\]*[0-9}}])\s{{1,4}}{_UNIT_WORD}"
    r"(?:\s[a-zA-Z.]{1,20}){0,4}(?:\^\{?[23]\}?)?\s*$"
)
