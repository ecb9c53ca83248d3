"""Standard errors, intervals, tests and pass@k hold against hand, closed forms and simulation."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cameleer.errors import RecipeError
from cameleer.evals.stats import (
    Difference,
    avg_at_k,
    estimate,
    interval,
    mcnemar,
    paired,
    pass_at_k,
    proportion,
    smallest_difference,
    unpaired,
    unpaired_error,
    wilson,
)


def ones(num_right: int, num_wrong: int) -> np.ndarray:
    return np.repeat([1.0, 0.0], [num_right, num_wrong])


def test_a_plain_mean_has_the_standard_error_of_a_mean():
    # Mean 0.6. Squared deviations: 3 * 0.16 + 2 * 0.36 = 1.2. s^2 = 1.2 / 4 = 0.3, SE^2 = 0.3 / 5.
    found = estimate([1, 1, 1, 0, 0])
    assert found.value == pytest.approx(0.6)
    assert found.standard_error == pytest.approx(math.sqrt(0.06))
    assert found.num_instances == 5


def test_a_mean_by_parts_has_the_standard_error_of_a_ratio():
    # Three prompts of 1, 2 and 3 instructions: m = (1 + 1 + 0) / 6 = 1/3.
    # sum w^2 (v - m)^2 = 1 * 4/9 + 4 * 1/36 + 9 * 1/9 = 14/9. SE^2 = 3/2 * 14/9 / 36 = 7/108.
    found = estimate([1, 0.5, 0], weights_I=[1, 2, 3])
    assert found.value == pytest.approx(1 / 3)
    assert found.standard_error == pytest.approx(math.sqrt(7 / 108))


def test_a_mean_over_subjects_weighs_subjects_alike():
    # a: 1, 1, 0, 0: mean 1/2, s^2 = 1/3, over 4: 1/12. b: 1, 0: mean 1/2, s^2 = 1/2, over 2: 1/4.
    # c: 1, 1: mean 1, no spread. Mean 2/3, SE^2 = (1/12 + 1/4) / 9 = 1/27. The plain mean is 5/8.
    found = estimate([1, 1, 0, 0, 1, 0, 1, 1], subjects_I=list("aaaabbcc"))
    assert found.value == pytest.approx(2 / 3)
    assert found.standard_error == pytest.approx(math.sqrt(1 / 27))


def test_a_subject_of_one_instance_takes_the_spread_of_all():
    # a: 1, 0: s^2 / n = 1/4. b: 1 alone: s^2 of (1, 0, 1) = 1/3. SE^2 = (1/4 + 1/3) / 4.
    found = estimate([1, 0, 1], subjects_I=["a", "a", "b"])
    assert found.standard_error == pytest.approx(math.sqrt((1 / 4 + 1 / 3) / 4))


def test_one_instance_alone_knows_the_least():
    assert estimate([1.0]).standard_error == 0.5
    assert paired([0.0], [1.0]).verdict == "no gain"


def test_equal_weights_and_one_subject_change_nothing():
    values = np.random.default_rng(0).random(40)
    plain = estimate(values)
    for other in (estimate(values, weights_I=[3] * 40), estimate(values, subjects_I=["s"] * 40)):
        assert other.value == pytest.approx(plain.value)
        assert other.standard_error == pytest.approx(plain.standard_error)


@pytest.mark.parametrize(
    ("num_right", "n", "low", "high"),
    # scipy 1.17.1, binomtest(k, n).proportion_ci(method="wilson").
    [
        (0, 8, 0.000000000000, 0.324407564884),
        (7, 10, 0.396778147461, 0.892208732594),
        (1187, 1319, 0.882549255247, 0.914976399068),
        (541, 541, 0.992949400677, 1.000000000000),
    ],
)
def test_wilson_agrees_with_scipy(num_right: int, n: int, low: float, high: float):
    assert wilson(num_right, n) == pytest.approx((low, high), abs=1e-9)


def test_wilson_mirrors():
    low, high = wilson(3, 20)
    assert wilson(17, 20) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("how", [{}, {"weights_I": [1, 2] * 10}, {"subjects_I": list("abcde") * 4}])
def test_all_wrong_does_not_mean_surely_zero(how: dict):
    low, high = interval(np.zeros(20), **how)
    # Wilson for 0 of n: z^2 / (n + z^2). n is 20, (30)^2 / 50 = 18 by weight, 20 by subject.
    n, z = 18 if "weights_I" in how else 20, 1.959964
    assert (low, high) == (0.0, pytest.approx(z**2 / (n + z**2), rel=1e-6))
    assert interval(np.ones(20), **how) == pytest.approx((1 - high, 1.0))


def test_the_bootstrap_of_a_mean_is_about_normal():
    values = np.random.default_rng(0).random(400)
    found = estimate(values)
    low, high = interval(values)
    # The ends of 10,000 resamples have a standard error of about 0.03 of the mean's.
    assert low == pytest.approx(found.value - 1.96 * found.standard_error, abs=0.1 * 0.0145)
    assert high == pytest.approx(found.value + 1.96 * found.standard_error, abs=0.1 * 0.0145)


def test_the_bootstrap_keeps_the_spread_of_small_subjects():
    # Twenty subjects of two, twenty of one: drawing 2 of 2 would halve the variance of the first,
    # and 1 of 1 would give the others none.
    values = np.random.default_rng(0).integers(0, 2, 60) * 1.0
    subjects = [f"pair{i % 20}" for i in range(40)] + [f"lone{i}" for i in range(20)]
    low, high = interval(values, subjects_I=subjects)
    error = estimate(values, subjects_I=subjects).standard_error
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_a_plain_proportion_gets_wilsons_interval():
    assert interval(ones(9, 1)) == wilson(9, 10)


def test_the_seed_fixes_the_interval():
    values = np.random.default_rng(0).random(500)
    assert interval(values, seed=1) == interval(values, seed=1) != interval(values, seed=2)


def test_rows_drawn_and_kinds_counted_give_one_law():
    # Eleven kinds of row are counted by kind; made unlike by a trifle, rows are drawn one by one.
    rounded = np.round(np.random.default_rng(0).random(300), 1)
    error = estimate(rounded).standard_error
    unlike = rounded * (1 - np.arange(300) * 1e-9)
    assert interval(unlike) == pytest.approx(interval(rounded), abs=0.15 * error)


def test_intervals_cover_the_truth_in_95_of_100_cases():
    """Three means, 400 times each: 95 % give or take 1.1 points, so 91.5 to 98.5 is 3 of these."""
    rng = np.random.default_rng(5)
    weights = rng.integers(1, 4, 60)
    subjects = [f"s{i % 12}" for i in range(60)]  # Five instances each.
    rates = np.linspace(0.2, 0.95, 12)[np.arange(60) % 12]
    hits = {"plain": 0, "weights": 0, "subjects": 0}
    for _ in range(400):
        right = (rng.random(60) < 0.9) * 1.0
        low, high = interval(right)
        hits["plain"] += low <= 0.9 <= high
        halves = rng.integers(0, 3, 60) / 2
        low, high = interval(halves, weights_I=weights, num_resamples=1000)
        hits["weights"] += low <= 0.5 <= high
        low, high = interval(
            (rng.random(60) < rates) * 1.0, subjects_I=subjects, num_resamples=1000
        )
        hits["subjects"] += low <= rates[:12].mean() <= high
    assert all(0.915 <= hit / 400 <= 0.985 for hit in hits.values()), hits


def test_standard_errors_are_the_spread_of_repeated_measurements():
    rng = np.random.default_rng(6)
    rates = np.array([0.1, 0.5, 0.9])[np.arange(90) % 3]
    subjects = [str(i % 3) for i in range(90)]
    drawn = [(rng.random(90) < rates) * 1.0 for _ in range(2000)]
    found = [estimate(values, subjects_I=subjects) for values in drawn]
    spread = np.std([each.value for each in found])
    mean_error = np.sqrt(np.mean([each.standard_error**2 for each in found]))
    # A standard deviation from 2,000 values is right to 1.6 %.
    assert mean_error == pytest.approx(spread, rel=0.05)
    # Between subjects lies most of the spread of instances; a plain error would count it.
    assert np.mean([estimate(values).standard_error for values in drawn]) > 1.2 * spread


def test_a_paired_difference_by_hand():
    # Ten instances: 1 was broken, 3 mended, 6 stay. Mean 0.2. Squares: 4. s^2 = (4 - 10 * 0.04) / 9
    # = 0.4, SE = sqrt(0.04) = 0.2. McNemar: 2 * (1 + 4) / 16 = 0.625.
    before = [1, 0, 0, 0, 1, 1, 1, 0, 0, 0]
    after = [0, 1, 1, 1, 1, 1, 1, 0, 0, 0]
    found = paired(before, after)
    assert found.difference == pytest.approx(0.2)
    assert found.standard_error == pytest.approx(0.2)
    assert found.p_value == pytest.approx(0.625)
    assert found.low < 0 < found.high
    assert found.verdict == "no gain" and found.is_paired


def test_pairs_see_what_means_alone_do_not():
    # 60 of 100, and the same 60 and 10 more: SE 0.03 paired, 0.067 unpaired.
    before, after = ones(60, 40), ones(70, 30)
    assert paired(before, after).verdict == "gain"
    assert paired(after, before).verdict == "loss"
    assert unpaired(estimate(before), estimate(after)).verdict == "no gain"


def test_four_heads_in_a_row_are_no_gain():
    # d = 0.04, SE = sqrt((4 - 0.16) / 99 / 100) = 0.0197: 2.03 of them. McNemar: 2 / 16.
    found = paired(ones(0, 100), ones(4, 96))
    assert found.difference > 2 * found.standard_error and found.p_value == pytest.approx(0.125)
    assert found.verdict == "no gain"


def test_a_gain_takes_two_standard_errors():
    least = Difference(0.02, 0.01, 0.001, 0.04, 100, p_value=0.03, is_paired=True)
    assert least.verdict == "gain" and replace(least, difference=-0.02).verdict == "loss"
    assert replace(least, difference=0.0199).verdict == "no gain"


def test_the_same_answers_are_no_gain_and_not_surely_alike():
    found = paired(ones(5, 5), ones(5, 5))
    assert (found.difference, found.p_value, found.verdict) == (0, 1, "no gain")
    assert found.low == -found.high < 0


@pytest.mark.parametrize(
    ("mended", "broken", "p_value"),
    # scipy 1.17.1, binomtest(mended, mended + broken).pvalue.
    [
        (0, 0, 1),
        (3, 1, 0.625),
        (6, 0, 0.03125),
        (20, 10, 0.0987371467054),
        (70, 38, 0.00268469804128),
        (400, 300, 0.000178476314486),
    ],
)
def test_mcnemar_agrees_with_scipy(mended: int, broken: int, p_value: float):
    assert mcnemar(mended, broken) == pytest.approx(p_value, rel=1e-9)
    assert mcnemar(broken, mended) == mcnemar(mended, broken)


def test_signs_of_0_1_values_are_mcnemars_coins():
    # Weights of 1 take the way of sign flips: all 2^8 of them, and a sample of 2^30.
    before, after = ones(2, 38), np.concatenate([np.zeros(2), ones(6, 32)])
    exact = paired(before, after).p_value
    assert exact == pytest.approx(mcnemar(6, 2))
    assert paired(before, after, weights_I=[1] * 40).p_value == pytest.approx(exact)
    before, after = ones(10, 50), np.concatenate([np.zeros(10), ones(20, 30)])
    exact = mcnemar(20, 10)  # 0.0987
    # A share of 10,000 near 0.1 has a standard error of 0.003.
    assert paired(before, after, weights_I=[1] * 60).p_value == pytest.approx(exact, abs=0.01)


def test_chance_alone_is_called_a_gain_in_few_of_100_cases():
    rng = np.random.default_rng(7)
    weights = rng.integers(1, 4, 80)
    calls = {"plain": 0, "weights": 0}
    for _ in range(200):
        before, after = rng.integers(0, 2, (2, 80))
        calls["plain"] += paired(before, after).is_gain
        calls["weights"] += paired(before, after, weights_I=weights).is_gain
    # 5 % at most, and 3 points are two standard errors of 200 cases; never calling is no test.
    assert all(0.01 <= called / 200 <= 0.08 for called in calls.values()), calls


def test_a_published_mean_has_the_binomial_error():
    # 0.9 * 0.1 / 1319 = 6.823e-5, its root 0.00826.
    assert proportion(0.9, 1319).standard_error == pytest.approx(0.00826, abs=5e-6)
    # Against itself: sqrt(2) times that, 0.01168; 2.8016 of these are 3.27 points.
    assert smallest_difference(unpaired_error(0.9, 1319)) == pytest.approx(0.0327, abs=5e-5)


def test_unpaired_by_hand():
    # 0.6 and 0.8 of 100: SE^2 = 0.0024 + 0.0016 = 0.004, z = 0.2 / 0.06325 = 3.162, p = 0.00157.
    found = unpaired(proportion(0.6, 100), proportion(0.8, 100))
    assert found.standard_error == pytest.approx(math.sqrt(0.004))
    assert found.p_value == pytest.approx(0.00157, abs=5e-6)
    half = 1.96 * math.sqrt(0.004)
    assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half), abs=1e-5)
    assert found.verdict == "gain" and not found.is_paired


def test_the_smallest_difference_is_found_in_8_of_10_cases():
    rng = np.random.default_rng(8)
    error = 0.01
    shown = smallest_difference(error) + error * rng.standard_normal(20_000)
    # 80 % give or take 0.3 points. The other side of 0 adds nothing.
    assert (np.abs(shown) >= 1.959964 * error).mean() == pytest.approx(0.8, abs=0.01)
    assert smallest_difference(1.0) == pytest.approx(2.8016, abs=1e-4)


EXACT = settings(deadline=None, max_examples=100, derandomize=True)
SAMPLES = st.integers(1, 200).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))
)


@EXACT
@given(SAMPLES)
def test_pass_at_k_is_the_ratio_of_binomials(case: tuple[int, int, int]):
    n, c, k = case
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-12)


@EXACT
@given(SAMPLES)
def test_more_tries_never_hurt(case: tuple[int, int, int]):
    n, c, _ = case
    chances = [pass_at_k(n, c, k) for k in range(1, n + 1)]
    assert chances == sorted(chances)
    assert chances[0] == pytest.approx(c / n) and chances[-1] == (c > 0)


def test_pass_at_k_takes_arrays():
    # n = 4, c = 2, k = 2: 1 - C(2, 2) / C(4, 2) = 5/6.
    assert pass_at_k(4, [0, 2, 3, 4], 2) == pytest.approx([0, 5 / 6, 1, 1])
    assert pass_at_k([4, 2], [2, 1], 1) == pytest.approx([0.5, 0.5])
    assert avg_at_k([[1, 0], [1, 1]]) == pytest.approx([0.5, 1])


def test_pass_at_k_wants_k_samples():
    with pytest.raises(RecipeError, match=r"pass@10 needs 10 samples .* one has 4"):
        pass_at_k([20, 4], [1, 1], 10)


@pytest.mark.parametrize(
    "call",
    [
        lambda: paired([1, 0], [1]),
        lambda: estimate([]),
        lambda: estimate([0.5, float("nan")]),
        lambda: estimate([90.0]),
        lambda: estimate([1, 0], weights_I=[1]),
        lambda: estimate([1, 0], subjects_I=["a"]),
    ],
)
def test_what_cannot_be_averaged_is_refused(call):
    with pytest.raises(AssertionError):
        call()
