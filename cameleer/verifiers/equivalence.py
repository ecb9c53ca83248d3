r"""Whether two mathematical answers are the same, gold first.

The first that applies decides: equal spelling; exact numbers; words, which are compared by spelling
only; lists, tuples, intervals, sets and matrices, part by part; math-verify on what is left.

An answer has to be an answer: ``2+3`` or ``\int_0^5 1\,dx`` for 5 is restated work and wrong,
unless the gold has that form. One fraction (``\frac{2}{4}``), a root (``\sqrt{8}``) or a number in
scientific notation counts as a number. Decimals are exact: ``0.333`` is not ``\frac{1}{3}``.
"""

from __future__ import annotations

import logging
import re
import warnings
from fractions import Fraction
from typing import NamedTuple

from cameleer.verifiers import numbers
from cameleer.verifiers.latex import OR
from cameleer.verifiers.text import matching_braces


class Verdict(NamedTuple):
    equal: bool
    why: str


def compare(gold: str, answer: str) -> Verdict:
    """Compare two answers in canonical spelling (`cameleer.verifiers.latex.canonical`)."""
    if gold == answer:
        return Verdict(True, "same spelling")
    if _has_relation(gold) != _has_relation(answer):
        gold, answer = _as_interval(gold), _as_interval(answer)
        if gold == answer:
            return Verdict(True, "the same interval")
    if OR in gold:
        gold, answer = gold.replace(OR, ","), answer.replace(OR, ",")
    if OR in answer:
        return Verdict(False, "alternatives joined by 'or'")
    gold, answer = _drop_name(gold, answer)
    if gold == answer:
        return Verdict(True, "same spelling")
    if "=" in answer and not _has_relation(gold):
        return Verdict(False, "an equation where a value is asked")
    value, wanted = number(answer), number(gold)
    if value is not None and wanted is not None:
        return Verdict(value == wanted, "exact numbers")
    if _is_words(gold) or _is_words(answer):
        comparable = not _SYMBOL.search(gold + answer)
        return Verdict(comparable and _letters(gold) == _letters(answer), "words")
    if _TIME.fullmatch(gold) and _TIME.fullmatch(answer):
        return Verdict(False, "times of day are compared by spelling")
    if _BASE.search(gold) or _BASE.search(answer):
        return Verdict(False, "a number in another base is compared by spelling")
    parts = _parts(gold), _parts(answer)
    if parts[0] is not None or parts[1] is not None:
        return _compare_parts(*parts)
    if r"\infty" in gold + answer:
        return Verdict(False, "infinity is compared by spelling")
    if (why := _not_an_answer(answer, gold)) is not None:
        return Verdict(False, why)
    if (why := too_large(answer) or too_large(gold)) is not None:
        return Verdict(False, why)
    return Verdict(_symbolically_equal(gold, answer), "math-verify")


def number(answer: str) -> Fraction | None:
    r"""The exact value of ``-1800.5``, ``\frac{2}{4}``, ``1\frac{1}{2}`` or ``5*10^{-3}``."""
    if len(answer) > numbers.MAX_CHARACTERS:
        return None
    if (plain := numbers.read(answer)) is not None:
        return plain
    if fraction := _FRACTION.fullmatch(answer):
        sign, whole, minus, over, under = fraction.groups()
        if int(under) == 0 or (whole and minus):
            return None
        value = int(whole or "0") + Fraction(int(over), int(under))
        return -value if bool(sign) != bool(minus) else value
    if repeating := _REPEATING.fullmatch(answer):
        sign, whole, once, period = repeating.groups()
        repeated = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(once))
        value = Fraction(f"{whole or 0}.{once or 0}") + repeated
        return -value if sign else value
    if scientific := _SCIENTIFIC.fullmatch(answer):
        return Fraction(scientific[1]) * Fraction(10) ** int(scientific[2] or scientific[3])
    return None


def too_large(answer: str) -> str | None:
    """Why a computer algebra system should not be shown this answer, or None."""
    depth = deepest = 0
    for mark in re.finditer(r"[({\[]|[)}\]]", answer):
        depth += 1 if mark[0] in "({[" else -1
        deepest = max(deepest, depth)
    if deepest > 20:
        return "nested too deeply"
    if len(answer) > 400:
        return "too long"
    if re.search(r"[0-9]{40}", answer):
        return "too many digits"
    closing = matching_braces(answer)
    for caret in re.finditer(r"\^", answer):
        # Without braces, as from ``**``, it is all digits that follow.
        plain = _EXPONENT.match(answer, caret.end())
        end = plain.end() if plain else closing.get(caret.end(), caret.end() + 1) + 1
        group = answer[caret.end() : end]
        tower = "^" in group or answer.startswith("^", caret.end() + 1)
        if tower or re.search(r"[!(]|[0-9]{5}", group):
            return "an exponent too large"
    if re.search(r"[0-9]{5}\s*!|!!|\)!|\}!", answer):
        return "a factorial too large"
    return None


def _drop_name(gold: str, answer: str) -> tuple[str, str]:
    """Without ``x =`` (before each part of a list) where the other side has the same or no name."""
    gold_name, answer_name = _name(gold), _name(answer)
    same = gold_name == answer_name
    if answer_name and (same or not _has_relation(gold)):
        answer = ",".join(item[len(answer_name) :] for item in _split(answer, ","))
    if gold_name and (same or not _has_relation(answer)):
        gold = ",".join(item[len(gold_name) :] for item in _split(gold, ","))
    return gold, answer


def _name(answer: str) -> str | None:
    found = _NAME.match(answer)
    if found and all(item.startswith(found[0]) for item in _split(answer, ",")):
        return found[0]
    return None


def _as_interval(answer: str) -> str:
    r"""``1<x\leq3`` as ``(1,3]``, and alternatives of this kind as a union; else as it is."""
    names, intervals = set(), []
    for part in answer.split(OR):
        pieces = _INEQUALITY.split(part)
        if {">", r"\geq"} & set(pieces):
            pieces = [_MIRRORED.get(piece, piece) for piece in reversed(pieces)]
        where = [i for i, piece in enumerate(pieces) if _VARIABLE.fullmatch(piece)]
        # One variable, at most one bound on each side of it, and signs that point one way.
        at = where[0] if len(where) == 1 else 3
        if at > 2 or {">", r"\geq"} & set(pieces) or not 3 <= len(pieces) <= at + 3:
            return answer
        low, above = pieces[at - 2 : at] if at else (r"-\infty", "<")
        below, high = pieces[at + 1 :] or ("<", r"\infty")
        names.add(pieces[at])
        intervals.append(f"{'[('[above == '<']}{low},{high}{'])'[below == '<']}")
    return r"\cup".join(intervals) if len(names) == 1 else answer


def _has_relation(answer: str) -> bool:
    return re.search(r"[=<>]|\\(?:leq|geq|neq|equiv|in(?![a-zA-Z]))", answer) is not None


def _is_words(answer: str) -> bool:
    return (
        re.search(
            r"(?<![a-zA-Z\\])(?!sin|cos|tan|log|exp|sqrt|pi)[a-zA-Z]{3,}", _COMMAND.sub(" ", answer)
        )
        is not None
    )


def _letters(answer: str) -> str:
    return re.sub(r"[\W_]", "", answer).lower()


class Parts(NamedTuple):
    """A composite answer."""

    brackets: str
    """The opening and closing one; ``,`` for a bare list, ``\\cup`` for a union."""
    items: tuple[str, ...]
    ordered: bool


def _parts(answer: str) -> Parts | None:
    if (matrix := _MATRIX.fullmatch(answer)) is not None:
        rows = [row.split("&") for row in re.split(r"\\\\", matrix[1].removesuffix(r"\\"))]
        shape = "x".join(str(len(row)) for row in rows)
        return Parts(f"matrix {shape}", tuple(cell for row in rows for cell in row), True)
    if len(union := _split(answer, r"\cup")) > 1:
        return Parts(r"\cup", tuple(union), False)
    if len(items := _split(answer, ",")) > 1:
        return Parts(",", tuple(items), False)
    if "\\pm" in answer and answer.count("\\pm") == 1:
        return Parts(
            ",", (answer.replace("\\pm", "+").removeprefix("+"), answer.replace("\\pm", "-")), False
        )
    if answer.startswith("\\{") and answer.endswith("\\}"):
        return Parts("{}", tuple(_split(answer[2:-2], ",")), False)
    if answer.startswith(("(", "[")) and answer.endswith((")", "]")) and _closes_at_end(answer):
        items = _split(answer[1:-1], ",")
        if len(items) > 1:
            return Parts(answer[0] + answer[-1], tuple(items), True)
    return None


def _split(answer: str, separator: str) -> list[str]:
    """Split at separators outside of all brackets."""
    items, depth, start, index = [], 0, 0, 0
    while index < len(answer):
        if answer[index] in "([{":
            depth += 1
        elif answer[index] in ")]}":
            depth -= 1
        if depth == 0 and answer.startswith(separator, index):
            items.append(answer[start:index])
            index = start = index + len(separator)
        else:
            index += 1
    return [item for item in [*items, answer[start:]] if item]


def _closes_at_end(answer: str) -> bool:
    depth = 0
    for index, character in enumerate(answer):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return index == len(answer) - 1
    return False


def _compare_parts(gold: Parts | None, answer: Parts | None) -> Verdict:
    if gold is None or answer is None:
        return Verdict(False, "one answer has parts, the other has not")
    same_kind = gold.brackets == answer.brackets or {gold.brackets, answer.brackets} == {",", "{}"}
    if not same_kind or len(gold.items) != len(answer.items):
        return Verdict(False, f"{_shape(answer)} where {_shape(gold)} is asked")
    if len(gold.items) > 30:
        return Verdict(False, "too many parts")
    left = list(gold.items)
    for item in answer.items:
        candidates = left[:1] if gold.ordered else left
        # Equal spelling first: what else is equal may take long to find out.
        same = item if item in candidates else _first_equal(candidates, item)
        if same is None:
            return Verdict(False, "part by part")
        left.remove(same)
    return Verdict(True, "part by part")


def _first_equal(candidates: list[str], item: str) -> str | None:
    return next((each for each in candidates if compare(each, item).equal), None)


def _shape(parts: Parts) -> str:
    return f"{parts.brackets} of {len(parts.items)} parts"


def _not_an_answer(answer: str, gold: str) -> str | None:
    """Why this is work to be done, not a result, or None. A form that the gold has is a result."""
    if number(gold) is not None and re.search(r"[a-zA-Z|]", re.sub(r"\\(?:frac|sqrt)", "", answer)):
        return "an expression where a number is asked"
    if number(gold) is not None and answer.startswith(("[", "--", "-(-")):
        return "brackets or signs that are not resolved"
    for command in _WORK.findall(answer):
        if command not in gold:
            return f"{command} is work that is not carried out"
    if _is_arithmetic(answer) and not _is_arithmetic(gold):
        return "arithmetic that is not carried out"
    return None


def _is_arithmetic(answer: str) -> bool:
    """An operation on two plain numbers stands in it: ``2+3``, ``2*3``, ``(2)(3)``, ``2^3``."""
    return _ARITHMETIC.search(_FRACTION_ANYWHERE.sub("1", answer)) is not None


def _symbolically_equal(gold: str, answer: str) -> bool:
    # Slow to import, and only what no rule decides comes here.
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # Units are dropped already; left to itself it would read "3ab" and "3h" as 3.
    as_it_stands = NormalizationConfig(basic_latex=True, malformed_operators=True, units=False)
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # It warns that it has no timeout.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsed = [
            parse(
                f"${_DECIMAL.sub(_as_fraction, side)}$",
                extraction_config=[LatexExtractionConfig(normalization_config=as_it_stands)],
                fallback_mode="no_fallback",
                parsing_timeout=None,
                raise_on_error=True,
            )
            for side in (gold, answer)
        ]
        if not all(parsed):
            return False
        return bool(
            verify(*parsed, numeric_precision=60, timeout_seconds=None, raise_on_error=True)
        )


def _as_fraction(decimal: re.Match[str]) -> str:
    """math-verify compares decimals after rounding; a fraction is exact."""
    value = Fraction(decimal[0])
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


_SYMBOL = re.compile(r"[-+*/^=\\{}<>|]")
_DECIMAL = re.compile(r"[0-9]{1,30}\.[0-9]{1,30}")
_EXPONENT = re.compile(r"-?[0-9]{2,}")
_FRACTION = re.compile(r"(-?)([0-9]{1,20})?\\frac\{(-?)([0-9]{1,40})\}\{([0-9]{1,40})\}")
_FRACTION_ANYWHERE = re.compile(r"\\frac\{[0-9]{1,40}\}\{[0-9]{1,40}\}")
_REPEATING = re.compile(r"(-?)([0-9]{0,20})\.([0-9]{0,20})\\overline\{([0-9]{1,20})\}")
_SCIENTIFIC = re.compile(r"(-?[0-9]{1,30}(?:\.[0-9]{1,30})?)\*10\^(?:([0-9])|\{(-?[0-9]{1,3})\})")
_NAME = re.compile(
    r"(?:\([a-zA-Z](?:,[a-zA-Z]){1,3}\)|[a-zA-Z]|\\[a-zA-Z]{2,10})(?:_[0-9a-zA-Z]|\([a-z](?:,[a-z])?\)|')?(?:=|\\in(?![a-zA-Z]))"
)
_INEQUALITY = re.compile(r"(<|>|\\leq|\\geq)")
_MIRRORED = {">": "<", "<": ">", r"\geq": r"\leq", r"\leq": r"\geq"}
_VARIABLE = re.compile(r"[a-zA-Z]|\\(?:alpha|beta|theta|lambda|phi)")
_TIME = re.compile(r"[0-9]{1,2}(?::[0-9]{2}){1,2}")
_BASE = re.compile(r"^[0-9A-F]+_(?:[0-9]|\{[0-9]+\})$")
_COMMAND = re.compile(r"\\(?:begin|end)\{[a-z]*\}|\\[a-zA-Z]+")
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}")
_WORK = re.compile(
    r"\\begin\{[vV]matrix|\\(?:int|sum|prod|lim|[dt]?binom|choose|gcd|max|min|det|frac\{d\})(?![a-zA-Z])|!"
)
_PLAIN_NUMBER = r"(?<![\w.^}_])[0-9]+(?:\.[0-9]+)?"
_ARITHMETIC = re.compile(
    rf"{_PLAIN_NUMBER}(?:[-+*/]|\)\(|\()-?\(?[0-9]+(?:\.[0-9]+)?(?![\w\\.({{^])|{_PLAIN_NUMBER}"
    r"\^(?:-?[0-9]+(?![0-9.])|\{-?[0-9]+\})"
)
