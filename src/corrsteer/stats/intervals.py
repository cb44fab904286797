"""Uncertainty of accuracies, of paired differences and of many comparisons.

Cost: closed forms, binomial tails and bisections, all under a millisecond, but for the bootstrap of
a mean, which draws ``draws * N`` indices where values are of many kinds: a quarter of a second at
N=10,000.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BLOCK = 1_000_000  # indices drawn at a time: 8 MB
_HALVINGS = 60  # of an interval of at most 2: to the last bit
_KINDS = 32  # up to this many distinct values are drawn as counts
SIGNIFICANT = 0.05
"""A p-value below this is called a finding."""
FEW = 10
"""Flips below which :func:`ser_ci` is exact."""


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


def better_p(up: int, down: int) -> float:
    """One-sided exact p-value of McNemar's test that changes go up no more often than down."""
    from scipy.stats import binomtest

    if up + down == 0:
        return 1.0
    return float(binomtest(up, up + down, 0.5, alternative="greater").pvalue)


def paired_ci(up: int, down: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of ``(up - down) / n``, where ``up`` of ``n`` pairs changed from wrong to
    right and ``down`` from right to wrong (Tango 1998, Statistics in Medicine 17, 891-908).

    All differences that the score test does not reject. It has a width where nothing changed, and
    keeps its coverage where little did; a bootstrap does neither.
    """
    assert up >= 0 and down >= 0 and 1 <= n >= up + down, (up, down, n)
    low, high = paired_cis(np.array([up]), np.array([down]), n, level)
    return float(low[0]), float(high[0])


def paired_cis(
    up: np.ndarray, down: np.ndarray, n: int, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`paired_ci` of many pairs of counts [K], which need not be whole: low and high [K]."""
    from scipy.special import ndtri

    critical = float(ndtri((1 + level) / 2)) ** 2
    up, down = (np.asarray(counts, dtype=np.float64) for counts in (up, down))
    return -_highest(down, up, n, critical), _highest(up, down, n, critical)


def _highest(up: np.ndarray, down: np.ndarray, n: int, critical: float) -> np.ndarray:
    """The largest difference that is not rejected, by bisection between the estimate and 1."""
    inside: np.ndarray = (up - down) / n
    outside = np.ones(len(up))
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        # The likeliest rate of changes down where the difference is this one.
        b = -(up + down) + (2 * n - up + down) * middle
        rate = (np.sqrt(b**2 + 8 * n * down * middle * (1 - middle)) - b) / (4 * n)
        variance = n * (2 * rate + middle * (1 - middle))
        kept = (up - down - n * middle) ** 2 <= critical * variance
        inside, outside = np.where(kept, middle, inside), np.where(kept, outside, middle)
    return inside


def difference_ci(
    differences: Sequence[float] | np.ndarray, level: float = 0.95
) -> tuple[float, float]:
    """Score interval of the mean of ``differences`` [N], each from -1 to 1 or a few times that:
    :func:`paired_ci` where they are -1, 0 and 1.

    Others (mean gains over seeds, differences of gains) are measured in the unit that gives the
    changes ``up`` and ``down`` the first two moments of what was seen, ``sum(x^2) / sum(|x|)``.
    """
    x = np.asarray(differences, dtype=np.float64)
    assert x.ndim == 1 and len(x), x.shape
    size = float(np.abs(x).sum())
    unit = float(x @ x) / size if size else 1.0
    up, down = (float(np.abs(x[side]).sum()) / unit for side in (x > 0, x < 0))
    low, high = paired_cis(np.array([up]), np.array([down]), len(x), level)
    return unit * float(low[0]), unit * float(high[0])


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


def t_ci(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of the mean of ``values`` [N]; None for a single one."""
    from scipy.stats import t

    x = np.asarray(values, dtype=np.float64)
    assert x.ndim == 1 and len(x), x.shape
    if len(x) == 1:
        return None
    mean = float(x.mean())
    half = float(t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return mean - half, mean + half


def ser_ci(fixed: int, broken: int, level: float = 0.95) -> tuple[float, float] | None:
    """Interval of ``broken / (fixed + broken)``, over the answers that flipped; None if none did.

    Wilson's; of fewer than ``FEW`` flips the exact one (Clopper and Pearson 1934), since Wilson's
    covers only 91 % where a few flips go one way nine times in ten.
    """
    from scipy.stats import binomtest

    flipped = fixed + broken
    if flipped >= FEW:
        return proportion_ci(broken, flipped, level)
    if not flipped:
        return None
    exact = binomtest(broken, flipped).proportion_ci(level, method="exact")
    return float(exact.low), float(exact.high)


def ratio_ci(
    a: int, of_a: int, b: int, of_b: int, seed: int, draws: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Interval of ``(a / of_a) / (b / of_b)``, two counts of different samples, by the Bayesian
    bootstrap over both (Rubin 1981) with half a sample of either kind added (Jeffreys), so that
    counts of 0 have a width, too. Deterministic in ``seed``."""
    assert 0 <= a <= of_a and 0 <= b <= of_b, (a, of_a, b, of_b)
    rng = np.random.default_rng(seed)
    top = rng.beta(a + 0.5, of_a - a + 0.5, size=draws)
    bottom = rng.beta(b + 0.5, of_b - b + 0.5, size=draws)
    low, high = np.quantile(top / bottom, [(1 - level) / 2, (1 + level) / 2])
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
