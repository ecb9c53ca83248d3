"""The table of verdicts that comes with the package."""

from __future__ import annotations

from collections import Counter

import pytest

from cameleer.verifiers.cases import CASES, Case
from cameleer.verifiers.ifeval import IFEval


def test_the_table_is_large_and_most_of_it_is_wrong():
    assert len(CASES) >= 320
    wrong = Counter(case.verifier for case in CASES if not case.right)
    assert sum(wrong.values()) >= len(CASES) / 2
    assert all(2 * wrong[name] >= sum(c.verifier == name for c in CASES) for name in wrong)
    assert set(wrong) == {"gsm8k", "math", "ifeval"}


def test_no_case_stands_twice():
    assert not [case for case, times in Counter(c[:3] for c in CASES).items() if times > 1]


@pytest.mark.parametrize("case", [c for c in CASES if c.verifier == "ifeval"], ids=lambda c: c.note)
def test_the_verdict_on_an_instruction(case: Case):
    score = IFEval().score(case.text, case.truth)
    assert (score.value, score.status) == (float(case.right), "scored"), score.reason
