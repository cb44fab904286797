"""Several seeds of one experiment: its mean and spread over seeds, and its gain by sample.

The test splits of different seeds overlap in part, and the answers to one question are not
independent: pooled over seeds they would count some questions several times. So gains are averaged
within a sample first, and only samples are counted or exchanged. What is inferred holds for new
questions and the plans at hand; how much plans differ is what the spread over seeds says.

Cost: the exact p-value is one Fourier transform, milliseconds for three seeds of thousands of
samples; a second or two for ten.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from corrsteer.records import RIGHT
from corrsteer.stats.flips import paired
from corrsteer.stats.intervals import difference_ci

if TYPE_CHECKING:
    from pandas import DataFrame, Series

SMALLEST_P = 1e-12
"""The precision of :func:`sign_flip_p`: smaller ones are given as this."""


@dataclass(frozen=True)
class GainBySample:
    """``gain``: mean over ``n`` samples of each one's mean gain over the seeds it occurs in.

    ``repeated`` of the samples occur in more than one seed. ``ci``: 95 % score interval over
    samples. ``p``: two-sided, exact, that steering helps a sample as often as it harms it.
    """

    n: int
    repeated: int
    gain: float
    ci: tuple[float, float]
    p: float


def over_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (ddof 1) of one number per seed; None of a single seed."""
    assert len(values), "no seed"
    mean = float(np.mean(values))
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def gain_by_sample(pairs: Sequence[tuple[DataFrame, DataFrame]]) -> GainBySample:
    """``pairs``: (baseline, steered) answers of the test split for each seed of the experiment,
    with columns id, score, invalid. An invalid answer is not right.

    Raises ValueError where two arms are not answers to the same samples.
    """
    import pandas as pd

    arms = [paired(base, steered) for base, steered in pairs]
    gains = pd.concat([_right(after) - _right(before) for before, after in arms])
    by_sample = gains.groupby(level=0)
    total, seeds = by_sample.sum().to_numpy(), by_sample.size().to_numpy()
    unit = math.lcm(*np.unique(seeds).tolist())
    return GainBySample(
        n=len(total),
        repeated=int((seeds > 1).sum()),
        gain=float(np.mean(total / seeds)),
        ci=difference_ci(total / seeds),
        p=sign_flip_p(total * (unit // seeds)),
    )


def sign_flip_p(gains: np.ndarray) -> float:
    """Two-sided exact p-value of Fisher's sign-flip test: how often the sum of ``gains`` [N],
    whole numbers, would be as far from 0 if the sign of each were a coin toss.

    If steering does nothing to a sample, its answers with and without could as well be exchanged,
    in all seeds at once. With one seed this is the exact McNemar test. The sum's distribution comes
    from its characteristic function, the product of ``cos(gain * t)``; right to 1e-12.
    """
    sizes, counts = np.unique(np.abs(gains[gains != 0]), return_counts=True)
    observed = abs(int(gains.sum()))
    if observed == 0:
        return 1.0
    step = math.gcd(*sizes.tolist())
    sizes, observed = sizes // step, observed // step
    length = 2 * int(sizes @ counts) + 2  # sums from -(sizes @ counts) on, and even
    t = 2 * np.pi / length * np.arange(length // 2 + 1)
    product = np.ones(len(t))
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        product *= np.cos(size * t) ** count
    chances = np.fft.irfft(product, length)  # of the sums 0, 1, ..., ..., -2, -1
    far = float(chances[observed : length - observed + 1].sum())
    return min(max(far, SMALLEST_P), 1.0)


def _right(arm: DataFrame) -> Series:
    return ((arm["score"] >= RIGHT) & ~arm["invalid"].astype(bool)).astype(int)
