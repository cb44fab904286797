"""What scores beside r need of a pass: second moments of each class, and sums with the length.

Part of :class:`corrsteer.stats.moments.FeatureMoments`, whose axes, shifts and first moments it
shares; cost and precision are explained in :mod:`corrsteer.stats.scores`. Below, d is the shifted
activation, y the shifted outcome, l the shifted length, w the weight of a sample in a resample.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from corrsteer.stats.scores import TINY, Labelled

if TYPE_CHECKING:
    from corrsteer.stats.moments import FeatureMoments

_OF_FEATURES = ("squares", "resampled_squares", "resampled_length")
_ARRAYS = (*_OF_FEATURES, "y_lengths", "draws_length")


class Spreads:
    """D = ``features`` features, P = ``n_shuffles``, R = ``n_resamples``."""

    def __init__(self, features: int, n_shuffles: int, n_resamples: int) -> None:
        # Sums of:
        self.squares = np.zeros((1 + n_shuffles, features))  # y * d ** 2, of each outcome
        self.y_lengths = np.zeros(1 + n_shuffles)  # y * l
        self.draws_length = np.zeros((3, n_resamples))  # w * l, w * l ** 2, w * y * l
        self.resampled_squares = np.zeros((n_resamples, features))  # w * y * d ** 2
        self.resampled_length = np.zeros((n_resamples, features))  # w * l * d

    def update(
        self, d: np.ndarray, squares: np.ndarray, outcomes: np.ndarray, drawn: np.ndarray
    ) -> None:
        """``d`` [B, D], its ``squares`` and ``outcomes`` [B, 2 + P], shifted, the length last;
        ``drawn`` [B, R]."""
        y, length = outcomes[:, :-1], outcomes[:, -1:]
        self.squares += y.T @ squares
        self.y_lengths += y.T @ length[:, 0]
        if drawn.shape[1]:
            weighted = np.hstack([drawn * length, drawn * length**2, drawn * length * y[:, :1]])
            self.draws_length += weighted.sum(axis=0).reshape(3, -1)
            self.resampled_squares += (drawn * y[:, :1]).T @ squares
            self.resampled_length += (drawn * length).T @ d

    def add(self, other: Spreads) -> None:
        for name in _ARRAYS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def moved(self, m: FeatureMoments, z_shift: np.ndarray, y_shift: np.ndarray) -> Spreads:
        """The same sums about other shifts. ``m``: the moments that these belong to."""
        dz, dy, dl = m.z_shift - z_shift, (m.y_shift - y_shift)[:-1], m.y_shift[-1] - y_shift[-1]
        y, yz = m.y_sum[:-1], m.products[2:-1]
        out = Spreads(len(dz), len(dy) - 1, m.draws.shape[1])
        every = m.z_sq + dz * (2 * m.products[0] + m.n * dz)
        out.squares = self.squares + 2 * dz * yz + np.outer(y, dz**2) + np.outer(dy, every)
        out.y_lengths = self.y_lengths + dl * y + dy * (m.y_sum[-1] + m.n * dl)
        w, wy, _ = m.draws
        wz, wyz, wzz = m.resampled
        wl, wll, wyl = self.draws_length
        out.draws_length = np.stack(
            [wl + dl * w, wll + dl * (2 * wl + dl * w), wyl + dy[0] * wl + dl * (wy + dy[0] * w)]
        )
        drawn = wzz + dz * (2 * wz + np.outer(w, dz))
        squares = self.resampled_squares + dz * (2 * wyz + np.outer(wy, dz)) + dy[0] * drawn
        out.resampled_squares = squares
        out.resampled_length = self.resampled_length + np.outer(wl, dz)
        out.resampled_length += dl * (wz + np.outer(w, dz))
        return out

    def widened(self, places: np.ndarray, features: int) -> Spreads:
        """The same of more features: :func:`widened`."""
        out = copy.copy(self)
        for name in _OF_FEATURES:
            setattr(out, name, widened(getattr(self, name), places, features))
        return out

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name).copy() for name in _ARRAYS}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        for name in _ARRAYS:
            setattr(self, name, np.array(arrays[name]))

    # -- what scores read ----------------------------------------------------------------------

    def of_outcomes(
        self, m: FeatureMoments, part: slice, r: np.ndarray, partial: np.ndarray
    ) -> Labelled:
        """``part`` of the outcomes, of which 0 is the real one. ``r``, ``partial``: [L, D]."""
        shift = m.y_shift[part, None]
        right = m.y_sum[part, None] + m.n * shift
        yz = m.products[2:][part] + shift * m.products[0]
        sums = m.products[0], m.z_sq, yz, self.squares[part] + shift * m.z_sq
        return _labelled(m.z_shift, np.array(m.n), right, sums, r, partial)

    def of_resamples(self, m: FeatureMoments, part: slice, r: np.ndarray) -> Labelled:
        shift = m.y_shift[0]
        w, wy, _ = m.draws[:, part, None]
        wz, wyz, wzz = m.resampled[:, part]
        sums = wz, wzz, wyz + shift * wz, self.resampled_squares[part] + shift * wzz
        partial = self._resampled_partial(m, part, r)
        return _labelled(m.z_shift, w, wy + shift * w, sums, r, partial)

    def _resampled_partial(self, m: FeatureMoments, part: slice, r: np.ndarray) -> np.ndarray:
        w, wy, wyy = m.draws[:, part, None]
        wz, _, wzz = m.resampled[:, part]
        wl, wll, wyl = self.draws_length[:, part, None]
        n = np.maximum(w, 1.0)
        l_m2, y_m2, z_m2 = wll - wl**2 / n, wyy - wy**2 / n, wzz - wz**2 / n
        vary = (l_m2 > TINY * (wll + n)) & (y_m2 > 0)
        l_m2, y_m2 = np.where(vary, l_m2, 1.0), np.where(vary, y_m2, 1.0)
        r_length = (self.resampled_length[part] - wl * wz / n) / np.sqrt(
            np.where(r != 0, np.maximum(z_m2, np.finfo(float).tiny), 1.0) * l_m2
        )
        beside = (wyl - wy * wl / n) / np.sqrt(y_m2 * l_m2)
        return np.where(vary, partial_r(r, np.clip(r_length, -1, 1), beside), r)


def widened(x: np.ndarray, places: np.ndarray, features: int) -> np.ndarray:
    """``x`` [..., D] at ``places`` of its last axis, and 0 elsewhere, [..., features]."""
    out = np.zeros((*x.shape[:-1], features), x.dtype)
    out[..., places] = x
    return out


def partial_r(
    r: np.ndarray, r_length: np.ndarray, outcome_and_length: float | np.ndarray
) -> np.ndarray:
    """[L, D] correlation with the outcome of what length leaves unexplained of both (the partial
    correlation); 0 where length explains all of either."""
    rest = (1 - r_length**2) * (1 - outcome_and_length**2)
    within = rest > TINY
    adjusted = (r - r_length * outcome_and_length) / np.sqrt(np.where(within, rest, 1.0))
    return np.where(within & (r != 0), np.clip(adjusted, -1.0, 1.0), 0.0)


def _labelled(
    z_shift: np.ndarray,
    n: np.ndarray,
    right: np.ndarray,
    sums: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    r: np.ndarray,
    partial: np.ndarray,
) -> Labelled:
    """``n``, ``right``: weights of all samples and of right ones, [L, 1]. ``sums``: of d and
    d ** 2, and the same over right samples, [L, D]; what is the same of all may lack the L."""
    z, z_sq, yz, yz_sq = sums
    n_right, n_wrong = np.maximum(right, TINY), np.maximum(n - right, TINY)
    m1, m0 = yz / n_right, (z - yz) / n_wrong
    s1, s0 = yz_sq / n_right, (z_sq - yz_sq) / n_wrong
    return Labelled(
        mean_right=z_shift + m1,
        mean_wrong=z_shift + m0,
        variance_right=np.maximum(s1 - m1**2, 0.0),
        variance_wrong=np.maximum(s0 - m0**2, 0.0),
        square_right=np.maximum(s1 + z_shift * (2 * m1 + z_shift), 0.0),
        square_wrong=np.maximum(s0 + z_shift * (2 * m0 + z_shift), 0.0),
        partial=partial,
        varies=r != 0,
    )
