"""Rank features by their correlation with the outcome (CorrSteer, section 3).

Cost: one sort per layer over the eligible features; no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from corrsteer.errors import ConfigError
from corrsteer.records import CLASSES, LayerStats, RankedFeature, r_bin


@dataclass(frozen=True)
class Correlation:
    """``top_k`` features per layer by r, best first.

    Eligible: r > 0 and active on at least ``min_active_right`` right samples (a feature seen
    on a single right answer is an anecdote, and its coefficient a single activation).
    ``ceiling_level``: share of shuffled outcomes whose best feature stays below the ceiling.
    ``reject_noise``: leave out features at or below their layer's ceiling, so that layers without
    a better one are not steered.
    ``classes``: features of other classes are not steered with: the first of these classes among a
    layer's ``top_k`` is. None: all. Whoever knows the classes applies it, after the ranking.
    Stability: the share of bootstrap resamples in which a feature is the best of those that are
    eligible over all samples, noise or not.
    """

    score: ClassVar[str] = "r"
    null: ClassVar[bool] = True
    top_k: int = 20
    min_active_right: int = 2
    ceiling_level: float = 0.95
    reject_noise: bool = False
    classes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, default in (("top_k", 20), ("min_active_right", 2)):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(
                    f"selector.{name}={value}: must be a whole number, at least 1; "
                    f"type selector.{name}={default}"
                )
        if not isinstance(self.ceiling_level, float) or not 0 < self.ceiling_level < 1:
            raise ConfigError(
                f"selector.ceiling_level={self.ceiling_level}: must lie between 0 and 1; "
                "type selector.ceiling_level=0.95"
            )
        known = isinstance(self.classes, list | tuple) and all(c in CLASSES for c in self.classes)
        if self.classes is not None and not (known and self.classes):
            raise ConfigError(
                f"selector.classes={self.classes}: must be a list of {', '.join(CLASSES)}, or null "
                "for all; type selector.classes=[semantic]"
            )

    @property
    def criterion(self) -> str:
        if self.reject_noise:
            return "passes its layer's noise ceiling (selector.reject_noise=true)"
        return "correlates positively with success"

    def rank(self, stats: Sequence[LayerStats]) -> tuple[RankedFeature, ...]:
        """Ranked features, layers ascending, ranks 1, 2, ... within a layer; equal r by lower
        feature number. A layer without an eligible feature contributes none."""
        ordered = sorted(stats, key=lambda s: s.layer)
        q = q_values(ordered)
        return tuple(f for layer in ordered for f in self._rank_layer(layer, q[layer.layer]))

    def _rank_layer(self, s: LayerStats, q: np.ndarray) -> list[RankedFeature]:
        n_active_right = np.rint(s.freq_right * s.n_right)
        ceiling = s.ceiling(self.ceiling_level)
        eligible = (s.r > 0) & (n_active_right >= self.min_active_right)
        stability = _wins(s, eligible) / max(len(s.resampled_best), 1)
        least = ceiling if self.reject_noise else 0.0
        ranked = np.flatnonzero(eligible & (s.r > least))
        best = ranked[np.argsort(-s.r[ranked], kind="stable")][: self.top_k]
        return [
            RankedFeature(
                layer=s.layer,
                rank=rank,
                feature=int(f),
                r=float(s.r[f]),
                ceiling=ceiling,
                coefficient=float(s.mean_right[f]),
                freq=float(s.freq[f]),
                freq_right=float(s.freq_right[f]),
                freq_wrong=float(s.freq_wrong[f]),
                mean_right=float(s.mean_right[f]),
                mean_wrong=float(s.mean_wrong[f]),
                r_length=float(s.r_length[f]),
                r_adjusted=float(s.r_adjusted[f]),
                q=float(q[f]),
                stability=float(stability[f]),
            )
            for rank, f in enumerate(best, start=1)
        ]


def _wins(s: LayerStats, eligible: np.ndarray) -> np.ndarray:
    """[D] in how many resamples each feature is the best eligible one. A resample counts for none
    if no eligible feature is among those that were kept of it with r > 0."""
    fits = eligible[s.resampled_best] & (s.resampled_r > 0)
    won = np.flatnonzero(fits.any(axis=1))
    return np.bincount(s.resampled_best[won, fits[won].argmax(axis=1)], minlength=len(s.r))


def q_values(stats: Sequence[LayerStats]) -> dict[int, np.ndarray]:
    """Layer -> [D] q of every feature for r > 0, over all features of all layers that vary
    (Benjamini and Hochberg 1995); 1 for the others.

    A feature's p is the share of correlations at least as high among those of all features with
    shuffled outcomes (Tusher et al. 2001, "Significance analysis of microarrays"), counted in bins
    of 1e-4. Student's t would be wrong by far: activations are so skewed that at 20 % right answers
    it finds something in 17 to 28 % of pure noise, and at 80 % in none. No q is below
    1 / (shuffles * features found). Features depend on each other; the correction holds for
    positive dependence (Benjamini and Yekutieli 2001), which is usual and not assured.
    """
    from scipy.stats import false_discovery_control

    live = {s.layer: np.flatnonzero(s.r != 0) for s in stats}
    by_layer = {s.layer: np.ones(len(s.r)) for s in stats}
    r = np.concatenate([np.zeros(0), *(s.r[live[s.layer]] for s in stats)])
    if len(r):
        shuffled = sum(len(s.max_shuffled_r) * len(live[s.layer]) for s in stats)
        counts = np.sum([s.shuffled_counts for s in stats], axis=0)
        at_least = np.cumsum(counts[::-1])[::-1]
        p = (1 + at_least[r_bin(np.maximum(r, 0))]) / (1 + shuffled)
        q = false_discovery_control(np.where(r > 0, p, 1.0))
        ends = np.cumsum([len(live[s.layer]) for s in stats])
        for s, part in zip(stats, np.split(q, ends[:-1]), strict=True):
            by_layer[s.layer][live[s.layer]] = part
    return by_layer
