"""Scores that need the distribution of a feature and not its moments: AUROC, mutual information.

Activations are counted in bins, zero in one of its own and the others sixteen to an octave (each
4.4 % wide), with right and wrong answers, shuffled outcomes and resamples apart. A graded outcome
counts as right or wrong.

Error: AUROC takes what is in one bin for equal, so it is off by at most half the chance that a
right and a wrong answer share a bin other than zero's. That bound is known for every feature
(``Scored.error``). Mutual information is that of the zero bin and ``QUANTILES`` bins of about
equally many active samples, whose edges lie on this grid.

Cost: ``(2 + P + 2 R) * 4`` bytes for every bin that some sample of a feature is in, whatever the
number of samples: at most ``D * BINS``, usually 20 to 60 for a live feature (P=100, R=50: 16 to 48
KB). Time: a sparse product per update. A pass of its own, since most runs do not ask for it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from corrsteer.records import RIGHT, Scored
from corrsteer.stats.scores import tabled

PER_OCTAVE, OCTAVES = 16, 12
BINS = 2 * PER_OCTAVE * OCTAVES
"""From 2 ** -12 to 2 ** 12; the first and the last also hold what is beyond."""
QUANTILES = 8
BINNED = ("auroc", "mutual_information")
"""The scores that are made of bins, as a selector asks for them."""


class FeatureBins:
    """Counts of one layer's features. Axes: D = ``width`` features, C bins that are not empty, L
    labellings: all samples, right ones, those with each of P shuffled outcomes, R weights of
    resamples, and the same of right samples."""

    def __init__(self, width: int, n_shuffles: int, n_resamples: int) -> None:
        self.width, self.p, self.r = width, n_shuffles, n_resamples
        columns = 2 + n_shuffles + 2 * n_resamples
        self.cells = np.zeros(0, dtype=np.int64)  # [C] ascending: feature * BINS + bin
        self.counts = np.zeros((0, columns), dtype=np.int32)  # [C, L]
        self.totals = np.zeros(columns, dtype=np.int64)  # [L]

    def update(
        self, z: np.ndarray, y: np.ndarray, y_shuffled: np.ndarray, drawn: np.ndarray
    ) -> None:
        """Add B samples, as in :meth:`corrsteer.stats.moments.FeatureMoments.update`."""
        from scipy.sparse import csr_array

        right = (y >= RIGHT)[:, None]
        labels = np.hstack([np.ones_like(right), right, y_shuffled >= RIGHT, drawn, drawn * right])
        labels = labels.astype(np.int32)
        self.totals += labels.sum(axis=0)
        sample, feature = np.nonzero(z > 0)
        grid = np.floor(PER_OCTAVE * (np.log2(z[sample, feature].astype(float)) + OCTAVES))
        cell = feature * BINS + np.clip(grid, 0, BINS - 1).astype(np.int64)
        cells, place = np.unique(np.concatenate([self.cells, cell]), return_inverse=True)
        counts = np.zeros((len(cells), labels.shape[1]), dtype=np.int32)
        counts[place[: len(self.cells)]] = self.counts
        ones = np.ones(len(cell), dtype=np.int32)
        where = (place[len(self.cells) :], sample)
        counts += csr_array((ones, where), shape=(len(cells), len(z))) @ labels
        self.cells, self.counts = cells, counts

    def scores(self) -> dict[str, Scored]:
        error = np.zeros(self.width)
        n, right = self.totals[:2].tolist()
        if len(self.cells):
            both = self.counts[:, 1] * (self.counts[:, 0] - self.counts[:, 1]).astype(float)
            at = self.cells[self._starts(BINS)] // BINS
            error[at] = np.add.reduceat(both, self._starts(BINS)) / max(2 * right * (n - right), 1)
        made = {}
        for name, score, neutral in (
            ("auroc", self._auroc, 0.5),
            ("mutual_information", self._information, 0.0),
        ):
            (value,) = (score(*pair) for pair in self._pairs("outcomes"))
            made[name] = tabled(
                value,
                (score(*pair) for pair in self._pairs("shuffles")),
                (score(*pair) for pair in self._pairs("resamples")),
                neutral,
                error if name == "auroc" else None,
            )
        return made

    def _pairs(self, kind: str) -> Iterator[tuple[int, int]]:
        """Columns of all samples and of right ones."""
        if kind == "outcomes":
            return iter([(0, 1)])
        if kind == "shuffles":
            return ((0, 2 + k) for k in range(self.p))
        first = 2 + self.p
        return ((first + k, first + self.r + k) for k in range(self.r))

    def _starts(self, size: int) -> np.ndarray:
        """Where each feature's cells begin."""
        return np.flatnonzero(np.diff(self.cells // size, prepend=-1))

    def _auroc(self, every: int, right: int) -> np.ndarray:
        """[D] the chance that a right answer has the higher activation, equal ones counted half."""
        n, n_right = float(self.totals[every]), float(self.totals[right])
        n_wrong = n - n_right
        value = np.full(self.width, 0.5)
        if not (len(self.cells) and n_right and n_wrong):
            return value
        a = self.counts[:, right].astype(float)
        b = self.counts[:, every] - a
        starts = self._starts(BINS)
        lengths = np.diff([*starts, len(a)])
        below = np.cumsum(b) - b
        below -= np.repeat(below[starts], lengths)
        a_zero, b_zero = n_right - np.add.reduceat(a, starts), n_wrong - np.add.reduceat(b, starts)
        wins = np.add.reduceat(a * (below + b / 2), starts)
        wins += np.add.reduceat(a, starts) * b_zero + a_zero * b_zero / 2
        value[self.cells[starts] // BINS] = (wins / (n_right * n_wrong)).round(12)
        return value

    def _information(self, every: int, right: int) -> np.ndarray:
        """[D] mutual information with the outcome in nats, with the sign of AUROC - 1/2."""
        n, n_right = float(self.totals[every]), float(self.totals[right])
        value = np.zeros(self.width)
        if not (len(self.cells) and 0 < n_right < n):
            return value
        starts = self._starts(BINS)
        groups = self._quantiles(starts)
        a = np.add.reduceat(self.counts[:, right].astype(float), groups)
        m = np.add.reduceat(self.counts[:, every].astype(float), groups)
        firsts = np.searchsorted(groups, starts)
        joint = _xlogx(a) + _xlogx(m - a) - _xlogx(m)
        a_zero, m_zero = n_right - np.add.reduceat(a, firsts), n - np.add.reduceat(m, firsts)
        total = np.add.reduceat(joint, firsts)
        total += _xlogx(a_zero) + _xlogx(m_zero - a_zero) - _xlogx(m_zero)
        margin = _xlogx(np.array([n_right, n - n_right])).sum() - _xlogx(np.array([n]))[0]
        places = self.cells[starts] // BINS
        value[places] = np.maximum((total - margin) / n, 0.0).round(12)
        return value * np.sign(self._auroc(every, right) - 0.5)

    def _quantiles(self, starts: np.ndarray) -> np.ndarray:
        """Where each quantile bin begins among the cells; by all samples, whatever the outcome."""
        c = self.counts[:, 0].astype(float)
        lengths = np.diff([*starts, len(c)])
        middle = np.cumsum(c) - c / 2
        middle -= np.repeat((np.cumsum(c) - c)[starts], lengths)
        whole = np.repeat(np.add.reduceat(c, starts), lengths)
        group = np.floor(QUANTILES * middle / whole) + QUANTILES * (self.cells // BINS)
        return np.flatnonzero(np.diff(group, prepend=-1))


def _xlogx(x: np.ndarray) -> np.ndarray:
    return x * np.log(np.where(x > 0, x, 1.0))
