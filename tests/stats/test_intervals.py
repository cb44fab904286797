"""Intervals and tests against their textbook formulas."""

from __future__ import annotations

from math import comb, sqrt

import numpy as np
import pytest
from scipy import stats as sps

from corrsteer.stats import intervals
from corrsteer.stats.intervals import mcnemar_exact, paired_bootstrap_ci, proportion_ci


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (1, 1), (7, 20), (426, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_formula(k, n, level):
    z = sps.norm.ppf((1 + level) / 2)
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert proportion_ci(k, n, level) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_wilson_published_value():
    """Newcombe (1998), table I: 81 of 263 is 0.3080, interval 0.2553 to 0.3662."""
    assert proportion_ci(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_a_fractional_count_is_refused():
    with pytest.raises(TypeError):
        proportion_ci(3.5, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize(("fixed", "broken"), [(1, 0), (3, 3), (12, 5), (5, 12), (221, 0)])
def test_mcnemar_formula(fixed, broken):
    n = fixed + broken
    tail = sum(comb(n, i) for i in range(min(fixed, broken) + 1)) / 2**n
    assert mcnemar_exact(fixed, broken) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


def test_mcnemar_without_flips():
    assert mcnemar_exact(0, 0) == 1.0


def test_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(0)
    base, steered = rng.random(150), rng.random(150) + 0.1
    got = paired_bootstrap_ci(base, steered, seed=1, draws=20_000)
    want = sps.bootstrap(
        (base, steered),
        lambda a, b, axis: np.mean(b - a, axis=axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    standard_error = np.std(steered - base) / sqrt(150)
    assert got == pytest.approx(want, abs=0.05 * standard_error)


@pytest.mark.parametrize(("wins", "n"), [(1, 4), (3, 7), (13, 20)])
def test_bootstrap_of_zeros_and_ones_is_binomial(wins, n):
    steered = (np.arange(n) >= n - wins).astype(float)
    got = paired_bootstrap_ci(np.zeros(n), steered, seed=0, draws=20_000)
    assert got == pytest.approx(sps.binom.ppf([0.025, 0.975], n, wins / n) / n, abs=1e-12)


def test_bootstrap_uses_the_pairing():
    """A gain of exactly 0.25 on every sample has no spread, however much the scores vary."""
    base = np.random.default_rng(0).integers(0, 3, size=40) / 4
    assert paired_bootstrap_ci(base, base + 0.25, seed=0) == (0.25, 0.25)


def test_bootstrap_has_a_sign_a_level_and_a_seed():
    rng = np.random.default_rng(0)
    base = (rng.random(200) < 0.3).astype(float)
    steered = (rng.random(200) < 0.7).astype(float)
    low, high = paired_bootstrap_ci(base, steered, seed=0)
    assert 0 < low < np.mean(steered - base) < high
    narrow = paired_bootstrap_ci(base, steered, seed=0, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert paired_bootstrap_ci(base, steered, seed=0) == (low, high)
    assert paired_bootstrap_ci(base, steered, seed=1) != (low, high)


def test_bootstrap_blocks_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    base, steered = rng.random(33), rng.random(33)
    whole = paired_bootstrap_ci(base, steered, seed=3, draws=100)
    monkeypatch.setattr(intervals, "_BLOCK", 33 * 7)
    assert paired_bootstrap_ci(base, steered, seed=3, draws=100) == whole


def test_bootstrap_needs_pairs():
    with pytest.raises(AssertionError):
        paired_bootstrap_ci(np.zeros(3), np.zeros(1), seed=0)
