"""Completions with the verdict they must get, and why: more than half wrong, and looking right.

`cameleer verify` holds the verifiers against this table, and so do the tests. The texts are our
own; the forms of many are those on which published verifiers were found to err.
"""

from __future__ import annotations

from typing import NamedTuple

from cameleer.verifiers.cases import gsm8k, ifeval, math


class Case(NamedTuple):
    """One text and the verdict that it must get."""

    verifier: str
    text: str
    truth: str
    right: bool
    note: str
    """What the case is about, for people."""


CASES: list[Case] = [
    Case(verifier, *case)
    for verifier, cases in (
        ("gsm8k", gsm8k.CASES),
        ("math", math.CASES),
        ("ifeval", ifeval.CASES),
    )
    for case in cases
]
