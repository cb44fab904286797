"""Streaming statistics of SAE features against outcomes, in float64, without torch.

One pass over pooled activations gives, for every feature of a layer, the Pearson correlation
with the outcome, with P shuffled outcomes (the noise ceiling) and with the length of the answer,
means and frequencies; and the features that R bootstrap resamples of the samples would have chosen
(the stability of the choice). A sample that a resample draws w times has the weight w in it.

A feature that was never active has sums of exactly 0, so nothing is kept of it: what is said below
of D holds for the features that some sample has been active in.

Cost: memory ``(2 P + 5 R + 9) * D`` numbers of 8 bytes per layer, whatever the number of samples
(P=100, R=50, D=16384: 60 MB, of which 26 are :mod:`corrsteer.stats.spreads`), and a temporary of up
to two thirds of it per update; time is float64 matrix products of ``[5 + 2 P + 5 R, B] @ [B, D]``
per update, so feed batches of tens of samples or more. Cheaper: fewer shuffles and resamples; both
costs are linear in them.

Precision: second moments are sums about a fixed shift, the mean of the first batch. That mean
belongs to the data, so it lies within ``sqrt(n / B)`` standard deviations of the final mean
and the cancellation costs at most a factor ``n / B`` of float64's 1e-16, however large
mean / std is. Accumulators with different shifts are merged by the pairwise update of Chan,
Golub and LeVeque (1983, "Algorithms for computing the sample variance", eq. 2.1). Those of
resamples are moved to the joint shift instead, which loses no more: the shift is still a mean of
data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from corrsteer.errors import DegenerateOutcomesError, ModelError
from corrsteer.records import R_BINS, RIGHT, LayerStats, Scored, r_bin
from corrsteer.stats import scores
from corrsteer.stats.spreads import Spreads, partial_r, widened

CONSTANT = 1e-12
"""A variable whose standard deviation is below this share of its mean does not vary: what is
left is rounding, and correlating that would give finite nonsense."""

_OF_FEATURES = ("z_shift", "z_sq", "products", "active", "active_right", "resampled")
"""Arrays whose last axis is the features."""
_ARRAYS = (*_OF_FEATURES, "features", "counts", "y_shift", "y_sum", "y_sq", "y_length", "draws")


class FeatureMoments:
    """Accumulates one layer of ``width`` features. Axes: B samples, D features that have been
    active, P = ``n_shuffles``, Q = 2 + P outcomes (the real one, the shuffled ones, and the length
    of the answer), R = ``n_resamples`` resamples, of which there may be none.

    One matrix product per update, of [1, right, outcomes] with the activations, holds every
    first moment and co-moment over all samples. Outcomes are shifted like activations.
    """

    def __init__(self, width: int, n_shuffles: int, n_resamples: int) -> None:
        assert width > 0 and n_shuffles > 0 and n_resamples >= 0, (width, n_shuffles, n_resamples)
        self.width = width
        self.features = np.zeros(0, dtype=np.int64)  # [D] ascending: those that were active
        self.counts = np.zeros(2, dtype=np.int64)  # n, n_right
        self.left_out = 0  # positions that were not pooled: the caller counts them
        self.z_shift = np.zeros(0)  # [D]
        self.z_sq = np.zeros(0)  # [D] sum of (z - shift) ** 2
        self.y_shift = np.zeros(2 + n_shuffles)  # [Q]
        self.y_sum = np.zeros(2 + n_shuffles)  # [Q] sum of y - shift
        self.y_sq = np.zeros(2 + n_shuffles)  # [Q] sum of (y - shift) ** 2
        self.y_length = np.zeros(())  # sum of (outcome - shift) * (length - shift)
        # [2 + Q, D] sums of z - shift: over all samples, over right ones, times each y - shift
        self.products = np.zeros((4 + n_shuffles, 0))
        self.active = np.zeros(0, dtype=np.int64)  # [D] samples with z > 0
        self.active_right = np.zeros(0, dtype=np.int64)
        # With z and the outcome y shifted, and the weight w of a sample in a resample:
        self.draws = np.zeros((3, n_resamples))  # sums of w, w * y, w * y**2
        self.resampled = np.zeros((3, n_resamples, 0))  # sums of w * z, w * y * z, w * z**2
        self.spreads = Spreads(0, n_shuffles, n_resamples)
        self.norms = np.zeros(2)  # of the residuals that were pooled: sum, and how many

    @property
    def n(self) -> int:
        return int(self.counts[0])

    @property
    def n_right(self) -> int:
        return int(self.counts[1])

    def update(
        self,
        z: np.ndarray,
        y: np.ndarray,
        y_shuffled: np.ndarray,
        lengths: np.ndarray | None = None,
        drawn: np.ndarray | None = None,
        features: np.ndarray | None = None,
    ) -> None:
        """Add B samples: pooled activations ``z`` [B, width] >= 0 of any float type, outcomes
        ``y`` [B] in [0, 1], their shuffled ones [B, P], the ``lengths`` [B] of the answers (None:
        all alike), and how often resamples draw them, [B, R] (None: R is 0).
        ``features``: ascending, those that ``z`` has columns of, where all others are 0.

        Raises ModelError if an activation is not finite.
        """
        features = np.arange(self.width) if features is None else features
        lengths = np.zeros(len(y)) if lengths is None else lengths
        drawn = np.zeros((len(y), 0)) if drawn is None else drawn
        shapes = z.shape, y.shape, y_shuffled.shape, lengths.shape, drawn.shape
        b, q, r = len(y), len(self.y_shift), self.draws.shape[1]
        assert shapes == ((b, len(features)), (b,), (b, q - 2), (b,), (b, r)), shapes
        assert ((y >= 0) & (y <= 1)).all(), "outcomes lie in [0, 1]"
        if b == 0:
            return
        low, high = z.min(initial=0), z.max(axis=0)
        if not (np.isfinite(low) and np.isfinite(high).all()):  # min and max pass a nan on
            raise ModelError(
                "the SAE gave activations that are not finite (nan or inf): check that it fits "
                "the model and run the model in float32"
            )
        assert low >= 0, "activations of an SAE are not negative"
        live = high > 0
        self._hold(features[live])
        if len(self.features) < self.width or len(features) < self.width:
            found = z[:, live]
            z = np.zeros((b, len(self.features)), z.dtype)
            z[:, np.searchsorted(self.features, features[live])] = found
        right = y >= RIGHT
        outcomes = np.column_stack([y, y_shuffled, lengths]).astype(np.float64)
        if self.n == 0:
            self.z_shift = z.mean(axis=0, dtype=np.float64)
            self.y_shift = outcomes.mean(axis=0)
        outcomes -= self.y_shift
        d = z - self.z_shift  # float64, because the shift is
        squares = d**2
        self.counts += np.array([b, np.count_nonzero(right)])
        self.products += np.column_stack([np.ones(b), right, outcomes]).T @ d
        self.z_sq += np.einsum("bd,bd->d", d, d)
        self.y_sum += outcomes.sum(axis=0)
        self.y_sq += np.einsum("bq,bq->q", outcomes, outcomes)
        self.y_length += outcomes[:, 0] @ outcomes[:, -1]
        live = z > 0
        self.active += np.count_nonzero(live, axis=0)
        self.active_right += np.count_nonzero(live[right], axis=0)
        if r:
            dy = outcomes[:, :1]
            weights = np.hstack([drawn, drawn * dy])
            self.draws[:2] += weights.sum(axis=0).reshape(2, r)
            self.draws[2] += dy[:, 0] ** 2 @ drawn
            self.resampled[:2] += (weights.T @ d).reshape(2, r, -1)
            self.resampled[2] += weights[:, :r].T @ squares
        self.spreads.update(d, squares, outcomes, drawn)

    def _hold(self, features: np.ndarray) -> None:
        """Keep sums of these features, too: of new ones they are 0 so far."""
        held = np.union1d(self.features, features)
        if len(held) == len(self.features):
            return
        places = np.searchsorted(held, self.features)
        for name in _OF_FEATURES:
            setattr(self, name, widened(getattr(self, name), places, len(held)))
        self.spreads = self.spreads.widened(places, len(held))
        self.features = held

    def _with(self, features: np.ndarray) -> FeatureMoments:
        """One to be read that has sums of these features, too."""
        out = copy.copy(self)
        out._hold(features)
        return out

    def merge(self, other: FeatureMoments) -> FeatureMoments:
        """The accumulator that would have seen the samples of both; neither is changed."""
        same = self.width == other.width and len(self.y_shift) == len(other.y_shift)
        assert same and self.draws.shape == other.draws.shape, (
            "other features, shuffles or resamples"
        )
        return self._with(other.features)._merged(other._with(self.features))

    def _merged(self, other: FeatureMoments) -> FeatureMoments:
        if self.n == 0 or other.n == 0:
            return self.from_arrays((other if self.n == 0 else self).to_arrays())
        n = self.n + other.n
        share = self.n * other.n / n
        dz = other._z_mean() - self._z_mean()
        dy = other._y_mean() - self._y_mean()
        out = FeatureMoments(self.width, len(dy) - 2, self.draws.shape[1])
        out._hold(self.features)
        out.counts = self.counts + other.counts
        out.left_out = self.left_out + other.left_out
        out.norms = self.norms + other.norms
        # Shifted by the joint means, the plain sums vanish and central moments are the rest.
        out.z_shift = self._z_mean() + dz * (other.n / n)
        out.y_shift = self._y_mean() + dy * (other.n / n)
        out.z_sq = self._z_m2() + other._z_m2() + share * dz**2
        out.y_sq = self._y_m2() + other._y_m2() + share * dy**2
        out.y_length = self._y_length() + other._y_length() + share * dy[0] * dy[-1]
        out.products[2:] = self._co_moments() + other._co_moments() + share * np.outer(dy, dz)
        for part in (self, other):
            out.products[1] += part.products[1] + part.n_right * (part.z_shift - out.z_shift)
            draws, resampled = part._moved_to(out.z_shift, out.y_shift[0])
            out.draws += draws
            out.resampled += resampled
            out.spreads.add(part.spreads.moved(part, out.z_shift, out.y_shift))
        out.active = self.active + other.active
        out.active_right = self.active_right + other.active_right
        return out

    def _moved_to(self, z_shift: np.ndarray, y_shift: float) -> tuple[np.ndarray, np.ndarray]:
        """``draws`` and ``resampled`` as sums about other shifts."""
        dz, dy = self.z_shift - z_shift, self.y_shift[0] - y_shift
        w, wy, wyy = self.draws
        wz, wyz, wzz = self.resampled
        moved = wy + dy * w
        draws = np.stack([w, moved, wyy + dy * (wy + moved)])
        resampled = np.stack(
            [
                wz + np.outer(w, dz),
                wyz + dy * wz + np.outer(moved, dz),
                wzz + dz * (2 * wz + np.outer(w, dz)),
            ]
        )
        return draws, resampled

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Copies of the whole state, for saving; :meth:`from_arrays` restores it exactly."""
        arrays = {name: getattr(self, name).copy() for name in _ARRAYS}
        more = {"left_out": np.array(self.left_out), "norms": self.norms.copy()}
        more["width"] = np.array(self.width)
        return {**arrays, **self.spreads.to_arrays(), **more}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> FeatureMoments:
        out = cls(int(arrays["width"]), len(arrays["y_shift"]) - 2, arrays["draws"].shape[1])
        for name in _ARRAYS:
            setattr(out, name, np.array(arrays[name]))
        out.left_out = int(arrays["left_out"]) if "left_out" in arrays else 0
        out.norms = np.array(arrays["norms"])
        out.spreads.restore(arrays)
        return out

    def finish(self, layer: int) -> LayerStats:
        """The statistics so far; the accumulator may go on.

        Raises DegenerateOutcomesError if the outcomes do not vary.
        """
        n, n_right = self.n, self.n_right
        if n == 0 or not _varies(self._y_m2()[0], self._y_mean()[0], n):
            raise DegenerateOutcomesError(
                f"all {n} answers of the selection split have the same score "
                f"({n_right} of {n} right), so no feature can correlate with it: raise limit= or "
                "choose a task= or model= with both right and wrong answers"
            )
        m, wide = self._read()
        n_wrong = n - n_right
        wrong_sum = m.products[0] - m.products[1]
        active_wrong = m.active - m.active_right
        rows = m._correlations()
        r, r_shuffled, r_length = rows[0], rows[1:-1], rows[-1]
        counts = np.zeros(R_BINS + 1, dtype=np.int64)
        for part in scores.parts(0, len(r_shuffled), len(m.features)):
            some = r_shuffled[part]
            counts += np.bincount(r_bin(some[some > 0]), minlength=R_BINS + 1)
        resampled_best, resampled_r = m._best_of_resamples()
        return LayerStats(
            layer=layer,
            n=n,
            n_right=n_right,
            r=wide(r),
            r_length=wide(r_length),
            r_adjusted=wide(partial_r(r, r_length, self._outcome_and_length())),
            mean=wide(m._mean(m.products[0], n, m.active)),
            mean_right=wide(m._mean(m.products[1], n_right, m.active_right)),
            mean_wrong=wide(m._mean(wrong_sum, n_wrong, active_wrong)),
            freq=wide(m.active / n),
            freq_right=wide(m.active_right / max(n_right, 1)),
            freq_wrong=wide(active_wrong / max(n_wrong, 1)),
            max_shuffled_r=r_shuffled.max(axis=1),
            shuffled_best=m.features[r_shuffled.argmax(axis=1)],
            shuffled_counts=counts,
            resampled_best=m.features[resampled_best],
            resampled_r=resampled_r,
            left_out=self.left_out,
            residual=float(self.norms[0] / self.norms[1]) if self.norms[1] else float("nan"),
        )

    def _read(self) -> tuple[FeatureMoments, Callable[[np.ndarray], np.ndarray]]:
        """One whose features tell all: those that were active, and the first of the others, which
        are alike, as many as a choice may come to. And what makes its arrays [width]."""
        silent = np.setdiff1d(np.arange(self.width), self.features, assume_unique=True)
        m = self._with(silent[: scores.KEPT])
        return m, lambda x: widened(x, m.features, self.width)

    def scores(self) -> dict[str, Scored]:
        """Every other score (:data:`corrsteer.stats.scores.SCORES`) with its null and resamples."""
        m, _ = self._read()
        rows = m._correlations()
        m2, mean = self._y_m2(), self._y_mean()
        varies = _varies(m2, mean, self.n)
        lengths = self.spreads.y_lengths - self.y_sum[:-1] * self.y_sum[-1] / self.n
        spread = np.sqrt(np.where(varies[:-1] & varies[-1], m2[:-1] * m2[-1], 1.0))
        beside = np.where(varies[:-1] & varies[-1], np.clip(lengths / spread, -1.0, 1.0), 0.0)

        def labellings(kind: str) -> Iterator[scores.Labelled]:
            if kind == "resamples":
                for part in scores.parts(0, self.draws.shape[1], len(m.features)):
                    yield m.spreads.of_resamples(m, part, m._resampled_r(part))
                return
            ends = (0, 1) if kind == "outcomes" else (1, len(beside))
            for part in scores.parts(*ends, len(m.features)):
                partial = partial_r(rows[part], rows[-1], beside[part, None])
                yield m.spreads.of_outcomes(m, part, rows[part], partial)

        made = scores.tables(labellings, self.width - len(m.features))
        return {name: scores.placed(one, m.features, self.width) for name, one in made.items()}

    def _best_of_resamples(self) -> tuple[np.ndarray, np.ndarray]:
        """Two [R, K]: the K <= ``KEPT`` features with the highest correlations in each resample,
        best first, equal ones by lower number, and those correlations."""
        k = min(scores.KEPT, self.width)
        best = np.zeros((self.draws.shape[1], k), dtype=np.int64)
        best_r = np.zeros(best.shape)
        for part in scores.parts(0, len(best), len(self.features)):
            for row, r in enumerate(self._resampled_r(part), part.start):
                best[row], best_r[row] = scores.best(r)
        return best, best_r

    def _resampled_r(self, part: slice) -> np.ndarray:
        """[R, D] correlations with the outcome in some resamples, 0 where either does not vary."""
        w, wy, wyy = self.draws[:, part, None]
        wz, wyz, wzz = self.resampled[:, part]
        n = np.maximum(w, 1.0)  # none of the samples so far may be in it
        y_m2, z_m2 = wyy - wy**2 / n, wzz - wz**2 / n
        # What varies over all samples may be constant in a resample, far from the shift: then the
        # cancellation of the second moment leaves rounding. So a spread below 1e-6 of the distance
        # from the shift counts as none.
        y_varies = _varies(y_m2, self.y_shift[0] + wy / n, n) & (y_m2 > CONSTANT * wyy)
        z_varies = _varies(z_m2, self.z_shift + wz / n, n) & (z_m2 > CONSTANT * wzz)
        r = (wyz - wy * wz / n) / np.sqrt(np.where(z_varies, z_m2, 1.0))
        r /= np.sqrt(np.where(y_varies, y_m2, 1.0))
        return np.where(z_varies & y_varies, np.clip(r, -1.0, 1.0), 0.0)

    def _outcome_and_length(self) -> float:
        """Pearson r of the outcome with the length, 0 if the length does not vary."""
        m2, mean = self._y_m2()[[0, -1]], self._y_mean()[[0, -1]]
        if not _varies(m2, mean, self.n).all():
            return 0.0
        return float(np.clip(self._y_length() / np.sqrt(m2.prod()), -1.0, 1.0))

    def _mean(self, shifted_sum: np.ndarray, count: int, active: np.ndarray) -> np.ndarray:
        """[D] mean over ``count`` samples, exactly 0 where none of them is active."""
        return np.where(active > 0, self.z_shift + shifted_sum / max(count, 1), 0.0)

    def _correlations(self) -> np.ndarray:
        """[Q, D] Pearson r of every feature with every outcome, 0 where either is constant."""
        z_m2, y_m2 = self._z_m2(), self._y_m2()
        z_varies = _varies(z_m2, self._z_mean(), self.n)
        y_varies = _varies(y_m2, self._y_mean(), self.n)
        r = self._co_moments()
        r /= np.sqrt(np.where(z_varies, z_m2, 1.0))
        r /= np.sqrt(np.where(y_varies, y_m2, 1.0))[:, None]
        r[:, ~z_varies] = 0.0
        r[~y_varies] = 0.0
        return np.clip(r, -1.0, 1.0, out=r)

    def _z_mean(self) -> np.ndarray:
        mean: np.ndarray = self.z_shift + self.products[0] / self.n
        return mean

    def _y_mean(self) -> np.ndarray:
        return self.y_shift + self.y_sum / self.n

    def _z_m2(self) -> np.ndarray:
        """[D] sum of squares about the mean; rounding may leave a trace below 0."""
        m2: np.ndarray = self.z_sq - self.products[0] ** 2 / self.n
        return m2

    def _y_m2(self) -> np.ndarray:
        return self.y_sq - self.y_sum**2 / self.n

    def _y_length(self) -> np.ndarray:
        co_moment: np.ndarray = self.y_length - self.y_sum[0] * self.y_sum[-1] / self.n
        return co_moment

    def _co_moments(self) -> np.ndarray:
        """[Q, D] sums of products about both means."""
        return self.products[2:] - np.outer(self.y_sum, self.products[0] / self.n)


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson correlation of two plain vectors [N]; 0 if either does not vary."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    assert x.shape == y.shape and x.ndim == 1 and len(x), (x.shape, y.shape)
    dx, dy = x - x.mean(), y - y.mean()
    xx, yy = dx @ dx, dy @ dy
    if not (_varies(xx, x.mean(), len(x)) and _varies(yy, y.mean(), len(y))):
        return 0.0
    return float(np.clip(dx @ dy / (np.sqrt(xx) * np.sqrt(yy)), -1.0, 1.0))


def _varies(m2: np.ndarray, mean: np.ndarray, n: int | np.ndarray) -> np.ndarray:
    return m2 > n * (CONSTANT * mean) ** 2
