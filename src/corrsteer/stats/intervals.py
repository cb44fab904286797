"""Uncertainty of accuracies and of paired differences.

Cost: the first two are closed-form or one binomial tail; the bootstrap draws
``draws * N`` indices, a quarter of a second at N=10,000. Cheaper for right/wrong outcomes:
:func:`mcnemar_exact`.
"""

from __future__ import annotations

import numpy as np

_BLOCK = 1_000_000  # indices drawn at a time: 8 MB


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
    assert np.shape(base) == np.shape(steered) and gain.ndim == 1 and len(gain), gain.shape
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(gain))
    means = np.empty(draws)
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        picks = rng.integers(len(gain), size=(rows, len(gain)))
        means[start : start + rows] = gain[picks].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
