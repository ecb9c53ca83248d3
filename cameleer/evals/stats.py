"""How sure a score is: standard errors, intervals, paired differences and pass@k.

Instances are what is drawn at random, so several samples of one are first averaged and count once.
Miller 2024 (arXiv:2411.00640) gives the reasons, for language models. All values lie in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cameleer.errors import RecipeError

Floats = NDArray[np.float64]
Members = list[NDArray[np.intp]] | None

NUM_RESAMPLES = 10_000
"""Resamples behind an interval, and sign flips behind a p-value."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over instances, and how far chance moves it."""

    value: float
    standard_error: float
    num_instances: int


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better the second of two results is."""

    difference: float
    standard_error: float
    low: float
    high: float
    """The interval that holds the true difference in 95 of 100 cases."""
    num_instances: int
    p_value: float
    """Two-sided: how often chance alone makes a difference as large as this."""
    is_paired: bool

    @property
    def is_gain(self) -> bool:
        """Whether chance does not explain it, a loss included: 2 standard errors and p < 0.05.

        The test is asked too because the standard error misleads where few answers differ: 4 of
        100 mended and none broken are 2.03 standard errors, and four heads in a row (p = 0.125).
        """
        return abs(self.difference) >= 2 * self.standard_error and self.p_value < 0.05

    @property
    def verdict(self) -> Literal["gain", "loss", "no gain"]:
        if not self.is_gain:
            return "no gain"
        return "gain" if self.difference > 0 else "loss"


def estimate(
    values_I: ArrayLike,
    weights_I: ArrayLike | None = None,
    subjects_I: Sequence[str] | None = None,
) -> Estimate:
    """The mean over instances, over instances by weight, or of the subjects' means.

    The standard error is

    * s / sqrt(n) of a plain mean;
    * of a mean m by weight, such as the parts of an instance, that of a ratio, linearised (Cochran
      1977, Sampling Techniques, chapter 6): sqrt(n / (n - 1) sum w_i^2 (v_i - m)^2) / sum w_i;
    * sqrt(sum_g s_g^2 / n_g) / G of the mean of G subjects' means (ibid. chapter 5). A subject of
      one instance shows no spread: it takes the s^2 of all instances, which is rather too large,
      since subjects differ too.

    One instance alone gets 0.5, the most that a value in [0, 1] can have.
    """
    values_I = _checked(values_I)
    return _estimate(values_I, *_groups(len(values_I), weights_I, subjects_I), widest=0.5)


def proportion(value: float, num_instances: int) -> Estimate:
    """A published mean without its instances: binomial standard error, sqrt(p (1 - p) / n).

    Exact for 0/1 values. Other values in [0, 1] have no larger one.
    """
    return Estimate(value, math.sqrt(value * (1 - value) / num_instances), num_instances)


def interval(
    values_I: ArrayLike,
    weights_I: ArrayLike | None = None,
    subjects_I: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Low and high end of the confidence interval of `estimate`'s value.

    A plain mean of 0/1 values gets Wilson's: it covers better than the bootstrap near 0 and 1
    (Brown, Cai, DasGupta 2001, Statistical Science 16:101), and is not [0, 0] where all are wrong.
    Everything else gets the percentile bootstrap over instances (Efron 1979), within subjects where
    there are subjects. It draws n - 1 of n (Rao, Wu 1988, JASA 83:231), which makes its variance
    that of `estimate` in small subjects too.
    """
    values_I = _checked(values_I)
    if weights_I is None and subjects_I is None and _are_binary(values_I):
        return wilson(int(values_I.sum()), len(values_I), level)
    groups = _groups(len(values_I), weights_I, subjects_I)
    rng = np.random.default_rng(seed)
    return _bootstrap(values_I, *groups, (0.0, 1.0), level, num_resamples, rng)


def wilson(num_right: int, num_instances: int, level: float = 0.95) -> tuple[float, float]:
    """The score interval of a proportion (Wilson 1927, JASA 22:209)."""
    z, n = NormalDist().inv_cdf((1 + level) / 2), num_instances
    p = num_right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # Exact at the ends, where rounding would leave 1e-18.
    return (
        0.0 if num_right == 0 else centre - half,
        1.0 if num_right == num_instances else centre + half,
    )


def paired(
    before_I: ArrayLike,
    after_I: ArrayLike,
    weights_I: ArrayLike | None = None,
    subjects_I: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> Difference:
    """The difference of two results on the same instances, in the same order.

    Standard error and interval are those of the instances' differences, by the formulas of
    `estimate` and `interval`. The test is exact McNemar's for 0/1 values in a plain mean: of the
    instances that changed, as many mended as broken is what chance would do (McNemar 1947, with
    the binomial itself). Other values get the permutation test that this is a case of: each
    difference may as well have had the other sign.
    """
    before_I, after_I = _checked(before_I), _checked(after_I)
    assert before_I.shape == after_I.shape, f"{before_I.shape} values before, {after_I.shape} after"
    change_I = after_I - before_I
    groups = _groups(len(change_I), weights_I, subjects_I)
    found = _estimate(change_I, *groups, widest=1.0)
    rng = np.random.default_rng(seed)
    low, high = _bootstrap(change_I, *groups, (-1.0, 1.0), 0.95, NUM_RESAMPLES, rng)
    is_plain = weights_I is None and subjects_I is None
    if is_plain and _are_binary(before_I) and _are_binary(after_I):
        p_value = mcnemar(int((change_I > 0).sum()), int((change_I < 0).sum()))
    else:
        p_value = _sign_flip(_shares(*groups) * change_I, rng)
    return Difference(
        difference=found.value,
        standard_error=found.standard_error,
        low=low,
        high=high,
        num_instances=found.num_instances,
        p_value=p_value,
        is_paired=True,
    )


def unpaired(before: Estimate, after: Estimate) -> Difference:
    """The difference of two results of which only the means are known, taken as independent.

    Normal interval and test, with the root of the summed squares of both standard errors.
    """
    difference = after.value - before.value
    error = math.hypot(before.standard_error, after.standard_error)
    half = NormalDist().inv_cdf(0.975) * error
    z = abs(difference) / error if error else math.inf if difference else 0.0
    return Difference(
        difference=difference,
        standard_error=error,
        low=max(difference - half, -1.0),
        high=min(difference + half, 1.0),
        num_instances=min(before.num_instances, after.num_instances),
        p_value=math.erfc(z / math.sqrt(2)),
        is_paired=False,
    )


def mcnemar(num_mended: int, num_broken: int) -> float:
    """Twice the chance of at most the smaller count among so many fair coins, at most 1."""
    n, term, tail = num_mended + num_broken, 1, 0
    for i in range(min(num_mended, num_broken) + 1):
        tail += term
        term = term * (n - i) // (i + 1)
    # Whole numbers of any size, so nothing underflows.
    return min(1.0, float(2 * tail / 2**n))


def smallest_difference(standard_error: float, *, power: float = 0.8, level: float = 0.05) -> float:
    """The true difference that a comparison with this standard error finds in 8 of 10 cases.

    It is 2.80 standard errors: z(0.975) = 1.96, so that a two-sided test at 5 % calls it one, and
    z(0.80) = 0.84 more, so that it does in 80 % of cases and not in half of them (as in Miller
    2024). The standard error is that of the difference: a measured paired one, or `unpaired_error`.
    """
    z = NormalDist().inv_cdf
    return (z(1 - level / 2) + z(power)) * standard_error


def unpaired_error(accuracy: float, num_instances: int) -> float:
    """Standard error of the difference of two unpaired results near one accuracy."""
    return math.sqrt(2) * proportion(accuracy, num_instances).standard_error


def pass_at_k(num_samples: ArrayLike, num_right: ArrayLike, k: int) -> Any:
    """The chance that one of k samples is right, from n samples of which c are (unbiased).

    1 - C(n - c, k) / C(n, k), as a product of k factors that cannot overflow (Chen et al. 2021,
    arXiv:2107.03374, eq. 1). Of arrays, an array; its mean over instances is the score.

    Raises:
        RecipeError: An instance has fewer than k samples.
    """
    n, c = np.broadcast_arrays(np.asarray(num_samples), np.asarray(num_right))
    assert k >= 1 and (c >= 0).all() and (c <= n).all(), f"k {k}, {c} right of {n}"
    if n.min() < k:
        raise RecipeError(
            f"pass@{k} needs {k} samples of each instance, and one has {n.min()}. Take more "
            "samples, or a smaller k."
        )
    all_wrong = np.ones(n.shape)
    for drawn in range(k):
        # Factors below 0 come after the 0 of n - c samples drawn.
        all_wrong = all_wrong * (n - c - drawn) / (n - drawn)
    return (1 - all_wrong)[()]


def avg_at_k(values_IK: ArrayLike) -> Floats:
    """The mean over an instance's k samples, for each instance: avg@k is its mean."""
    means_I: Floats = np.asarray(values_IK, dtype=np.float64).mean(axis=1)
    return means_I


def _checked(values: ArrayLike) -> Floats:
    values_I = np.asarray(values, dtype=np.float64)
    assert values_I.ndim == 1 and len(values_I), f"values of shape {values_I.shape}"
    assert ((values_I >= 0) & (values_I <= 1)).all(), "a value outside [0, 1]"
    return values_I


def _groups(
    n: int, weights: ArrayLike | None, subjects: Sequence[str] | None
) -> tuple[Floats, Members]:
    """A weight for each instance, and the places of each subject's instances or None."""
    assert weights is None or subjects is None, "a mean is by weight or over subjects"
    weights_I = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    assert weights_I.shape == (n,) and (weights_I > 0).all(), "a weight above 0 for each value"
    if subjects is None:
        return weights_I, None
    assert len(subjects) == n, "a subject for each value"
    names, which_I = np.unique(np.asarray(subjects), return_inverse=True)
    return weights_I, [np.flatnonzero(which_I == g) for g in range(len(names))]


def _are_binary(values_I: Floats) -> bool:
    return bool(((values_I == 0) | (values_I == 1)).all())


def _shares(weights_I: Floats, members: Members) -> Floats:
    """How much of the mean each instance is. They sum to 1."""
    shares_I: Floats = weights_I / weights_I.sum()
    if members is None:
        return shares_I
    for places in members:
        shares_I[places] = 1 / (len(members) * len(places))
    return shares_I


def _estimate(values_I: Floats, weights_I: Floats, members: Members, widest: float) -> Estimate:
    n = len(values_I)
    shares_I = _shares(weights_I, members)
    value = round(float(shares_I @ values_I), 12)  # All right is 1, not 0.9999999999999997.
    if n == 1:
        return Estimate(value, widest, n)
    if members is None:
        variance = n / (n - 1) * float(shares_I**2 @ (values_I - value) ** 2)
    else:
        of_all = values_I.var(ddof=1)
        spread = (values_I[g].var(ddof=1) / len(g) if len(g) > 1 else of_all for g in members)
        variance = float(sum(spread)) / len(members) ** 2
    return Estimate(value, math.sqrt(variance), n)


def _bootstrap(
    values_I: Floats,
    weights_I: Floats,
    members: Members,
    bounds: tuple[float, float],
    level: float,
    num_resamples: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    if (values_I == values_I[0]).all():
        # Resamples of equal values are all alike. As many others as Wilson's interval allows where
        # none of n was seen may exist all the same (n by Kish 1965: 1 / sum of squared shares).
        shares_I = _shares(weights_I, members)
        z = NormalDist().inv_cdf((1 + level) / 2)
        reach = z * z / (1 / float(shares_I @ shares_I) + z * z)
        low, high = values_I[0] - reach, values_I[0] + reach
    else:
        means_R = _resampled_means(values_I, weights_I, members, num_resamples, rng)
        low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return max(float(low), bounds[0]), min(float(high), bounds[1])


def _resampled_means(
    values_I: Floats,
    weights_I: Floats,
    members: Members,
    num_resamples: int,
    rng: np.random.Generator,
) -> Floats:
    if members is None:
        columns_IC = np.stack([weights_I * values_I, weights_I], axis=1)
        sums_RC = _resampled_sums(columns_IC, len(values_I) - 1, num_resamples, rng)
        means_R: Floats = sums_RC[:, 0] / sums_RC[:, 1]
        return means_R
    sums_R: Floats = np.zeros(num_resamples)
    deviations_I = values_I - values_I.mean()
    for places in members:
        if len(places) > 1:
            drawn_I, num_draws = values_I[places], len(places) - 1
        else:  # Its own value, with the spread of all, as in `estimate`.
            drawn_I, num_draws = values_I[places] + deviations_I, 1
        sums_R += _resampled_sums(drawn_I[:, None], num_draws, num_resamples, rng)[:, 0] / num_draws
    sums_R /= len(members)
    return sums_R


def _resampled_sums(
    columns_IC: Floats, num_draws: int, num_resamples: int, rng: np.random.Generator
) -> Floats:
    """Sums of the columns over rows drawn with replacement, for each resample."""
    kinds_KC, counts_K = np.unique(columns_IC, axis=0, return_counts=True)
    if len(kinds_KC) <= min(256, num_draws // 8):
        # How often each kind of row is drawn has a law of its own, so no row need be.
        drawn_RK = rng.multinomial(num_draws, counts_K / counts_K.sum(), size=num_resamples)
        return np.asarray(drawn_RK @ kinds_KC)
    sums_RC = np.empty((num_resamples, columns_IC.shape[1]))
    for rows in _chunks(num_resamples, num_draws):
        places = rng.integers(
            len(columns_IC), size=(rows.stop - rows.start, num_draws), dtype=np.int32
        )
        for c, column_I in enumerate(columns_IC.T):
            sums_RC[rows, c] = column_I[places].sum(axis=1)
    return sums_RC


def _sign_flip(parts_I: Floats, rng: np.random.Generator) -> float:
    """How often random signs make a sum as far from 0 as the given ones.

    All signs where they are few, else a sample that counts the given ones as one of it, so that
    the p-value is never 0 (Phipson, Smyth 2010, doi:10.2202/1544-6115.1585).
    """
    parts = parts_I[parts_I != 0]
    n = len(parts)
    total = parts.sum()
    # Sums of equal parts in another order differ in their last bits.
    least = abs(total) - 1e-9 * np.abs(parts).sum()
    if 2**n <= NUM_RESAMPLES:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float((np.abs(2 * (bits @ parts) - total) >= least).mean())
    as_far = 1
    for rows in _chunks(NUM_RESAMPLES, n):
        bits = rng.integers(2, size=(rows.stop - rows.start, n), dtype=np.int8)
        as_far += int((np.abs(2 * (bits @ parts) - total) >= least).sum())
    return as_far / (1 + NUM_RESAMPLES)


def _chunks(num_rows: int, width: int) -> list[slice]:
    """Rows in pieces of a few megabytes."""
    step = max(1, 300_000 // max(width, 1))
    return [slice(at, min(at + step, num_rows)) for at in range(0, num_rows, step)]
