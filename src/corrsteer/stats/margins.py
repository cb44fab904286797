"""By how much the right option is likelier than the best wrong one, and what steering did to that.

A flip needs a margin to cross zero; the margin itself moves with every question, so its shift is
far more sensitive on a few hundred of them. It has no unit of accuracy: a shift says that a plan
acts in some direction, not that it helps. Cost: microseconds an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from corrsteer.records import NAMES, Example, Weighed
from corrsteer.stats.flips import paired
from corrsteer.stats.intervals import t_ci

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = tuple(f"option_{field}" for field in Weighed._fields)
"""Of answers whose options were weighed, a list for each field of :class:`Weighed`."""


class Shift(NamedTuple):
    """Mean margins of ``n`` questions without and with an intervention, the mean difference, and
    its paired t interval; None for a single question."""

    n: int
    before: float
    after: float
    shift: float
    ci: tuple[float, float] | None


def margins(answers: DataFrame, examples: Sequence[Example], likelihood: str) -> np.ndarray:
    """[N] float64, nats: the log-likelihood of the right option minus the best wrong one's, both as
    options are compared by ``likelihood`` (:meth:`corrsteer.records.Weighed.by`).

    Of several right options the likeliest counts. NaN where there is no right or no wrong option,
    or none was weighed. ``answers``: of the ``examples``, in their order.
    """
    found = np.full(len(answers), np.nan)
    if not {*COLUMNS} <= {*answers}:
        return found
    columns = (answers[name] for name in COLUMNS)
    for i, (example, *lists) in enumerate(zip(examples, *columns, strict=True)):
        each = [Weighed(*one).by(likelihood) for one in zip(*lists, strict=True)]
        right = _right(example)
        hits = [x for n, x in enumerate(each) if n in right]
        others = [x for n, x in enumerate(each) if n not in right]
        if hits and others:
            found[i] = max(hits) - max(others)
    return found


def shift(base: DataFrame, other: DataFrame) -> Shift | None:
    """Of two arms with ids and margins; questions without a finite margin in both are left out.
    None where that leaves none."""
    if not {"margin"} <= {*base} & {*other}:
        return None
    before, after = (frame["margin"].to_numpy(float) for frame in paired(base, other))
    known = np.isfinite(before) & np.isfinite(after)
    before, after = before[known], after[known]
    if not len(before):
        return None
    change = after - before
    return Shift(
        n=len(change),
        before=float(before.mean()),
        after=float(after.mean()),
        shift=float(change.mean()),
        ci=t_ci(change),
    )


def _right(example: Example) -> set[int]:
    """The places of the right options. An alias may be the text of one, or another one's letter."""
    names = NAMES[: len(example.options)]
    golds = [example.gold, *(a for a in example.aliases if a not in example.options)]
    return {names.index(gold) for gold in golds if gold and gold in tuple(names)}
