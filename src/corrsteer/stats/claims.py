"""What may be said of a gain: the one place that decides, from numbers.

A gain due to steering needs three tests at once. McNemar's asks whether the flips could be luck of
the questions; the random-feature null asks whether any vectors of that length would have done the
same; the null of shuffled outcomes asks whether the same selection would have found as much in
outcomes that tell nothing. None answers another's question: on data without an effect most plans
flip answers in some direction, and a selection prefers features that are often active, which flip
more than random ones. A claim that needs all tests is wrong no more often than each of them allows.
Costs nothing: comparisons of a few numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

from corrsteer.stats.intervals import SIGNIFICANT, holm


class Claim(StrEnum):
    """What a gain is evidence of."""

    RAISES = "raises"
    LOWERS = "lowers"
    NO_BETTER = "no better than random features or shuffled outcomes"
    UNDECIDED = "undecided"
    UNTESTED = "undecided: too few random features to compare with"


def decide(gain: float, mcnemar_p: float, null_p: float | None, draws: int | None = None) -> Claim:
    """``mcnemar_p``: two-sided. ``null_p``: of the null by drawing, one-sided (the share of plans
    drawn that do at least as well), the largest where there are several; None where there is none.
    Either may be corrected for the number of questions or jobs
    (:func:`corrsteer.stats.intervals.holm`). ``draws``: how many were asked for: of so few that no
    p-value could have been small, none is looked at.
    """
    if not gain or mcnemar_p >= SIGNIFICANT:
        return Claim.UNDECIDED
    if gain < 0:
        return Claim.LOWERS
    if null_p is None or (draws is not None and draws < least_draws(1)):
        return Claim.UNTESTED
    return Claim.RAISES if null_p <= SIGNIFICANT else Claim.NO_BETTER


def beats_all(claim: Claim, others: Sequence[float]) -> bool:
    """Whether a plan raises accuracy and does so by more than every other control, of which there
    must be one: random features alone are what the claim itself needs.

    ``others``: one-sided p-values that steering is no better, of each control but the random
    features (:attr:`corrsteer.report.record.Control.paired_p`). Corrected after Holm, over them.
    """
    below = [p < SIGNIFICANT for p in holm(others)]
    return claim is Claim.RAISES and bool(below) and all(below)


def least_draws(questions: int) -> int:
    """How many draws a null needs for its p-value to be able to reach 5 % once it is corrected for
    so many ``questions`` of one table: with 39 draws it is at least 1/40, times seven is 0.18."""
    assert questions >= 1, questions
    return math.ceil(round(questions / SIGNIFICANT, 6)) - 1
