"""Are two methods as accurate as each other, and what does each pay for it? Pure functions of
counts and of paired units (questions, prompts, texts).

Accuracy and side effects move together, so prices are compared where accuracies are equal: of a
rival's settings the one is taken whose *validation* accuracy is nearest (:func:`nearest`), and on
test the two are told to be equal or not (:func:`equivalence`) before their prices are divided
(:func:`price_ratio`). Cost: closed forms; a bootstrap takes ``draws * N`` random numbers, 50 ms
at N=2000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from corrsteer.stats.intervals import difference_ci

MARGIN = 0.02
"""Accuracies that differ by less count as equal: two points."""
HALF = 2.0
"""A price that is so many times as high: the other is half of it."""
SUPPORTED, REFUTED, UNDECIDED = "supported", "refuted", "undecided"
LEVEL = 0.05
_BLOCK = 1_000_000
_ROUNDING = 1e-9
_SMALL = 0.5  # Jeffreys: so much of a unit more, so that a count of 0 has a width


def nearest(accuracies: Sequence[float], target: float, sizes: Sequence[float]) -> int:
    """The index of the accuracy nearest to ``target``; of equally near ones that of the smallest
    dial, then the first. ``sizes``: the dials."""
    assert len(accuracies) == len(sizes) > 0
    away = [round(abs(a - target), 12) for a in accuracies]
    return min(range(len(away)), key=lambda i: (away[i], abs(sizes[i]), i))


# -- equal accuracy ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Equivalence:
    """Of a difference of accuracies, subject less rival. ``ci``: 90 % score interval; ``answer``:
    supported where it lies within the margin on both sides, which is two one-sided tests at 5 %
    (TOST, Schuirmann 1987); refuted where the 95 % interval lies wholly beyond it. ``questions``:
    so many would decide it, were the difference what it seems; None where it is decided, or where
    no number would: the difference seems to be the margin itself."""

    n: int
    difference: float
    ci: tuple[float, float]
    answer: str
    ahead: bool
    """Refuted because the subject is more accurate by over the margin."""
    questions: int | None
    at_most: bool = False
    """Whether the subject is shown not to be more accurate by over the margin: at most equal."""
    bounding: int | None = None
    """So many questions would show that, were the difference what it seems; None where it is shown,
    or where none would."""


def equivalence(differences: np.ndarray, margin: float = MARGIN) -> Equivalence:
    """``differences`` [N]: subject's outcome less the rival's on each question, from -1 to 1."""
    x = np.asarray(differences, dtype=np.float64)
    low, high = difference_ci(x, 1 - 2 * LEVEL)
    wide, mean = difference_ci(x, 1 - LEVEL), float(x.mean())
    answer = UNDECIDED
    if -margin < low and high < margin:
        answer = SUPPORTED
    elif wide[0] > margin or wide[1] < -margin:
        answer = REFUTED
    more, room = None, abs(abs(mean) - margin)  # of which an interval narrows into one side
    if answer == UNDECIDED and room > _ROUNDING and abs(mean) > margin:  # to show them unequal
        half = wide[1] - mean if mean < 0 else mean - wide[0]
        more = math.ceil(len(x) * max(1.0, half / room) ** 2)
    elif answer == UNDECIDED and room > _ROUNDING:
        half = max(mean - low, high - mean)
        # One more than was seen: where no outcome differs, some would.
        changed = (float(x @ x) + 1) / (len(x) + 1)
        more = max(
            *(len(x), questions_to_match(changed, margin)),
            math.ceil(len(x) * (half / room) ** 2),
        )
    at_most, below, bounding = high < margin, margin - mean, None
    if not at_most and below > _ROUNDING:
        bounding = max(len(x), math.ceil(len(x) * ((high - mean) / below) ** 2))
    return Equivalence(len(x), mean, (low, high), answer, wide[0] > margin, more, at_most, bounding)


def questions_to_match(changed: float, margin: float = MARGIN, power: float = 0.8) -> int:
    """How many questions show equivalence with this ``power`` where there is no difference.
    ``changed``: share of questions with another outcome under one method than under the other.
    From ``n = changed (z_a + z_b)^2 / margin^2`` (Chow, Shao and Wang 2008, section 3.2)."""
    from scipy.special import ndtri

    z = float(ndtri(1 - LEVEL) + ndtri((1 + power) / 2))
    return max(1, math.ceil(changed * z**2 / margin**2))


# -- prices ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Units:
    """What one method did to the units that both were measured on: a price is the sum of ``paid``
    over that of ``per``, both [N]. ``counts``: whether they are counts, so that one of 0 may be
    chance."""

    paid: np.ndarray
    per: np.ndarray
    counts: bool = True

    @property
    def price(self) -> float | None:
        """None where nothing was got for it."""
        got = float(self.per.sum())
        return float(self.paid.sum()) / got if got else None


@dataclass(frozen=True)
class PriceRatio:
    """Of a rival's price over the subject's. ``ratio`` infinite: the rival alone pays; None:
    neither does, or nothing is known of one. ``answer``: to the claim that the subject has half the
    side effects. ``units``: so many would decide it if the ratio is what it seems; None where it is
    decided, or nothing would."""

    n: int
    subject: float | None
    rival: float | None
    ratio: float | None
    ci: tuple[float, float]
    answer: str
    units: int | None


def price_ratio(
    rival: Units, subject: Units, seed: int, draws: int = 2000, level: float = 1 - LEVEL
) -> PriceRatio:
    """How many times the subject's price a rival pays, with a paired bootstrap interval: units are
    weighed at random (Rubin 1981), for both methods alike, and each count has a prior of half a
    unit. Supported: at least twice as much, and
    the interval above 1; refuted: the interval below 2. Deterministic in ``seed``."""
    n = len(rival.paid)
    assert n and {len(a) for u in (rival, subject) for a in (u.paid, u.per)} == {n}
    columns = np.stack([rival.paid, rival.per, subject.paid, subject.per], axis=1)
    sums = np.empty((draws, 4))
    rng, block = np.random.default_rng(seed), max(1, _BLOCK // n)
    for start in range(0, draws, block):
        some = min(block, draws - start)
        weights = rng.standard_exponential((some, n))
        sums[start : start + some] = weights @ columns * (n / weights.sum(1, keepdims=True))
    # Of what is 0 for every unit no resample knows a size.
    some_paid = [bool(u.paid.any()) for u in (rival, subject)]
    if not rival.counts and not all(some_paid):
        return PriceRatio(n, subject.price, rival.price, None, (0.0, math.inf), UNDECIDED, None)
    if rival.counts:
        sums += rng.standard_gamma(_SMALL, sums.shape)
    logs = np.log(sums) @ np.array([1, -1, -1, 1])
    low, high = np.exp(np.quantile(logs, [(1 - level) / 2, (1 + level) / 2]))
    a, b = rival.price, subject.price
    ratio = a / b if a is not None and b else None
    if rival.paid.any() and (a is None or b == 0):
        ratio = math.inf
    answer = UNDECIDED
    if ratio is not None and ratio >= HALF and low > 1:
        answer = SUPPORTED
    elif high < HALF:
        answer = REFUTED
    more = None
    if answer == UNDECIDED and ratio:
        more = units_to_decide(n, ratio, (float(low), float(high)))
    return PriceRatio(n, b, a, ratio, (float(low), float(high)), answer, more)


def units_to_decide(n: int, ratio: float, ci: tuple[float, float]) -> int | None:
    """The interval of a ratio narrows on the log scale as one over the root of ``n``: how many
    units would part it from 1 where the ratio is at least 2, from 2 where it is less. None for
    never."""
    if ratio == math.inf:
        return None
    at, low, high = math.log(ratio), math.log(ci[0]), math.log(ci[1])
    arm, room = (at - low, at) if ratio >= HALF else (high - at, math.log(HALF) - at)
    return max(n, math.ceil(n * (arm / room) ** 2)) if room > 0 else None


# -- both together -----------------------------------------------------------------------------


def verdict(equal: Equivalence, prices: Sequence[PriceRatio]) -> str:
    """To the claim that the subject matches a rival at half the side effects: supported where both
    accuracies are equal and every price is; refuted where the subject is less accurate by over the
    margin, or any price is at equal accuracy. So it is refuted, too, where a price is and the
    subject is at most equal: one of both is true. ``prices``: at a level that leaves all of them
    together right (:func:`together`)."""
    if equal.answer == REFUTED and not equal.ahead:
        return REFUTED
    if equal.at_most and half(prices) == REFUTED:
        return REFUTED
    if equal.answer != SUPPORTED:
        return UNDECIDED
    return half(prices)


def half(prices: Sequence[PriceRatio]) -> str:
    """To the second part alone, half the side effects: of every price that was measured. It says
    nothing where accuracies differ, since the stronger push has the higher price."""
    if any(p.answer == REFUTED for p in prices):
        return REFUTED
    return SUPPORTED if prices and all(p.answer == SUPPORTED for p in prices) else UNDECIDED


def together(prices: int) -> float:
    """The level of each of several intervals that together hold at 95 % (Bonferroni)."""
    return 1 - LEVEL / max(prices, 1)


# -- a front -----------------------------------------------------------------------------------


def on_front(accuracy: Sequence[float], price: Sequence[float]) -> list[bool]:
    """Which points no other beats in one without losing in the other; of alike ones all."""
    points = list(zip(accuracy, price, strict=True))
    return [not any(a >= x and p <= y and (a, p) != (x, y) for a, p in points) for x, y in points]
