"""A null by drawing: would a plan drawn at random have done as well?

If the plan were one more draw, its rank among the draws would be anything with equal chances. So
the share of draws that do at least as well, the plan counted as one of them, is an exact p-value
(Barnard 1963), and stays one where drawing ends early, once so many draws have done as well (Besag
and Clifford 1991, "Sequential Monte Carlo p-values"). Costs nothing: counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BAND = (0.05, 0.95)
BAND_NEEDS = 10
"""Draws for a band of 5 to 95 %: of fewer it would be their range."""


def counted(good: Sequence[bool], stop: int | None) -> int:
    """How many of the draws count: up to the one that is number ``stop`` to do as well as the plan,
    all where there is none. ``good``: whether each does, in drawing order.

    More may have been made, since they are made many at a time; they must not be looked at.
    """
    if stop is None or sum(good) < stop:
        return len(good)
    return int(np.flatnonzero(good)[stop - 1]) + 1


def monte_carlo_p(good: Sequence[bool], stop: int | None) -> float:
    """One-sided p-value that the plan is one more of the draws. ``good`` as for :func:`counted`,
    of which only those that count are used.

    ``(1 + k) / (1 + n)`` for k of n draws that do at least as well, ``stop / n`` where drawing
    ended at the n-th.
    """
    n = counted(good, stop)
    k = sum(good[:n])
    return k / n if stop is not None and k == stop else (1 + k) / (1 + n)


def chunk_end(done: int, asked: int, stop: int | None) -> int:
    """Up to which draw to go on after ``done``: ``stop`` at first, since fewer cannot end it, then
    about four times as many each time. A chunk shares one pass over the prompts."""
    return asked if stop is None else min(asked, max(stop, 4 * done))


def band(gains: Sequence[float]) -> tuple[float, float] | None:
    """5 to 95 % of the draws; None for fewer than ``BAND_NEEDS``."""
    if len(gains) < BAND_NEEDS:
        return None
    low, high = np.quantile(np.asarray(gains, dtype=np.float64), BAND)
    return float(low), float(high)
