"""Which of several candidates validation chooses, and how sure that choice is.

The accuracy of the best of several dials is partly luck, and dials that are larger do more harm
elsewhere. So the best accuracy does not decide alone: the smallest dial is chosen that lies behind
it by no more than one question and one standard error, that of the *paired* difference, since all
dials answer the same questions. (The one question is the continuity correction of Edwards 1948 to
McNemar's test: two answers that differ, both in favour of one dial, are no evidence.) How sure that
is, is the share of bootstrap resamples of the questions in which the same rule chooses the same
dial.

Cost: ``RESAMPLES * J * N`` multiplications for each dial that is ever the best: milliseconds.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

RULE = "the one-standard-error rule of Breiman et al. 1984"
"""What is within one standard error of the best counts as equally good, and something else decides
(Breiman, Friedman, Olshen, Stone 1984, "Classification and regression trees", section 3.4.3): the
dial of a sweep, the broken answers of a search (:func:`corrsteer.methods.study.choose`)."""

RESAMPLES = 2000


@dataclass(frozen=True)
class Choice:
    """``chosen`` and ``best``: indices of the candidate that the rule takes, and of the one with
    the highest accuracy. [J] of each candidate: ``behind``, how much lower than the best one's its
    accuracy is, ``errors``, the standard error of that difference, and ``shares``, in how many of
    the resamples the rule takes it."""

    chosen: int
    best: int
    behind: tuple[float, ...]
    errors: tuple[float, ...]
    shares: tuple[float, ...]


def choose(
    right: np.ndarray,
    sizes: Sequence[float],
    series: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
) -> Choice:
    """``right`` [J, N]: scores of J candidates on the same N >= 1 questions; ``sizes``: their
    dials.

    The candidate with the highest mean is the best one, of equal ones that with the smaller
    ``|size|``, then the first. Chosen is the one with the smallest ``|size|`` whose mean is lower
    by at most one question and one standard error of the paired difference, of equal ones the one
    with the higher mean, then the first. ``series``: only candidates of the best one's series are
    preferred to it, since dials of different plans cannot be compared; None: all are of one.
    Deterministic in ``seed``.
    """
    x = np.asarray(right, dtype=np.float64)
    size = np.abs(np.asarray(sizes, dtype=np.float64))
    assert x.ndim == 2 and x.shape[1] and len(x) == len(size), (x.shape, size.shape)
    names = list(series) if series is not None else [0] * len(x)
    n = x.shape[1]
    drawn = _drawn(n, seed)
    weights = np.concatenate([np.ones((1, n)), drawn])  # the first are the questions themselves
    means = weights @ x.T / n
    best = _first_best(means, size)
    chosen = best.copy()
    for j in np.unique(best).tolist():
        rows = np.flatnonzero(best == j)
        alike = np.array([k for k, name in enumerate(names) if name == names[j]])
        gap, error = _differences(weights[rows], x[j] - x[alike])
        size_of = np.where(gap <= error + 1 / n + 1e-9, size[alike], np.inf)
        least = size_of == size_of.min(1, keepdims=True)
        chosen[rows] = alike[np.where(least, means[rows][:, alike], -np.inf).argmax(1)]
    gaps, errors = _differences(weights[:1], x[best[0]] - x)
    shares = np.bincount(chosen[1:], minlength=len(x)) / RESAMPLES
    return Choice(
        chosen=int(chosen[0]),
        best=int(best[0]),
        behind=tuple(gaps[0].tolist()),
        errors=tuple(errors[0].tolist()),
        shares=tuple(shares.tolist()),
    )


def ahead(right: np.ndarray, base: np.ndarray, *, seed: int = 0) -> float:
    """Share of the resamples of N questions in which ``right`` [N] has a higher mean than ``base``
    [N], the same questions without steering; where they are equal it has not."""
    gain = np.asarray(right, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    return float((_drawn(len(gain), seed) @ gain > 1e-9).mean())


def _drawn(n: int, seed: int) -> np.ndarray:
    """[RESAMPLES, n]: how often each resample of ``n`` questions holds each of them."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)


def _first_best(means: np.ndarray, size: np.ndarray) -> np.ndarray:
    """[R] of means [R, J]: the highest, of equal ones the smallest, then the first."""
    top = means.max(1, keepdims=True)
    among = np.where(np.isclose(means, top, rtol=0, atol=1e-12), size, np.inf)
    first: np.ndarray = among.argmin(1)
    return first


def _differences(weights: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means of differences ``d`` [K, N] and their standard errors, both [R, K]."""
    n = d.shape[1]
    mean = weights @ d.T / n
    square = weights @ (d**2).T / n
    return mean, np.sqrt(np.clip(square - mean**2, 0.0, None) / max(n - 1, 1))


def search_shares(right: np.ndarray, base: np.ndarray, *, seed: int = 0) -> list[float]:
    """[J] in how many of the resamples of N questions a search's rule takes each candidate.

    ``right`` [J, N]: scores of the candidates on a front, by falling accuracy, 0 or 1; ``base``
    [N]: without steering. Of the candidates within one standard error of the best accuracy, the one
    with the fewest broken answers is taken, of equal ones the first
    (:func:`corrsteer.methods.study.choose`).
    """
    n = right.shape[1]
    weights = _drawn(n, seed)
    accuracy, broken = weights @ right.T / n, weights @ ((1 - right) * base).T
    best = accuracy.max(1, keepdims=True)
    bound = best - np.sqrt(best * (1 - best) / n)
    taken = np.where(accuracy >= bound - 1e-12, broken, np.inf).argmin(1)
    shares: list[float] = (np.bincount(taken, minlength=len(right)) / RESAMPLES).tolist()
    return shares
