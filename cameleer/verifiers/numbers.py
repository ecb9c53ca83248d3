"""Numbers as people write them, read exactly. No floats: 0.1 + 0.2 is three tenths here."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

PATTERN = r"[0-9]{1,3}(?:,[0-9]{3}){1,8}(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
"""An unsigned number. Commas only between groups of three digits: ``1,8`` is two numbers."""

_NUMBER = re.compile(rf"(?:\+|(-))?({PATTERN})(?:[eE]([-+]?[0-9]{{1,3}}))?\.?")
_MIXED = re.compile(r"(?:\+|(-))?([0-9]{1,9})[ ]([0-9]{1,9})/([0-9]{1,9})")

_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d")

MAX_CHARACTERS = 200
"""Longer numbers are not read: no answer needs them, and Python's int() refuses 4,300 digits."""


def with_ascii_digits(text: str) -> str:
    """Full-width, Arabic and other decimal digits as 0 to 9, of which every pattern here knows."""
    if text.isascii():
        return text
    return _FOREIGN_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)


def read(text: str) -> Fraction | None:
    """The value of ``-1,800.50``, ``2 1/2`` or ``1e3``, or None where the text is no number."""
    if len(text) > MAX_CHARACTERS:
        return None
    text = text.strip()
    if mixed := _MIXED.fullmatch(text):
        minus, whole, over, under = mixed.groups()
        if int(under) == 0:
            return None
        value = int(whole) + Fraction(int(over), int(under))
        return -value if minus else value
    if number := _NUMBER.fullmatch(text):
        minus, digits, exponent = number.groups()
        value = Fraction(digits.replace(",", ""))
        value *= Fraction(10) ** int(exponent or 0)
        return -value if minus else value
    return None
