"""Paired statistics agree with values done by hand, with slow plain references and with scipy."""

import itertools
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import permutation_test

from raysearch.reports.statistics import better, bootstrap_interval, holm, rests_on, sign_flip_p, t_interval


def test_t_interval_of_three_differences_matches_hand_values():
    # mean 2, standard deviation 1, t of 2 degrees of freedom 4.302653
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx([2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5])
    assert t_interval([0.5, 0.5]) == [0.5, 0.5]
    assert t_interval([0.5]) is None


def test_t_interval_of_several_comparisons_uses_bonferroni():
    # t of 4 degrees of freedom: 2.776445 at 1 - 0.05 / 2, 4.604095 at 1 - 0.01 / 2
    d = [0.0, 1.0, 2.0, 3.0, 4.0]
    error = (2.5 / 5) ** 0.5
    assert t_interval(d, 1) == pytest.approx([2 - 2.776445 * error, 2 + 2.776445 * error], abs=1e-5)
    assert t_interval(d, 5) == pytest.approx([2 - 4.604095 * error, 2 + 4.604095 * error], abs=1e-5)


@pytest.mark.parametrize(
    ("d", "p"),
    [
        ([1.0, 2.0, 3.0], 2 / 8),  # only all plus and all minus are as far from 0
        ([3.0, 1.0, -1.0], 6 / 8),  # sums 5, 3, 3, 1 and their negatives
        ([1.0, 2.0, -3.0], 1.0),
        ([0.1, 0.1, 0.1, 0.1, 0.1], 2 / 32),
        ([0.0, 0.0, 0.5], 1.0),
        ([0.2], 1.0),
        ([], None),
    ],
)
def test_sign_flip_p_matches_hand_counts(d, p):
    assert sign_flip_p(d) == p


def test_sign_flip_p_enumerates_all_sign_patterns():
    rng = np.random.default_rng(0)
    for n in (4, 9):
        d = rng.normal(0.5, 1, n)
        sums = [abs(np.dot(signs, d)) for signs in itertools.product([1, -1], repeat=n)]
        assert sign_flip_p(d) == np.mean(np.array(sums) >= abs(d.sum()) - 1e-12)


def test_sign_flip_p_without_ties_equals_scipy_exactly():
    rng = np.random.default_rng(2)
    for n in (2, 3, 5, 8, 11):
        d = rng.normal(0.01, 0.02, n)
        expected = permutation_test((d,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
        assert sign_flip_p(d) == expected


def test_sampled_sign_flip_p_approximates_the_exact_value():
    d = np.random.default_rng(1).normal(0.5, 1, 14)
    signs = 1 - 2 * (np.arange(2**14)[:, None] >> np.arange(14) & 1)
    exact = np.mean(np.abs(signs @ d) >= abs(d.sum()) - 1e-12)
    assert sign_flip_p(d) == pytest.approx(exact, abs=0.01)
    assert sign_flip_p(d) == sign_flip_p(list(d))
    assert sign_flip_p(np.full(40, 0.1)) == 1 / 10_000  # the scores as they came are among what was drawn


def test_holm_matches_hand_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.7]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


def reference_bca(d: np.ndarray, draws: int = 20_000) -> list[float]:
    """Efron 1987, equations 2.3, 6.6 and 6.7, as printed."""
    normal, rng, n = NormalDist(), np.random.default_rng(9), len(d)
    means = np.sort([rng.choice(d, n).mean() for _ in range(draws)])
    z0 = normal.inv_cdf((np.mean(means < d.mean()) + np.mean(means <= d.mean())) / 2)
    left_out = np.array([np.delete(d, i).mean() for i in range(n)])
    u = left_out.mean() - left_out
    a = (u**3).sum() / (6 * (u**2).sum() ** 1.5)
    ends = []
    for share in (0.025, 0.975):
        z = z0 + normal.inv_cdf(share)
        ends.append(float(np.quantile(means, normal.cdf(z0 + z / (1 - a * z)))))
    return ends


def test_bootstrap_interval_agrees_with_reference_bca():
    d = np.random.default_rng(3).gamma(2.0, 1.0, 15)
    low, high = reference_bca(d)
    assert bootstrap_interval(d) == pytest.approx([low, high], abs=0.03 * (high - low))
    assert bootstrap_interval(d) == bootstrap_interval(list(d))


def test_bootstrap_interval_of_constant_differences_is_a_point():
    assert bootstrap_interval([0.1, 0.1, 0.1]) == [pytest.approx(0.1)] * 2
    assert bootstrap_interval([0.0, 0.0, 0.0]) == [0.0, 0.0]
    assert bootstrap_interval([0.1, 0.2]) is None


def test_verdict_with_few_seeds_rests_on_the_interval():
    assert [rests_on(n) for n in (2, 5, 6, 12)] == ["interval", "interval", "p_holm", "p_holm"]
    assert [rests_on(n, 4) for n in (6, 7, 8)] == ["interval", "interval", "p_holm"]


def test_better_requires_p_value_or_interval():
    assert better([0.10, 0.10, 0.09, 0.11, 0.10], 2 / 32) == 1
    assert better([-0.10, -0.10, -0.09, -0.11, -0.10], 2 / 32) == -1
    assert better([0.10, 0.10, 0.10, 0.10, 0.10, 0.10, 0.10, -0.001], 0.06) == 0
    assert better([0.10, 0.20, 0.10, 0.10, 0.10, 0.10, 0.10, 0.10], 2 / 256) == 1
    low, _ = t_interval(d := [0.1, 0.1, 0.1, 0.1, -0.001]) or [0, 0]
    assert low > 0
    assert better(d, sign_flip_p(d)) == 0  # one seed says otherwise
    assert better([0.1], 1.0) == 0


@pytest.mark.parametrize(("seeds", "arms"), [(5, 1), (6, 1), (5, 4), (8, 4)])
def test_better_false_positive_rate_is_at_most_5_percent(seeds, arms):
    """A/A: every score is the seed's luck and the run's own; in 1000 studies few find any difference at all."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(1000):
        luck = rng.normal(0, 0.02, seeds)
        winner, *others = luck + rng.normal(0, 0.01, (1 + arms, seeds))
        d = [winner - other for other in others]
        corrected = holm([sign_flip_p(each) for each in d])
        wrong += any(better(each, p, arms) for each, p in zip(d, corrected, strict=True))
    assert wrong <= 50


def test_sign_flip_false_positive_rate_is_at_most_5_percent():
    """The same for p alone, without chance: under no difference every pattern of signs is as likely."""
    for size in np.random.default_rng(0).gamma(1.0, 0.01, (5, 8)):
        patterns = [size * signs for signs in itertools.product([1, -1], repeat=8)]
        assert np.mean([better(d, sign_flip_p(d)) != 0 for d in patterns]) <= 0.05


def test_better_detects_a_real_difference():
    rng, detected = np.random.default_rng(5), 0
    for _ in range(200):
        d = rng.normal(0.03, 0.01, 5)
        detected += better(d, sign_flip_p(d)) == 1
    assert detected > 180
