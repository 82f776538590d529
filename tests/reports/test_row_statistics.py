"""Statistics over rows agree with the libraries that have them, and their intervals hold the truth often enough."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from raysearch.reports import row_statistics as rs

RNG = np.random.default_rng(3)


def grid(rows: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """The row and the seed of each of rows x seeds values."""
    return np.repeat(np.arange(rows), seeds), np.tile(np.arange(seeds), rows)


@pytest.mark.parametrize(("right", "rows"), [(0, 4), (3, 7), (40, 41), (50, 50)])
def test_share_interval_of_one_seed_is_wilsons(right, rows):
    expected = stats.binomtest(right, rows).proportion_ci(0.95, method="wilson")
    assert rs.share_interval([right / rows], rows) == pytest.approx([expected.low, expected.high], abs=1e-12)


def test_share_interval_does_not_narrow_with_equal_seeds():
    one, five = rs.share_interval([0.6], 50), rs.share_interval([0.6] * 5, 50)
    assert five == pytest.approx(one)


def test_share_interval_is_wider_where_seeds_differ():
    equal, different = rs.share_interval([0.6] * 3, 500), rs.share_interval([0.4, 0.6, 0.8], 500)
    assert different[1] - different[0] > 2 * (equal[1] - equal[0])
    assert rs.share_interval([], 0) is None


@pytest.mark.parametrize("seeds", [1, 3])
def test_share_interval_holds_the_share_of_all_rows(seeds):
    held, truth = 0, float(stats.norm.cdf(0.7 / np.sqrt(2.25)))  # of rows of difficulty N(0.7, 1), seeds N(0, 0.25)
    for _ in range(300):
        spread = 0.5 if seeds > 1 else 0.0
        z = 0.7 + RNG.normal(size=(60, 1)) + spread * RNG.normal(size=(60, seeds))
        right = RNG.normal(size=(60, seeds)) * np.sqrt(1.25 - spread**2) < z
        low, high = rs.share_interval(right.mean(axis=0).tolist(), 60)
        held += low <= truth <= high
    assert held / 300 > 0.92


def test_f1_interval_holds_f1_of_all_rows():
    held = 0
    y_all = RNG.random(200_000) < 0.3
    truth = f1_score(y_all, y_all ^ (RNG.random(200_000) < 0.2))
    for _ in range(300):
        y = RNG.random(80) < 0.3
        p = y ^ (RNG.random(80) < 0.2)
        either = int((y | p).sum())
        low, high = rs.f1_interval([(y & p).sum() / either], either)
        held += low <= truth <= high
    assert held / 300 > 0.92


def test_mean_interval_agrees_with_scipys_bootstrap():
    values = RNG.normal(0.1, 1.0, 150)
    low, high = rs.mean_interval(*grid(150, 1), values)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert rs.mean_interval([4, 4], [0, 1], [1.0, 2.0]) is None  # one row


def test_mean_interval_holds_the_mean_over_rows_and_seeds():
    held = 0
    for _ in range(150):
        values = RNG.normal(size=(80, 1)) + 0.15 * RNG.normal(size=(1, 4)) + RNG.normal(size=(80, 4))
        low, high = rs.mean_interval(*grid(80, 4), values.ravel())
        held += low <= 0 <= high
    assert held / 150 > 0.92


def test_f1_difference_needs_no_rows_without_the_label():
    row, seed = grid(120, 2)
    y = np.repeat(RNG.random(120) < 0.3, 2)
    a, b = y ^ (RNG.random(240) < 0.1), y ^ (RNG.random(240) < 0.4)
    low, high = rs.f1_difference_interval(row, seed, y, a, b)
    either = y | a | b
    fewer = rs.f1_difference_interval(*(part[either] for part in (row, seed, y, a, b)))
    difference = f1_score(y, a) - f1_score(y, b)
    assert low < difference < high
    assert low > 0
    assert fewer == pytest.approx([low, high], abs=0.05)
    assert rs.f1_difference_interval(row, seed, y, a, a) == [0.0, 0.0]


def test_mcnemar_p_is_the_binomial_test():
    assert rs.mcnemar_p(9, 1) == pytest.approx(stats.binomtest(1, 10).pvalue)
    assert rs.mcnemar_p(3, 3) == 1.0
    assert rs.mcnemar_p(0, 0) is None


def test_calibration_error_is_the_mean_distance_over_bins():
    assert rs.calibration_error([1, 1, 2], [0.5, -0.1, -0.3]) == pytest.approx((0.4 + 0.3) / 3)
    assert rs.calibration_error([], []) is None


@pytest.mark.parametrize("surplus", [0.0, 0.15])
def test_calibration_interval_holds_the_true_error(surplus):
    held, distinguished, row, seed = 0, 0, *grid(200, 2)
    for _ in range(60):
        right = np.repeat(RNG.uniform(0.5, 0.8, 200), 2)
        is_right = np.repeat(RNG.random(200), 2) < right
        place = np.digitize(right, np.quantile(right, np.arange(1, 10) / 10))
        confidence = right + surplus
        low, high = rs.calibration_error_interval(row, seed, place, confidence, is_right)
        held += low <= surplus <= high
        distinguished += low > 0
    assert held >= 52
    assert distinguished <= 8 if surplus == 0 else distinguished >= 55
