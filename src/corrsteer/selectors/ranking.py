"""What selectors that rank by one number per feature have in common.

Cost: one sort per layer over the eligible features; no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from corrsteer.errors import ConfigError
from corrsteer.records import CLASSES, LayerStats, RankedFeature, Scored, ceiling


@dataclass(frozen=True)
class Ranking:
    """``top_k`` features per layer by their score, best first.

    Eligible: a score above neutral (more active on right answers) and active on at least
    ``min_active_right`` right samples (a feature seen on a single right answer is an anecdote, and
    its coefficient a single activation).
    ``ceiling_level``: share of shuffled outcomes whose best feature stays below the ceiling.
    ``reject_noise``: leave out features at or below their layer's ceiling, so that layers without
    a better one are not steered; where no ceiling is known it is refused.
    ``classes``: features of other classes are not steered with: the first of these classes among a
    layer's ``top_k`` is. None: all. Whoever knows the classes applies it, after the ranking.
    Stability: the share of bootstrap resamples in which a feature is the best of those that are
    eligible over all samples, noise or not.
    """

    score: ClassVar[str]
    null: ClassVar[bool] = True
    statistic: ClassVar[str] = ""
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
        if self.reject_noise and not self.null:
            raise ConfigError(
                f"selector.reject_noise=true: no noise ceiling is known for {self.score}; type "
                "selector.reject_noise=false"
            )

    @property
    def criterion(self) -> str:
        if self.reject_noise:
            return "passes its layer's noise ceiling (selector.reject_noise=true)"
        return "is more active on right answers"

    def scored(self, s: LayerStats) -> Scored:
        """What a layer's features are ranked by."""
        return s.others[self.statistic]

    def q(self, stats: Sequence[LayerStats]) -> Mapping[int, np.ndarray]:
        """Layer -> [D] q of every feature (:func:`corrsteer.selectors.ranking.q_values`)."""
        return q_values({s.layer: self.scored(s) for s in stats})

    def rank(self, stats: Sequence[LayerStats]) -> tuple[RankedFeature, ...]:
        """Ranked features, layers ascending, ranks 1, 2, ... within a layer; equal scores by lower
        feature number. A layer without an eligible feature contributes none."""
        ordered = sorted(stats, key=lambda s: s.layer)
        q = self.q(ordered)
        return tuple(f for layer in ordered for f in self._rank_layer(layer, q[layer.layer]))

    def _rank_layer(self, s: LayerStats, q: np.ndarray) -> list[RankedFeature]:
        by = self.scored(s)
        n_active_right = np.rint(s.freq_right * s.n_right)
        bar = ceiling(by.max_shuffled, self.ceiling_level) if self.null else float("nan")
        eligible = (by.value > by.neutral) & (n_active_right >= self.min_active_right)
        stability = _wins(by, eligible) / max(len(by.resampled_best), 1)
        if not self.null:
            stability = np.full(len(by.value), np.nan)
        least = bar if self.reject_noise else by.neutral
        ranked = np.flatnonzero(eligible & (by.value > least))
        best = ranked[np.argsort(-by.value[ranked], kind="stable")][: self.top_k]
        return [
            RankedFeature(
                layer=s.layer,
                rank=rank,
                feature=int(f),
                r=float(s.r[f]),
                ceiling=bar,
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
                by=float(by.value[f]) if self.statistic else None,
            )
            for rank, f in enumerate(best, start=1)
        ]


def _wins(by: Scored, eligible: np.ndarray) -> np.ndarray:
    """[D] in how many resamples each feature is the best eligible one. A resample counts for none
    if no eligible feature is among those that were kept of it above neutral."""
    fits = eligible[by.resampled_best] & (by.resampled > by.neutral)
    won = np.flatnonzero(fits.any(axis=1))
    return np.bincount(by.resampled_best[won, fits[won].argmax(axis=1)], minlength=len(by.value))


def q_values(scores: Mapping[int, Scored]) -> dict[int, np.ndarray]:
    """By layer, [D] q of every feature for a score above neutral, over all features of all layers
    whose score is not neutral (Benjamini and Hochberg 1995); 1 for the others, not a number without
    a null.

    A feature's p is the share of scores at least as high among those of its layer's features with
    shuffled outcomes (Tusher et al. 2001): scores of different layers need not have one scale.
    """
    from scipy.stats import false_discovery_control

    out, p, live = {}, [], {}
    for layer, by in scores.items():
        if not len(by.max_shuffled):
            out[layer] = np.full(len(by.value), np.nan)
            continue
        out[layer] = np.ones(len(by.value))
        live[layer] = np.flatnonzero(by.value != by.neutral)
        chances = 1 + len(by.max_shuffled) * len(live[layer])
        own = np.minimum((1 + by.at_least) / chances, 1.0)
        p.append(np.where(by.value > by.neutral, own, 1.0)[live[layer]])
    if sum(map(len, p)):
        q = false_discovery_control(np.concatenate(p))
        for layer, part in zip(live, np.split(q, np.cumsum([*map(len, p)])[:-1]), strict=True):
            out[layer][live[layer]] = part
    return out
