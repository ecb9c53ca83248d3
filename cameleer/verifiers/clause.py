"""The one number that a sentence such as ``16 - 3 - 4 = $9 a day (of 16)`` gives as its answer.

The first number counts. A chain of equations counts by its last side. Work that is not carried out
(``10 - 8``, ``sqrt(4)``), alternatives (``5 or 6``, ``6 $5$``), a quantity in two parts (``5 feet
6 inches``), bounds (``more than 5``) and denials (``not 5``) give no number.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from cameleer.verifiers import numbers


class Reading(NamedTuple):
    """A number, or why there is none."""

    value: Fraction | None
    shown: str = ""
    """The number as the text writes it."""
    why: str = ""


class Token(NamedTuple):
    kind: str
    """number, word, operator, equals or mark."""
    text: str
    spaced: bool = False
    """White space stands before it."""


ALTERNATIVES = "more than one number"


def read(clause: str, *, max_words: int) -> Reading | None:
    """The number of a clause that follows "the answer is", or None where it does not announce one.

    Args:
        max_words: Words allowed before the number, as in "the answer is that she makes 18".
    """
    tokens = tokenize(clause)
    at = _first_number(tokens, max_words)
    if at is None:
        return None
    if (why := _taken_back(tokens, at)) is not None:
        return Reading(None, why=why)
    sides, end = _chain(tokens, at)
    reading = _value_of(sides)
    return with_alternatives(reading, tokens[end:]) if reading.value is not None else reading


def with_alternatives(reading: Reading, rest: list[Token], *, adjacent: bool = True) -> Reading:
    """The reading, or none where the tokens after it offer another number instead.

    Args:
        adjacent: A number that stands right beside the first, with no word between, is another one.
    """
    # "18 if it rains, 19 if it does not"
    offered = sum(token.text.lower() in ("if", "otherwise", "else") for token in rest) > 1
    for index, token in enumerate(rest):
        if token.kind == "number":
            value, _, _ = _operand(rest, index)
            following = " ".join(t.text.lower() for t in rest[: index + 2])
            second_part = index < 4 and _SECOND_PART.match(following)
            if (adjacent or offered or second_part) and value != reading.value:
                return reading._replace(value=None, why=ALTERNATIVES)
        elif token.kind == "word":
            offered = offered or token.text.lower() in _OFFERS
            adjacent = adjacent and token.text.lower() in ("or", "and", "to")
        elif token.text == "(":
            adjacent = False
    return reading


def plain(text: str) -> str:
    """The text with LaTeX, markdown and currency taken off its numbers."""
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    return text


def tokenize(text: str) -> list[Token]:
    found = []
    for match in _TOKEN.finditer(plain(text)):
        kind = match.lastgroup
        assert kind is not None, "every alternative of the pattern has a name"
        if kind == "word" and match[kind].lower() in _OPERATOR_WORDS:
            kind = "operator"
        found.append(Token(kind, match[match.lastgroup], bool(match["space"])))  # type: ignore[index]
    return found


def last_equals_or_number(sentence: str) -> Reading | None:
    """The last number of a sentence, or the one after its last equals sign. None without any."""
    tokens = tokenize(sentence)
    where = [i for i, token in enumerate(tokens) if token.kind == "number"]
    if not where:
        return None
    only_numbers = all(token.kind in ("number", "mark") for token in tokens)
    if only_numbers and len({numbers.read(tokens[i].text) for i in where}) > 1:
        return Reading(None, why=ALTERNATIVES)
    after_equals = [i for i in where if i and tokens[_before_sign(tokens, i)].kind == "equals"]
    at = (after_equals or where)[-1]
    if (why := _taken_back(tokens, at)) is not None:
        return Reading(None, why=why)
    value, _, shown = _operand(tokens, _before_sign(tokens, at) + 1)
    reading = Reading(value, shown, "" if value is not None else "a number that cannot be read")
    earlier = [i for i in where if i < at]
    if value is None or not earlier:
        return with_alternatives(reading, tokens[at + 1 :], adjacent=False)
    other = earlier[-1]
    between = tokens[other + 1 : at]
    if numbers.read(tokens[other].text) != value:
        if not between or any(token.text.lower() == "or" for token in between):
            return reading._replace(value=None, why=ALTERNATIVES)
        opens = other == 0 or tokens[other - 1].text in (":", "=")
        if opens and [token.kind for token in between] == ["equals"]:
            return reading._replace(value=None, why="two different numbers are called equal")
    return with_alternatives(reading, tokens[at + 1 :], adjacent=False)


def _taken_back(tokens: list[Token], at: int) -> str | None:
    """What stands before a number and makes another thing of it, or None.

    Args:
        at: Index of the number, or of its sign.
    """
    while at > 0 and tokens[at - 1].text in ("(", "-", "+"):
        at -= 1
    if at == 0:
        return None
    before = tokens[at - 1].text.lower()
    if before in _FUNCTIONS:
        return "arithmetic that is not carried out"
    compared = at > 1 and tokens[at - 2].kind == "number"  # "200 < 220, so she wins"
    if before in ("than", "<", ">", "under", "over") and not compared:
        return "a bound"
    two = f"{tokens[at - 2].text.lower()} {before}" if at > 1 else before
    return "a denial" if _DENIAL.search(two) else None


def _before_sign(tokens: list[Token], at: int) -> int:
    """The token before a number and its sign, -1 where there is none."""
    signed = at > 0 and tokens[at - 1].text in ("-", "+") and not tokens[at].spaced
    if signed and at > 1 and tokens[at - 2].kind == "number" and not tokens[at - 1].spaced:
        return at - 1  # "10-18": a range or a difference, no negative number.
    return at - 2 if signed else at - 1


def _first_number(tokens: list[Token], max_words: int) -> int | None:
    """Where the first number begins, its sign included."""
    words = 0
    for index, token in enumerate(tokens):
        if token.kind == "number":
            signed = index > 0 and tokens[index - 1].text in ("-", "+") and not token.spaced
            return index - 1 if signed else index
        if token.kind == "word" and token.text.lower() not in _HEDGES and len(token.text) > 1:
            words += 1
            if words > max_words:
                return None
    return None


def _operand(tokens: list[Token], at: int) -> tuple[Fraction | None, int, str]:
    """A number with its sign: value, index of the next token, and how it is written."""
    sign = ""
    if tokens[at].text in ("-", "+"):
        sign, at = tokens[at].text, at + 1
    if tokens[at].kind != "number":
        return None, at, ""
    written = sign + tokens[at].text
    return numbers.read(written), at + 1, written


class Side(NamedTuple):
    """What stands between two equals signs."""

    numbers: tuple[tuple[Fraction | None, str], ...]
    operators: tuple[str, ...]


def _chain(tokens: list[Token], at: int) -> tuple[list[Side], int]:
    """Read ``number (operator number)* (= …)*`` from a number on; units may follow each number."""
    sides: list[Side] = []
    found: list[tuple[Fraction | None, str]] = []
    operators: list[str] = []
    while True:
        while tokens[at].text == "(":
            at += 1
        value, at, written = _operand(tokens, at)
        found.append((value, written))
        joint = _skip_units(tokens, at)
        if joint is None:
            break
        if tokens[joint].kind == "equals":
            sides.append(Side(tuple(found), tuple(operators)))
            found, operators = [], []
        else:
            operators.append(tokens[joint].text)
        at = joint + 1
    return [*sides, Side(tuple(found), tuple(operators))], at


def _skip_units(tokens: list[Token], at: int) -> int | None:
    """The operator or equals sign that joins this number to the next, past four words at most."""
    for index in range(at, min(at + 5, len(tokens))):
        token = tokens[index]
        joins = token.kind in ("operator", "equals") or token.text.lower() == "x"
        if joins and _starts_number(tokens, index + 1):
            return index
        if token.kind != "word" and token.text not in ("%", ")", "/"):
            return None
    return None


def _starts_number(tokens: list[Token], at: int) -> bool:
    while at < len(tokens) and tokens[at].text in ("(", "-", "+"):
        at += 1
    return at < len(tokens) and tokens[at].kind == "number"


def _value_of(sides: list[Side]) -> Reading:
    single = [side for side in sides if not side.operators]
    fraction = _fraction(sides[-1])
    if fraction is not None and not single:
        return fraction
    if not single:
        return Reading(None, why="arithmetic that is not carried out")
    value, written = single[-1].numbers[0]
    if value is None:
        return Reading(None, why="a number that cannot be read")
    if any(side.numbers[0][0] != value for side in single):
        return Reading(None, why="two different numbers are called equal")
    return Reading(value, written)


def _fraction(side: Side) -> Reading | None:
    """``3/4`` is a number, ``36/2`` is a division to be carried out."""
    if side.operators != ("/",):
        return None
    (over, shown_over), (under, shown_under) = side.numbers
    if not over or not under or (over / under).denominator == 1:
        return None
    return Reading(over / under, f"{shown_over}/{shown_under}")


_OFFERS = ("or", "maybe", "perhaps", "possibly", "alternatively", "otherwise")
_SECOND_PART = re.compile(
    r"[^\W\d_]+ and [0-9]|(?:(?:feet|foot|ft)[ ,]+[0-9.]+ in|(?:hours?|hrs?|h)[ ,]+[0-9.]+ min"
    r"|(?:minutes?|mins?)[ ,]+[0-9.]+ sec|(?:pounds?|lbs?)[ ,]+[0-9.]+ (?:ounces?|oz)"
    r"|(?:years?)[ ,]+[0-9.]+ month|(?:weeks?)[ ,]+[0-9.]+ day|(?:days?)[ ,]+[0-9.]+ hour"
    r"|(?:dollars?)[ ,]+[0-9.]+ cent)"
)
"""What follows the first number of ``5 feet 6 inches`` and ``5 dollars and 50 cents``."""
_FUNCTIONS = ("sqrt", "√", "log", "ln", "exp", "sin", "cos", "tan", "binom", "floor", "ceil")
_DENIAL = re.compile(r"(?:\bnot|\bnever|\bcannot|n['\u2019]t)(?: be)?$")

_OPERATOR_WORDS = ("plus", "minus", "times")
_HEDGES = (
    "approximately",
    "about",
    "around",
    "roughly",
    "exactly",
    "just",
    "only",
    "equals",
    "now",
)

_CURRENCY = r"(?:USD|US|Rs|INR|EUR|GBP)"
_PLAIN: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"<<[^<>\n]{0,200}>>", ""),  # GSM8K's calculator notes: 2*3 = <<2*3=6>>6
        (r"[\u2212\ufe63\uff0d]", "-"),
        (r"~~[^~\n]{1,80}~~", ""),  # Struck through.
        (r"</?[a-zA-Z]{1,8}>", ""),
        (r"½", " 1/2"),
        (r"¼", " 1/4"),
        (r"¾", " 3/4"),
        (r"(?<=[a-zA-Z])(?:[²³]|\^\{?[23]\}?)", ""),  # cm²
        (r"[²³]", "^2"),
        (r"(?<![0-9])(?<![0-9]\s)\bnegative\s(?=\$?[0-9])|^\s{0,9}minus\s(?=\$?[0-9])", "-"),
        (r"(?<=[$=])\s?-\s(?=[0-9])", "-"),
        (r"(?<![0-9.,])([0-9]{1,3})[\u00a0\u2009\u202f]([0-9]{3})(?![0-9])", r"\1\2"),
        (r"\\(?:sqrt|log|ln|exp|sin|cos|tan|d?binom)(?![a-zA-Z])|√", " sqrt "),
        (r",\\!|\{,\}", ","),
        (r"\\[!,]", ""),
        (r"\\[dt]?frac\s?\{([0-9]{1,20})\}\s?\{([0-9]{1,20})\}", r" \1/\2"),
        (r"\\(?:times|cdot|ast)\b", "*"),
        (r"\\div\b", "/"),
        (r"(?<=[0-9])x(?=[0-9])", " * "),
        (r"\\(?:approx|equiv)\b", "="),
        (r"\\\$", ""),
        (r"\\%", "%"),
        (r"\\[()\[\] ;:]|\\[a-zA-Z]+", " "),
        (rf"(?:\b{_CURRENCY}\b\.?[ ]?)?[$€£¥₹{{}}`]|\b{_CURRENCY}\b\.?[ ]?(?=[0-9])", ""),
        (r"\*\*+|__+", ""),
        (r"(?<![0-9\s)])\*|\*(?![0-9\s(])", ""),
    ]
]
_TOKEN = re.compile(
    r"(?P<space>\s{0,1000})(?:(?P<number>[0-9]{1,9} [0-9]{1,9}/[0-9]{1,9}(?![0-9])"
    rf"|(?:{numbers.PATTERN})(?:[eE][-+]?[0-9]{{1,3}}(?![0-9A-Za-z]))?)"
    r"|(?P<word>[^\W\d_](?:['\u2019\w-]*\w)?)|(?P<equals>[=≈])|(?P<operator>[-+*/\u00d7÷^·])|(?P<mark>\S))"
)
