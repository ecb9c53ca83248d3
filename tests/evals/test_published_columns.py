"""The columns of model cards are as printed."""

from __future__ import annotations

import pytest

from cameleer.evals.published import COLUMNS, NUM_INSTANCES


@pytest.mark.parametrize("key", COLUMNS)
def test_the_rows_have_the_average_that_the_card_prints(key: str):
    column = COLUMNS[key]
    assert len(column.percent) == 12
    # Cards round to tenths.
    assert sum(column.percent.values()) / 12 == pytest.approx(column.average, abs=0.0501)


def test_a_score_has_the_error_of_its_number_of_instances():
    # 90.0 of 1,319: sqrt(0.9 * 0.1 / 1319) = 0.00826.
    found = COLUMNS["tulu31_8b_published"].estimate("gsm8k")
    assert found is not None
    assert (found.value, found.num_instances) == (0.9, 1319)
    assert found.standard_error == pytest.approx(0.00826, abs=5e-6)


def test_what_is_no_mean_over_instances_has_no_error():
    column = COLUMNS["tulu31_8b_published"]
    assert {name for name in column.percent if column.estimate(name) is None} == {
        "alpaca_eval",
        "safety",
    }
    assert column.estimate("other") is None


def test_answers_found_by_two_rules_are_not_compared():
    tulu31, *others = COLUMNS.values()
    assert "bbh" in tulu31.percent and NUM_INSTANCES["bbh"] == NUM_INSTANCES["bbh_v0"]
    assert all("bbh_v0" in other.percent and "bbh" not in other.percent for other in others)
