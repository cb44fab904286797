"""Scores of features beside Pearson r, from sums that the same pass keeps, without torch.

A score is one number per feature that is above ``neutral`` where the feature is more active on
right answers. Each is evaluated on the outcomes, on P shuffled outcomes (its noise ceiling) and in
R bootstrap resamples (the stability of its choice). An outcome between 0 and 1 counts as right by
that share.

Cost: ``(1 + P + 2 R) * D`` numbers of 8 bytes per layer beside the moments' (P=100, R=50,
D=16384: 26 MB), and matrix products of as many rows per update. What is kept of it is a table per
score, ``3 D + 2 P + 40 R`` numbers. Precision: sums about the shifts of the moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from typing import Any, NamedTuple

import numpy as np

from corrsteer.records import LayerStats, Scored

KEPT = 20
"""Features that are kept of every resample, best first: enough for a selector to pass over those
that it holds ineligible."""
ROUNDING = 1e-10
"""Scores that differ by this share are equal."""
TINY = 1e-12
CELLS = 2**14
COUNTS = ("layer", "n", "n_right", "left_out")
NOT_KEPT = ("mirror", "shuffled_sign")
"""Fields that are put together of several entries."""


class Labelled(NamedTuple):
    """What a score may read of some labellings of the samples as right and wrong; all [L, D]."""

    mean_right: np.ndarray
    mean_wrong: np.ndarray
    variance_right: np.ndarray
    variance_wrong: np.ndarray
    square_right: np.ndarray
    """Mean of z ** 2 over right samples."""
    square_wrong: np.ndarray
    partial: np.ndarray
    """Correlation of what the length of the answer leaves unexplained of z and of the outcome."""
    varies: np.ndarray
    """bool: whether feature and outcome both vary; where not, the score is the neutral one."""


class Score(NamedTuple):
    by: Callable[[Labelled], np.ndarray]
    neutral: float = 0.0

    def of(self, x: Labelled) -> np.ndarray:
        """[L, D] scores under each labelling."""
        return np.where(x.varies, self.by(x), self.neutral)


def mean_difference(x: Labelled) -> np.ndarray:
    """Mean of z over right minus over wrong answers (contrastive activation addition, Panickssery
    et al. 2023, in the space of features)."""
    difference: np.ndarray = x.mean_right - x.mean_wrong
    return difference


def fisher_ratio(x: Labelled) -> np.ndarray:
    """Squared difference of the class means over the sum of the class variances (Fisher 1936), with
    the sign of the difference; finite where neither class varies."""
    d = x.mean_right - x.mean_wrong
    spread = x.variance_right + x.variance_wrong
    least = TINY * (x.square_right + x.square_wrong)
    floor = np.maximum(least, np.finfo(float).tiny)
    ratio: np.ndarray = np.sign(d) * d**2 / np.maximum(spread, floor)
    return ratio


def square_ratio(x: Labelled) -> np.ndarray:
    """a / (a + b) for the ratio a / b of mean squared activations, right over wrong (dynamic SAE
    guardrails, Muhamed et al. 2025), which ranks as a / b does. Where b is 0 it is 1, and such
    features are told apart by a: up to 1e-9 is added."""
    a, b = x.square_right, x.square_wrong
    ratio = (a / np.where(a + b > 0, a + b, 1.0)).round(12)
    most = np.maximum(a.max(axis=-1, keepdims=True), np.finfo(float).tiny)
    only_right = ratio + 1e-9 * a / most
    return np.where(a + b > 0, np.where(ratio == 1, only_right, ratio), 0.5)


def partial(x: Labelled) -> np.ndarray:
    """Partial correlation with the outcome, given the length of the answer in tokens."""
    return x.partial


SCORES: dict[str, Score] = {
    "mean_difference": Score(mean_difference),
    "fisher_ratio": Score(fisher_ratio),
    "square_ratio": Score(square_ratio, neutral=0.5),
    "partial": Score(partial),
}
"""By the name that a selector asks for. Whoever adds one has to collect again."""


def best(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The K <= ``KEPT`` highest of ``row`` [D]: their places, best first, equal ones by lower
    place, and their values."""
    k = min(KEPT, len(row))
    among = np.flatnonzero(row >= np.partition(row, -k)[-k])
    places = among[np.argsort(-row[among], kind="stable")][:k]
    return places, row[places]


class Table:
    """The table of one score in the making: ``value`` [D] on the outcomes, to which rows [L, D]
    are added. ``neutral``: what says nothing of a feature. ``silent``: so many features
    more, for which every row would have that."""

    def __init__(self, value: np.ndarray, neutral: float, silent: int = 0) -> None:
        self.value, self.neutral = value, neutral
        found = np.flatnonzero(value > neutral)
        bar = value[found] - ROUNDING * np.abs(value[found])
        order = np.argsort(bar)  # sorted bars are searched several times as fast
        self._found, self._bar = found[order], bar[order]
        self._beside = silent * (self._bar <= neutral)
        self._at_least = np.zeros(len(value), dtype=np.int64)
        self._highest: list[float] = []
        self._first: list[int] = []
        self._best: list[tuple[np.ndarray, np.ndarray]] = []

    def add_shuffled(self, rows: np.ndarray) -> None:
        """On shuffled outcomes."""
        self._highest += rows.max(axis=1).tolist()
        self._first += rows.argmax(axis=1).tolist()
        values = np.sort(rows, axis=None)
        self._at_least[self._found] += values.size - np.searchsorted(values, self._bar)
        self._at_least[self._found] += len(rows) * self._beside

    def add_resampled(self, rows: np.ndarray) -> None:
        """In resamples."""
        self._best += map(best, rows)

    def done(self, error: np.ndarray | None = None) -> Scored:
        k = min(KEPT, len(self.value))
        return Scored(
            value=self.value,
            neutral=self.neutral,
            at_least=self._at_least,
            max_shuffled=np.array(self._highest, dtype=np.float64),
            shuffled_best=np.array(self._first, dtype=np.int64),
            resampled_best=np.array([places for places, _ in self._best], np.int64).reshape(-1, k),
            resampled=np.array([values for _, values in self._best], np.float64).reshape(-1, k),
            error=np.zeros(len(self.value)) if error is None else error,
        )


def tabled(
    value: np.ndarray,
    shuffled: Iterable[np.ndarray],
    resampled: Iterable[np.ndarray],
    neutral: float,
    error: np.ndarray | None = None,
) -> Scored:
    """The table of one score, whose rows are made by themselves and read once."""
    table = Table(value, neutral)
    for row in shuffled:
        table.add_shuffled(row[None])
    for row in resampled:
        table.add_resampled(row[None])
    return table.done(error)


def parts(first: int, end: int, features: int) -> Iterator[slice]:
    """Numbers of labellings, as many at once as a processor's cache holds sums of."""
    step = max(1, CELLS // features)
    return (slice(at, min(at + step, end)) for at in range(first, end, step))


def tables(rows: Callable[[str], Iterator[Labelled]], silent: int = 0) -> dict[str, Scored]:
    """Every score's table. ``rows``: of ``outcomes`` (one), ``shuffles`` and ``resamples``, each
    read once: making them costs more than all scores of them. ``silent``: see :class:`Table`."""
    (outcomes,) = rows("outcomes")
    made = {
        name: Table(score.of(outcomes)[0], score.neutral, silent) for name, score in SCORES.items()
    }
    for x in rows("shuffles"):
        for name, table in made.items():
            table.add_shuffled(SCORES[name].of(x))
    for x in rows("resamples"):
        for name, table in made.items():
            table.add_resampled(SCORES[name].of(x))
    return {name: table.done() for name, table in made.items()}


def placed(scored: Scored, features: np.ndarray, width: int) -> Scored:
    """The exact table of some of ``width`` features, as that of all: the others score neutral."""
    value, at_least = np.full(width, scored.neutral), np.zeros(width, dtype=np.int64)
    value[features], at_least[features] = scored.value, scored.at_least
    return replace(
        scored,
        value=value,
        at_least=at_least,
        shuffled_best=features[scored.shuffled_best],
        resampled_best=features[scored.resampled_best],
        error=np.zeros(width),
    )


# -- form on disk --------------------------------------------------------------------------------


def to_arrays(stats: LayerStats) -> dict[str, Any]:
    """What an npz holds of a layer: its fields, and ``score.field`` of the other scores."""
    values = {f.name: getattr(stats, f.name) for f in fields(LayerStats) if f.name not in NOT_KEPT}
    return values | scored_to_arrays(values.pop("others"))


def scored_to_arrays(others: Mapping[str, Scored]) -> dict[str, np.ndarray]:
    return {
        f"{name}.{field}": array
        for name, scored in others.items()
        for field, array in asdict(scored).items()
    }


def scored_from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Scored]:
    others: dict[str, dict[str, Any]] = {}
    for key in arrays:
        name, _, field = key.partition(".")
        if field:
            others.setdefault(name, {})[field] = arrays[key]
    return {n: Scored(**{**x, "neutral": float(x["neutral"])}) for n, x in others.items()}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> LayerStats:
    """An earlier version's may lack what came later."""
    names = {f.name for f in fields(LayerStats)}
    values: dict[str, Any] = {name: arrays[name] for name in arrays if name in names}
    values |= {name: int(values[name]) for name in COUNTS if name in values}
    if "residual" in values:
        values["residual"] = float(values["residual"])
    return LayerStats(**values, others=scored_from_arrays(arrays))
