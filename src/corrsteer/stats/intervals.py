"""Uncertainty of accuracies, of paired differences and of many comparisons.

Cost: closed forms, binomial tails and counts, all under a millisecond, but for the bootstrap of
values of many kinds (fractional scores), which draws ``draws * N`` indices: a quarter of a second
at N=10,000. Differences of right/wrong outcomes are drawn as three counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BLOCK = 1_000_000  # indices drawn at a time: 8 MB
_KINDS = 32  # up to this many distinct values are drawn as counts
SIGNIFICANT = 0.05
"""A p-value below this is called a finding."""
FEW = 10
"""Flips in one direction below which :func:`ser_ci` does not trust the bootstrap."""


def proportion_ci(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion, ``k`` successes of ``n`` >= 1 (Wilson 1927).

    Chosen over the normal interval because it stays in [0, 1] and keeps its coverage for
    accuracies near 0 or 1. ``k`` counts answers: it has no meaning for fractional scores, so a
    float is a TypeError.
    """
    from scipy.stats import binomtest

    assert n >= 1, n
    interval = binomtest(k, n).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_exact(fixed: int, broken: int) -> float:
    """Two-sided exact p-value that flips go either way equally often (McNemar 1947).

    Binomial test of ``fixed`` among ``fixed + broken`` discordant pairs; 1 if nothing flipped.
    """
    from scipy.stats import binomtest

    if fixed + broken == 0:
        return 1.0
    return float(binomtest(fixed, fixed + broken, 0.5).pvalue)


def paired_bootstrap_ci(
    base: np.ndarray, steered: np.ndarray, seed: int, draws: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of ``mean(steered - base)`` over resampled samples (Efron 1979).

    ``base`` and ``steered``: scores [N] of the same samples in the same order, fractions
    allowed. Deterministic in ``seed``; memory is bounded whatever N and ``draws``.
    """
    gain = np.asarray(steered, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    assert np.shape(base) == np.shape(steered), (np.shape(base), np.shape(steered))
    return mean_ci(gain, seed, draws, level)


def mean_ci(
    values: Sequence[float] | np.ndarray, seed: int, draws: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean of ``values`` [N], N >= 1, over resampled ones (Efron 1979).

    Deterministic in ``seed``; memory is bounded whatever N and ``draws``.
    """
    x = np.asarray(values, dtype=np.float64)
    assert x.ndim == 1 and len(x), x.shape
    rng = np.random.default_rng(seed)
    kinds, counts = np.unique(x, return_counts=True)
    if len(kinds) <= _KINDS:
        # How often each value is drawn is multinomial: the same distribution, without indices.
        means = rng.multinomial(len(x), counts / len(x), size=draws) @ kinds / len(x)
    else:
        block = max(1, _BLOCK // len(x))
        means = np.empty(draws)
        for start in range(0, draws, block):
            rows = min(block, draws - start)
            picks = rng.integers(len(x), size=(rows, len(x)))
            means[start : start + rows] = x[picks].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ser_ci(
    fixed: int, broken: int, n: int, seed: int, draws: int = 2000, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile interval of ``broken / (fixed + broken)`` over resampled samples (Efron 1979).

    ``n`` samples were paired. Resampling them resamples the three counts as a multinomial;
    resamples in which nothing flipped have no ratio and are left out. None if nothing flipped.
    Where fewer than ``FEW`` answers flipped one way the percentile interval is too short (with 4
    broken it covers 89 % instead of 95 %, with none it has no width): it is then the exact binomial
    one over the flips (Clopper and Pearson 1934), which covers at least its level.
    """
    from scipy.stats import binomtest

    assert fixed >= 0 and broken >= 0 and fixed + broken <= n, (fixed, broken, n)
    if fixed + broken == 0:
        return None
    if min(fixed, broken) < FEW:
        exact = binomtest(broken, fixed + broken).proportion_ci(level, method="exact")
        return float(exact.low), float(exact.high)
    shares = np.array([fixed, broken, n - fixed - broken]) / n
    counts = np.random.default_rng(seed).multinomial(n, shares, size=draws)
    flipped = counts[:, 0] + counts[:, 1]
    ratios = counts[flipped > 0, 1] / flipped[flipped > 0]
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): below 5 %, the chance of any false alarm
    among all of them is at most 5 %, however they depend on each other."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()


def detectable_gain(
    n: int, flipped: float, power: float = 0.8, level: float = 0.05
) -> float | None:
    """The smallest gain in accuracy that McNemar's test would find with this ``power``.

    ``flipped``: share of the ``n`` samples whose outcome changes either way. From the sample
    size formula of Connor (1987), ``n gain^2 = (z_a sqrt(f) + z_b sqrt(f - gain^2))^2``, solved
    for the gain. None where even a gain of all that flipped would not be found.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    assert n >= 1 and 0 <= flipped <= 1, (n, flipped)
    z_level, z_power = norm.ppf(1 - level / 2), norm.ppf(power)

    def lacking(gain: float) -> float:
        spread = z_level * np.sqrt(flipped) + z_power * np.sqrt(max(flipped - gain**2, 0.0))
        return float(spread - gain * np.sqrt(n))

    if flipped == 0 or lacking(flipped) > 0:
        return None
    return float(brentq(lacking, 0.0, flipped))
