"""Other labellings of the samples: shuffled outcomes, and how often resamples draw each."""

from __future__ import annotations

import numpy as np


def shuffles(outcomes: np.ndarray, n: int, seed: int) -> np.ndarray:
    """[N, n] float64: every column an independent permutation of ``outcomes`` [N].

    Row i belongs to sample i, in the order of ``outcomes``: fix that order (by id) before
    calling and index rows by sample, and the statistics do not depend on batching. A larger
    ``n`` appends columns and leaves the earlier ones as they were.
    """
    rows = np.tile(np.asarray(outcomes, dtype=np.float64), (n, 1))
    return np.ascontiguousarray(np.random.default_rng(seed).permuted(rows, axis=1).T)


def resamples(n: int, count: int, seed: int) -> np.ndarray:
    """[N, count] int64: how often each of ``n`` samples is drawn in each bootstrap resample, ``n``
    draws with replacement (Efron 1979).

    Row i belongs to sample i, as in :func:`shuffles`, whose random stream is another one. A larger
    ``count`` appends columns and leaves the earlier ones as they were.
    """
    # Controls and the random features have spawn keys that start otherwise or are shorter.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2, 0, 0)))
    drawn = np.zeros((count, n), dtype=np.int64)
    for row in drawn:
        row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
    return np.ascontiguousarray(drawn.T)
