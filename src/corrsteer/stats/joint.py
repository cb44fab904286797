"""Several plans of one table against their random draws, corrected for their number.

Holm's correction multiplies p-values, and that of 39 draws is at least 1/40: among three plans it
could never fall below 5 %. His step-down is kept here and the multiplication replaced by what it
stands for, the largest of several draws (Westfall and Young 1993, "Resampling-based multiple
testing", algorithm 2.8). Cost: a sort; nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from corrsteer.stats.intervals import SIGNIFICANT


@dataclass(frozen=True)
class Drawn:
    """A plan's ``gain`` over ``n`` questions, and those of random ``draws`` in its place; ``p``: of
    the plan alone (:func:`corrsteer.stats.draws.monte_carlo_p`)."""

    gain: float
    draws: Sequence[float]
    n: int
    p: float


def joint_p(plans: Sequence[Drawn], beside: Sequence[Drawn] = ()) -> list[float]:
    """Of each plan, the p-value that it is one more of its draws, corrected for the number of
    plans: below 5 %, the chance of any false alarm among all of them is at most 5 %.

    Gains of different tasks are compared in units of their own upper spread, since most random
    plans do harm, and how much says nothing about the best ones. Each p-value is at least
    that of its plan alone. Plans with fewer draws than others have theirs used again. ``beside``:
    more plans whose draws count, but which have no p-value here.
    """
    if not plans:
        return []
    width = max(len(plan.draws) for plan in [*plans, *beside])
    scaled = np.array([_scaled(plan, width) for plan in plans])  # [plans, 1 + draws]
    others = [_scaled(plan, width)[1:] for plan in beside]
    p = np.empty(len(plans))
    order = np.argsort(-scaled[:, 0], kind="stable")
    for place, n in enumerate(order):
        largest = np.max([*scaled[order[place:], 1:], *others], axis=0)
        p[n] = (1 + (largest >= scaled[n, 0]).sum()) / (1 + width)
    p[order] = np.maximum.accumulate(p[order])
    return [max(float(one), plan.p) for one, plan in zip(p, plans, strict=True)]


def joint_second(first: Sequence[Drawn], second: Sequence[Drawn | None]) -> list[float]:
    """:func:`joint_p` of a second null, which is drawn only for plans that the first leaves open.
    The others, whose claim the first has ruled out, were tried too: the first's draws stand in for
    theirs among the largest, and their own p-value is 1."""
    pairs = zip(first, second, strict=True)
    kept = [s if s is not None and f.p <= SIGNIFICANT else None for f, s in pairs]
    shut = [f for f, s in zip(first, kept, strict=True) if s is None]
    found = iter(joint_p([s for s in kept if s is not None], beside=shut))
    return [1.0 if s is None else next(found) for s in kept]


def _scaled(plan: Drawn, width: int) -> np.ndarray:
    """[1 + width]: the gain, then the draws, in a scale that takes the plan for one of them."""
    assert len(plan.draws), plan
    values = np.array([plan.gain, *plan.draws], dtype=np.float64)
    middle, high = np.quantile(values, [0.5, 0.9])
    scaled = (values - middle) / max(high - middle, 1 / plan.n)  # at least one answer
    return np.concatenate([scaled[:1], np.resize(scaled[1:], width)])


def best_of(draws: Sequence[float], n: int) -> float:
    """The gain that the best of ``n`` plans drawn from ``draws`` is expected to have: the mean over
    resamples with replacement, summed exactly. No more than the best draw, so for many more plans
    than draws it is a lower bound."""
    assert len(draws) and n >= 1, (draws, n)
    ranks = np.arange(len(draws) + 1) / len(draws)
    return float(np.diff(ranks**n) @ np.sort(np.asarray(draws, dtype=np.float64)))
