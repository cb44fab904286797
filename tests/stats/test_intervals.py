"""Intervals and tests against their textbook formulas."""

from __future__ import annotations

from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps
from scipy.optimize import brentq, minimize_scalar
from scipy.special import xlogy
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from corrsteer.stats import intervals
from corrsteer.stats.intervals import (
    better_p,
    detectable_gain,
    difference_ci,
    holm,
    mcnemar_exact,
    mean_ci,
    paired_ci,
    proportion_ci,
    ratio_ci,
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


def solved(up: int, down: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Tango's interval from its definition: the rates of both changes are fitted numerically for
    every difference, and the score test is inverted by root finding."""
    z = sps.norm.ppf((1 + level) / 2)

    def excess(d: float, side: int) -> float:
        def unlikely(q: float) -> float:
            p = np.array([q + d, q, 1 - 2 * q - d])
            return -float(np.sum(xlogy([up, down, n - up - down], p)))

        q = minimize_scalar(
            unlikely, bounds=(max(0.0, -d), (1 - d) / 2), method="bounded", options={"xatol": 1e-12}
        ).x
        return float(up - down - n * d + side * z * np.sqrt(n * (2 * q + d * (1 - d))))

    gain, ends = (up - down) / n, []
    for side, end in ((-1, -1 + 1e-9), (1, 1 - 1e-9)):
        ends.append(brentq(excess, *sorted((gain, end)), args=(side,), xtol=1e-10))
    return ends[0], ends[1]


@pytest.mark.parametrize(
    ("up", "down", "n", "level"),
    [(40, 20, 160, 0.95), (3, 1, 30, 0.95), (157, 5, 2000, 0.95), (0, 4, 50, 0.9), (9, 9, 20, 0.8)],
)
def test_the_paired_interval_inverts_the_score_test(up, down, n, level):
    assert paired_ci(up, down, n, level) == pytest.approx(solved(up, down, n, level), abs=1e-5)


@pytest.mark.parametrize(
    ("up", "down", "n", "level", "low", "high"),
    [
        # Bentur et al. 2009, in Fagerland, Lydersen and Laake, "Recommended tests and confidence
        # intervals for paired binomial proportions" (2014, Statistics in Medicine 33), Tango's row.
        (1, 7, 21, 0.95, -0.517, -0.026),
        # R, PropCIs 0.3-0: scoreci.mp(25, 28, 618, 0.9), whose sign is the other one.
        (28, 25, 618, 0.9, -0.0148, 0.0247),
    ],
)
def test_the_paired_interval_has_published_values(up, down, n, level, low, high):
    digits = 3 if n == 21 else 4
    assert [round(end, digits) for end in paired_ci(up, down, n, level)] == [low, high]


@pytest.mark.long
@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200), st.sampled_from([0.5, 0.95]))
def test_the_paired_interval_is_sound(up, down, same, level):
    """It holds the gain, has a width, turns with the directions and grows with the level."""
    n = max(1, up + down + same)
    low, high = paired_ci(up, down, n, level)
    assert -1 <= low <= (up - down) / n <= high <= 1 and low < high
    assert paired_ci(down, up, n, level) == pytest.approx((-high, -low), abs=1e-12)
    wide = paired_ci(up, down, n, 0.99)
    assert wide[0] <= low and high <= wide[1]


def test_without_flips_the_interval_has_a_width():
    z = sps.norm.ppf(0.975)
    limit = z**2 / (100 + z**2)
    assert paired_ci(0, 0, 100) == pytest.approx((-limit, limit))


def test_differences_of_right_and_wrong_have_the_paired_interval():
    x = np.repeat([1.0, -1.0, 0.0], [9, 4, 87])
    assert difference_ci(x) == pytest.approx(paired_ci(9, 4, 100))
    # In halves it is the same interval at half the size: nothing else was seen.
    assert difference_ci(x / 2) == pytest.approx(np.array(paired_ci(9, 4, 100)) / 2)
    assert difference_ci([0.0] * 100) == pytest.approx(paired_ci(0, 0, 100))
    with pytest.raises(AssertionError):
        difference_ci([])


def test_differences_of_many_kinds_have_nearly_the_plain_interval():
    rng = np.random.default_rng(0)
    x = rng.choice([-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1], size=2_000)
    half = 1.96 * x.std() / sqrt(2_000)
    assert difference_ci(x) == pytest.approx((x.mean() - half, x.mean() + half), abs=half / 100)


@pytest.mark.parametrize(("up", "down"), [(0, 0), (5, 0), (0, 5), (12, 7), (40, 41)])
def test_steering_is_better_by_the_exact_one_sided_test(up, down):
    tail = sum(comb(up + down, k) for k in range(up, up + down + 1)) / 2 ** (up + down)
    assert better_p(up, down) == pytest.approx(tail)


@pytest.mark.parametrize(("a", "of_a", "b", "of_b"), [(120, 1000, 25, 100), (900, 1000, 160, 2000)])
def test_the_interval_of_a_ratio_agrees_with_the_bootstrap_of_prompts_and_questions(
    a, of_a, b, of_b
):
    changed, fixed = np.arange(of_a) < a, np.arange(of_b) < b
    want = sps.bootstrap(
        (changed, fixed),
        lambda x, y, axis: x.mean(axis=axis) / y.mean(axis=axis),
        n_resamples=4_000,
        batch=500,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    got = ratio_ci(a, of_a, b, of_b, seed=0, draws=20_000)
    assert got == pytest.approx(tuple(want), rel=0.04)
    assert got == ratio_ci(a, of_a, b, of_b, seed=0, draws=20_000) != ratio_ci(a, of_a, b, of_b, 1)


def test_the_interval_of_a_ratio_has_a_width_where_nothing_changed():
    low, high = ratio_ci(0, 50, 3, 50, seed=0)
    assert 0 <= low < high < 5


@pytest.mark.parametrize("size", [20, 60])
def test_the_interval_of_a_mean_agrees_with_scipys_bootstrap(size):
    values = np.random.default_rng(0).gamma(0.5, size=size)
    want = sps.bootstrap(
        (values,), np.mean, n_resamples=9_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    got = mean_ci(values, seed=1, draws=9_000)
    assert got == pytest.approx(tuple(want), abs=0.1 * values.std() / sqrt(size))
    assert mean_ci(values, seed=0) == mean_ci(values, seed=0) != mean_ci(values, seed=1)
    assert mean_ci([0.25], seed=0) == (0.25, 0.25)
    with pytest.raises(AssertionError):
        mean_ci([], seed=0)


def test_few_kinds_of_values_are_drawn_as_counts(monkeypatch):
    x = np.repeat([1.0, -1.0, 0.0], [40, 20, 340])
    counted = mean_ci(x, seed=0, draws=20_000)
    monkeypatch.setattr(intervals, "_KINDS", 0)
    assert counted == pytest.approx(mean_ci(x, seed=0, draws=20_000), abs=1.01 / 400)


def test_bootstrap_blocks_do_not_show(monkeypatch):
    values = np.random.default_rng(0).random(33)
    whole = mean_ci(values, seed=3, draws=100)
    monkeypatch.setattr(intervals, "_BLOCK", 33 * 7)
    assert mean_ci(values, seed=3, draws=100) == whole


def test_ser_without_flips_has_no_interval():
    assert ser_ci(0, 0) is None


@pytest.mark.parametrize(("fixed", "broken"), [(160, 4), (9, 40), (10, 0), (3, 2), (1, 0), (0, 3)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_interval_of_ser_is_wilsons_or_exact_for_a_few_flips(fixed, broken, level):
    method = "wilson" if fixed + broken >= 10 else "beta"
    want = proportion_confint(broken, fixed + broken, alpha=1 - level, method=method)
    assert ser_ci(fixed, broken, level) == pytest.approx(want, abs=1e-9)


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
