"""Intervals and tests against their textbook formulas."""

from __future__ import annotations

import time
from math import comb, sqrt

import numpy as np
import pytest
from scipy import stats as sps
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from corrsteer.stats import intervals
from corrsteer.stats.intervals import (
    detectable_gain,
    holm,
    mcnemar_exact,
    mean_ci,
    paired_bootstrap_ci,
    proportion_ci,
    ser_ci,
)


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


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (1, 1), (7, 20), (426, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_agrees_with_statsmodels(k, n, level):
    want = proportion_confint(k, n, alpha=1 - level, method="wilson")
    assert proportion_ci(k, n, level) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (1, 0), (3, 3), (12, 5), (5, 12), (221, 0)])
def test_mcnemar_agrees_with_statsmodels(fixed, broken):
    want = mcnemar([[40, broken], [fixed, 60]], exact=True).pvalue
    assert mcnemar_exact(fixed, broken) == pytest.approx(want, rel=1e-9)


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


@pytest.mark.parametrize("shares", [(0.1, 0.05, 0.85), (0.5, 0.3, 0.2)])
def test_bootstrap_of_flips_agrees_with_drawing_the_samples(shares, monkeypatch):
    """Three values are drawn as counts, others sample by sample: the same distribution."""
    steered = np.repeat([1.0, -1.0, 0.0], np.round(400 * np.array(shares)).astype(int))
    counted = paired_bootstrap_ci(np.zeros(400), steered, seed=0, draws=20_000)
    monkeypatch.setattr(intervals, "_KINDS", 0)
    drawn = paired_bootstrap_ci(np.zeros(400), steered, seed=0, draws=20_000)
    assert counted == pytest.approx(drawn, abs=1.01 / 400)  # means are multiples of 1 / 400


def test_bootstrap_of_flips_takes_no_time():
    right = np.arange(20_000) % 3 == 0
    start = time.perf_counter()
    paired_bootstrap_ci(right[::-1], right, seed=0)
    assert time.perf_counter() - start < 0.1


def test_the_interval_of_a_mean_is_that_of_paired_differences():
    values = np.random.default_rng(0).gamma(0.5, size=60)
    assert mean_ci(values, seed=3) == paired_bootstrap_ci(np.zeros(60), values, seed=3)
    low, high = mean_ci(values, seed=3)
    assert low < values.mean() < high
    assert mean_ci([0.25], seed=0) == (0.25, 0.25)
    with pytest.raises(AssertionError):
        mean_ci([], seed=0)


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
    scores = rng.random(200)
    assert mean_ci(scores, seed=0) == mean_ci(scores, seed=0) != mean_ci(scores, seed=1)


def test_bootstrap_blocks_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    base, steered = rng.random(33), rng.random(33)
    whole = paired_bootstrap_ci(base, steered, seed=3, draws=100)
    monkeypatch.setattr(intervals, "_BLOCK", 33 * 7)
    assert paired_bootstrap_ci(base, steered, seed=3, draws=100) == whole


def test_bootstrap_needs_pairs():
    with pytest.raises(AssertionError):
        paired_bootstrap_ci(np.zeros(3), np.zeros(1), seed=0)


@pytest.mark.parametrize(("fixed", "broken", "n"), [(25, 18, 200), (12, 10, 40)])
def test_the_interval_of_ser_agrees_with_scipys_bootstrap_of_samples(fixed, broken, n):
    before = np.r_[np.zeros(fixed), np.ones(broken), np.ones(n - fixed - broken)]
    after = np.r_[np.ones(fixed), np.zeros(broken), np.ones(n - fixed - broken)]

    def ser(a, b, axis):
        lost = ((a == 1) & (b == 0)).sum(axis=axis)
        won = ((a == 0) & (b == 1)).sum(axis=axis)
        return lost / (lost + won)

    want = sps.bootstrap(
        (before, after),
        ser,
        paired=True,
        vectorized=True,
        n_resamples=4_000,
        batch=500,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    got = ser_ci(fixed, broken, n, seed=0, draws=4_000)
    share = broken / (fixed + broken)
    error = sqrt(share * (1 - share) / (fixed + broken))
    assert got == pytest.approx(tuple(want), abs=0.25 * error)


def test_ser_without_flips_has_no_interval():
    assert ser_ci(0, 0, 10, seed=0) is None


@pytest.mark.parametrize("flipped", [1, 3, 30])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_one_sided_flips_have_the_exact_binomial_interval(flipped, level):
    """Clopper and Pearson (1934): the share that would give no broken answer in 2.5 % of draws."""
    limit = 1 - ((1 - level) / 2) ** (1 / flipped)
    want = proportion_confint(0, flipped, alpha=1 - level, method="beta")
    got = ser_ci(flipped, 0, 100, seed=0, level=level)
    assert got == pytest.approx((0, limit), abs=1e-9) and got == pytest.approx(want, abs=1e-9)
    mirrored = ser_ci(0, flipped, 100, seed=0, level=level)
    assert mirrored == pytest.approx((1 - limit, 1), abs=1e-9)


@pytest.mark.parametrize(("fixed", "broken"), [(160, 4), (9, 40), (3, 2)])
def test_few_flips_one_way_have_the_exact_binomial_interval(fixed, broken):
    want = proportion_confint(broken, fixed + broken, method="beta")
    assert ser_ci(fixed, broken, 400, seed=0) == pytest.approx(want, abs=1e-9)


def test_holm_by_hand():
    """Times 4, 3, 2, 1 in ascending order, never below the one before, never above 1."""
    assert holm([0.01, 0.04, 0.03, 0.6]) == pytest.approx([0.04, 0.09, 0.09, 0.6])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03] and holm([]) == []


def test_holm_agrees_with_statsmodels():
    p = np.random.default_rng(0).random(40).round(2)  # with ties
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_the_detectable_gain_solves_connors_formula():
    """Connor (1987): with 20 % discordant pairs and a difference of 10 points, 5 % two-sided and
    power 0.9, n = (1.96 sqrt(.2) + 1.2816 sqrt(.2 - .01))^2 / .01 = 205.9."""
    assert detectable_gain(206, 0.2, power=0.9) == pytest.approx(0.1, abs=2e-4)


def test_what_cannot_be_detected_is_none():
    assert detectable_gain(100, 0.0) is None
    assert detectable_gain(20, 0.05) is None
