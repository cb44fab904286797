"""Simulations: what is called 5 % is 5 %, and what was planted is found.

"Nominal" means within binomial error of 5 % (or of 95 % coverage): a two-sided binomial test of the
count of simulations has p > 0.01. Where a method is conservative on purpose or by discreteness, the
test is one-sided and says so. The noise ceiling has a file of its own, and so
have coverage of intervals and the null by drawing. By day there are a fifth of
the night's simulations, and binomial error is as much larger.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from corrsteer.selectors.correlation import Correlation, q_values
from corrsteer.stats.intervals import (
    detectable_gain,
    holm,
    mcnemar_exact,
)
from corrsteer.stats.moments import FeatureMoments
from corrsteer.stats.relabelled import resamples, shuffles
from corrsteer.stats.seeds import gain_by_sample

pytestmark = pytest.mark.long

night = pytest.mark.night
often = pytest.mark.parametrize("simulations", [100, pytest.param(500, marks=night)])

p_value = cache(mcnemar_exact)


def nominal(count: int, n: int, share: float = 0.05) -> bool:
    return sps.binomtest(count, n, share).pvalue > 0.01


def at_most(count: int, n: int, share: float = 0.05) -> bool:
    return sps.binomtest(count, n, share, alternative="greater").pvalue > 0.01


def flips(n, shares, simulations, seed=0):
    """[simulations, 3] numbers of fixed, broken and unchanged answers."""
    return np.random.default_rng(seed).multinomial(n, shares, size=simulations)


# -- paired tests --------------------------------------------------------------


@pytest.mark.parametrize("flipped", [0.03, 0.2])
def test_exact_mcnemar_rejects_at_most_five_percent(flipped):
    """It is conservative: one-sided. Its mid-p (half the weight on what was seen), which is not,
    rejects about 5 % of the same draws."""
    draws = flips(400, [flipped / 2, flipped / 2, 1 - flipped], 3_000)
    exact = sum(p_value(int(f), int(b)) < 0.05 for f, b, _ in draws)
    assert at_most(exact, len(draws)), exact
    fixed, both = draws[:, 0], draws[:, 0] + draws[:, 1]
    tail = sps.binom.cdf(np.minimum(fixed, both - fixed), both, 0.5)
    mid = 2 * tail - sps.binom.pmf(fixed, both, 0.5)
    assert exact < (mid < 0.05).sum() and nominal((mid < 0.05).sum(), len(draws))


@pytest.mark.parametrize(
    ("n", "flipped"),
    [
        (400, 0.1),
        pytest.param(2_000, 0.08, marks=night),
        pytest.param(2_000, 0.3, marks=night),
        (300, 0.2),
    ],
)
def test_a_detectable_gain_is_found_in_four_of_five_simulations(n, flipped):
    """The exact test is a little conservative, and Connor's formula is for the plain one."""
    gain = detectable_gain(n, flipped)
    assert gain is not None
    shares = [(flipped + gain) / 2, (flipped - gain) / 2, 1 - flipped]
    found = np.mean([p_value(int(f), int(b)) < 0.05 for f, b, _ in flips(n, shares, 1_000)])
    assert 0.73 < found < 0.84, found


# -- many comparisons ------------------------------------------------------------------------


def test_holm_on_independent_true_nulls():
    p = np.random.default_rng(0).random((2_000, 8))
    alarms = sum(min(holm(row)) < 0.05 for row in p)
    assert nominal(alarms, 2_000), alarms


def test_holm_on_arms_that_share_a_baseline_some_of_which_work():
    """One-sided: dependence can only make it conservative. Bare p-values give far more alarms."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(2_000, 1))
    z = np.sqrt(0.5) * shared + np.sqrt(0.5) * rng.normal(size=(2_000, 8))
    z[:, 6:] += 3  # two real effects
    p = 2 * sps.norm.sf(np.abs(z))
    corrected = np.array([holm(row) for row in p])
    alarms = (corrected[:, :6] < 0.05).any(axis=1).sum()
    assert at_most(alarms, 2_000), alarms
    assert (p[:, :6] < 0.05).any(axis=1).mean() > 0.1
    assert (corrected[:, 6:] < 0.05).mean() > 0.5


# -- several seeds ---------------------------------------------------------------------------


def experiment(rng, shift):
    """Three seeds' test splits of 80 of 150 samples, and all flips in them by direction. What
    steering does to a sample is much the same in all of them: it fixes or breaks it in four of
    five, with the odds of ``shift``."""
    helped = rng.random(150) < 0.5 + shift
    flipped = rng.random(150) < 0.4
    pairs, pooled = [], np.zeros(2, dtype=int)
    for _ in range(3):
        rows = rng.permutation(150)[:80]
        now = flipped[rows] & (rng.random(80) < 0.8)
        pooled += (now & helped[rows]).sum(), (now & ~helped[rows]).sum()
        scores = ~(now & helped[rows]), ~(now & ~helped[rows])
        columns = {"id": rows, "invalid": False}
        pairs.append(tuple(pd.DataFrame({**columns, "score": x.astype(float)}) for x in scores))
    return pairs, pooled


@often
def test_the_gain_by_sample_is_nominal_where_pooled_answers_are_not(simulations):
    """The sign-flip p is discrete: one-sided, and not far below. Pooling the seeds' answers, as if
    they were answers to other questions, finds effects in far more."""
    rng, found, covered, naive = np.random.default_rng(1), 0, 0, 0
    for _ in range(simulations):
        pairs, pooled = experiment(rng, 0.0)
        gain = gain_by_sample(pairs)
        found += gain.p < 0.05
        covered += gain.ci[0] <= 0 <= gain.ci[1]
        naive += p_value(*pooled.tolist()) < 0.05
    assert at_most(found, simulations) and found > 0.02 * simulations, found
    assert nominal(covered, simulations, 0.95), covered
    assert naive > 0.08 * simulations, naive


def test_a_gain_in_every_seed_is_found():
    rng = np.random.default_rng(1)
    gains = [gain_by_sample(experiment(rng, 0.35)[0]) for _ in range(40)]
    assert all(g.p < 0.01 and g.ci[0] > 0 for g in gains)
    assert np.mean([g.gain for g in gains]) == pytest.approx(0.4 * 0.8 * 0.7, abs=0.02)


# -- selection -------------------------------------------------------------------------------

PLANTED, WIDTH = 7, 60


def selection(seed, layer=0, right=0.6, threshold=1.3, effect=0.0, n=200, n_resamples=0):
    """Statistics of a layer whose features are active on 10 % of the samples, as SAE features are,
    or always (``threshold`` -10), and of which one may know of the outcome."""
    rng = np.random.default_rng([seed, layer])
    y = (np.arange(n) < right * n)[rng.permutation(n)].astype(float)
    z = np.maximum(rng.normal(size=(n, WIDTH)) - threshold, 0)
    z[:, PLANTED] = np.maximum(rng.normal(size=n) - threshold + effect * y, 0)
    moments = FeatureMoments(WIDTH, 40 if n_resamples == 0 else 99, n_resamples)
    y_shuffled = shuffles(y, moments.products.shape[0] - 4, seed)
    moments.update(z, y, y_shuffled, drawn=resamples(n, n_resamples, seed))
    return moments.finish(layer)


@often
@pytest.mark.parametrize(("right", "threshold"), [(0.15, 1.3), (0.8, 1.3), (0.15, -10), (0.5, -10)])
def test_false_discoveries_under_the_global_null(right, threshold, simulations):
    """All that is found in noise is false, so the false discovery rate is the share of simulations
    with any. One-sided: few right answers are not too many, and many make it conservative, since
    what is rarely active cannot correlate highly with what is nearly always so."""
    found = 0
    for seed in range(simulations):
        layers = [selection(seed, layer, right, threshold) for layer in (0, 1)]
        found += min(q.min() for q in q_values(layers).values()) < 0.05
    assert at_most(found, simulations), found
    if threshold < 0:
        assert nominal(found, simulations), found


@often
def test_a_planted_feature_is_selected_and_known_not_to_be_noise(simulations):
    best = []
    for seed in range(simulations):
        ranked = Correlation().rank([selection(seed, effect=1.5, n_resamples=30)])
        best.append(ranked[0])
    assert np.mean([f.feature == PLANTED for f in best]) > 0.99
    assert np.mean([f.is_noise for f in best]) < 0.01
    assert np.mean([f.q < 0.05 for f in best]) > 0.99
    assert np.mean([f.stability for f in best]) > 0.95


@often
def test_what_is_best_in_noise_is_not_stable(simulations):
    seeds = range(simulations)
    best = [Correlation().rank([selection(seed, n_resamples=30)])[0] for seed in seeds]
    stability = np.array([f.stability for f in best])
    assert stability.mean() < 0.4 and np.quantile(stability, 0.95) < 0.7
    assert nominal(sum(not f.is_noise for f in best), simulations)
