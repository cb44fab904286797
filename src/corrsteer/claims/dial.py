"""Is the plan a dial? From a sweep over 17 coefficients at one seed.

The usable range is the largest interval of dials around 0 with few degenerate answers and little
KL divergence on neutral text (the cut of Arditi et al., arXiv 2406.11717). Whether accuracy rises
over it: isotonic against free fit, by permutation. Each question's answers are dealt anew to the
dials after the isotonic fit has been taken off, and put back on it, so the null is a curve that
only rises. Costs a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd

from corrsteer.claims.reading import done_jobs
from corrsteer.claims.record import Found, Number, Table, Word
from corrsteer.errors import DataError
from corrsteer.records import RIGHT
from corrsteer.report.numbers import interval, pct, points, short
from corrsteer.report.record import Record
from corrsteer.report.tables import read_answers
from corrsteer.stats.intervals import SIGNIFICANT
from corrsteer.steering.arms import STEERED

DIALS = tuple(n / 4 for n in range(-4, 13))
WORD = f"coef={','.join(f'{dial:g}' for dial in DIALS)}"
DEGENERATE, KL = 0.02, 0.1
PERMUTATIONS = 2000


def reversal_p(right: np.ndarray, seed: int = 0, draws: int = PERMUTATIONS) -> float:
    """p that the mean of ``right`` [dials, questions] only rises with the dial. The statistic is
    the sum of squares that the isotonic fit leaves and a free one does not."""
    from scipy.optimize import isotonic_regression

    def lacking(x: np.ndarray) -> float:
        curve = x.mean(axis=1)
        return float(((curve - isotonic_regression(curve).x) ** 2).sum())

    observed, rng = lacking(right), np.random.default_rng(seed)
    fit = isotonic_regression(right.mean(axis=1)).x[:, None]
    rest = right - right.mean(axis=1, keepdims=True)
    drawn = sum(lacking(fit + rng.permuted(rest, axis=0)) >= observed - 1e-12 for _ in range(draws))
    return (1 + drawn) / (1 + draws)


def usable(dials: Sequence[float], good: Sequence[bool]) -> tuple[float, float]:
    """The largest interval of rising ``dials`` around 0 where all are good; (0, 0): none is."""
    at = min(range(len(dials)), key=lambda n: abs(dials[n]))
    low = high = at
    while low > 0 and good[low - 1]:
        low -= 1
    while high + 1 < len(dials) and good[high + 1]:
        high += 1
    return dials[low], dials[high]


def read(folder: Path) -> dict[str, Found]:
    _, results = done_jobs(folder)
    jobs = sorted(results, key=lambda job: results[job].coef)
    dials = [results[job].coef for job in jobs]
    if missing := set(DIALS) - set(dials):
        raise DataError(
            f"{len(missing)} of the {len(DIALS)} dials of {folder} are not done: type its command"
            " again"
        )
    degenerate = [_degenerate(results[job]) for job in jobs]
    kl = [_kl(results[job]) for job in jobs]
    good = [d <= DEGENERATE and k <= KL for d, k in zip(degenerate, kl, strict=True)]
    low, high = usable(dials, good)
    inside = [job for job, dial in zip(jobs, dials, strict=True) if low <= dial <= high]
    p = reversal_p(_right(folder, inside)) if len(inside) > 1 else 1.0
    gains = {dial: results[job].gain for job, dial in zip(jobs, dials, strict=True)}
    answer: Word = "supported"
    if high < 1 or p <= SIGNIFICANT:
        answer = "refuted"
    elif not gains[high] > gains[low]:
        answer = "undecided"
    rows = [
        [short(dial), pct(results[job].arms[STEERED].accuracy),
         f"{points(results[job].gain)} {interval(results[job].gain_ci)}",
         pct(d), short(k), "yes" if ok else "no"]
        for dial, job, d, k, ok in zip(dials, jobs, degenerate, kl, good, strict=True)
    ]  # fmt: skip
    columns = ["coef", "Accuracy", "Gain [95 %]", "Degenerate", "KL, nats", "Usable"]
    found = Found(
        answer=answer,
        sentence=(
            f"Usable from {short(low)} to {short(high)}; over that range accuracy goes from"
            f" {points(gains[low])} to {points(gains[high])} points, and a reversal has p ="
            f" {p:.2g}."
        ),
        # The usable range is in the sentence: it is no interval of this number.
        number=Number(what="largest usable dial", value=high, ci=None, unit="number"),
        table=Table(columns=columns, rows=rows),
    )
    return {"dial": found}


def _degenerate(record: Record) -> float:
    """Share of the test answers and, where they were asked, of the unrelated ones, whichever is
    larger."""
    arm = record.arms[STEERED]
    shares = [arm.degenerate / arm.n]
    effects = record.side_effects
    if effects is not None and effects.off_target is not None:
        text = effects.off_target.text.arms.get(STEERED)
        if text is not None and text.n:
            shares.append(text.degenerate / text.n)
    return max(shares)


def _kl(record: Record) -> float:
    if record.side_effects is None or record.side_effects.neutral is None:
        raise DataError("the dial's jobs measured no neutral text: leave side_effects as it is")
    return record.side_effects.neutral.arms[STEERED].kl


def _right(folder: Path, jobs: Sequence[int]) -> np.ndarray:
    """[dials, questions], of the questions that all answered."""
    columns = []
    for job in jobs:
        rows = read_answers(folder / str(job), ["id", "score", "invalid"], ["test"], [STEERED])
        right = (rows["score"] >= RIGHT) & ~rows["invalid"].astype(bool)
        columns.append(pd.Series(right.to_numpy(float), index=rows["id"].to_numpy()))
    ids = reduce(pd.Index.intersection, (column.index for column in columns))
    return np.stack([column.loc[ids].to_numpy() for column in columns])
