"""What selectors that rank by one number per feature have in common.

Cost: one sort per layer over the eligible features; no I/O. Features of wrong answers are ranked by
statistics of exchanged outcomes, which take a second pass over the stored answers, once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from corrsteer.errors import ConfigError, check_known
from corrsteer.records import (
    BOTH,
    CLASSES,
    NEGATIVE,
    POSITIVE,
    SIGNS,
    LayerStats,
    RankedFeature,
    Scored,
    ceiling,
)


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
    ``sign``: ``positive`` is the above. ``negative``: the same with right and wrong exchanged, so
    that the lowest scores come first, of features active on ``min_active_right`` wrong answers;
    steering lowers them (:class:`corrsteer.steering.coefficients.MeanRight`). ``both``: by the
    distance from neutral, whichever side. The ceiling is then that of the larger distance in each
    shuffle, and q twice the one-sided q (Bonferroni over the two sides).
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
    sign: str = POSITIVE

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
        check_known("selector.sign", self.sign, SIGNS)
        if self.sign != POSITIVE and not self.null:
            raise ConfigError(
                f"selector.sign={self.sign}: a {self.score} has no sign; type"
                " selector.sign=positive"
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
        return f"is more active on {_WHICH[self.sign]} answers"

    def scored(self, s: LayerStats) -> Scored:
        """What a layer's features are ranked by."""
        return s.others[self.statistic]

    def q(self, stats: Sequence[LayerStats]) -> Mapping[int, np.ndarray]:
        """Layer -> [D] q of every feature (:func:`corrsteer.selectors.ranking.q_values`)."""
        return q_values({s.layer: self.scored(s) for s in stats})

    def rank(self, stats: Sequence[LayerStats]) -> tuple[RankedFeature, ...]:
        """Ranked features, layers ascending, ranks 1, 2, ... within a layer; equal scores by lower
        feature number, positive ones first. A layer without an eligible feature contributes
        none."""
        ordered = sorted(stats, key=lambda s: s.layer)
        q = {sign: self.q([_seen(s, sign) for s in ordered]) for sign in self._signs}
        return tuple(f for s in ordered for f in self._rank_layer(s, q))

    def shuffled(self, s: LayerStats) -> tuple[np.ndarray, np.ndarray]:
        """[P] the feature that would have been chosen by each shuffled outcome, and its sign."""
        of = [(sign, self.scored(_seen(s, sign))) for sign in self._signs]
        far = np.stack([by.max_shuffled - by.neutral for _, by in of])
        side = far.argmax(axis=0)
        best = np.stack([by.shuffled_best for _, by in of])
        return best[side, np.arange(best.shape[1])], np.array(self._signs)[side]

    @property
    def _signs(self) -> tuple[int, ...]:
        return {POSITIVE: (1,), NEGATIVE: (-1,), BOTH: (1, -1)}[self.sign]

    def _rank_layer(
        self, s: LayerStats, q: Mapping[int, Mapping[int, np.ndarray]]
    ) -> list[RankedFeature]:
        """Places are features, of two signs those of the second behind those of the first."""
        width, signs = len(s.freq), self._signs
        sides = [_seen(s, sign) for sign in signs]
        scored = [self.scored(side) for side in sides]
        by = scored[0] if len(scored) == 1 else _joined(*scored)
        n_active_right = np.concatenate([np.rint(x.freq_right * x.n_right) for x in sides])
        bar = ceiling(by.max_shuffled, self.ceiling_level) if self.null else float("nan")
        eligible = (by.value > by.neutral) & (n_active_right >= self.min_active_right)
        stability = _wins(by, eligible) / max(len(by.resampled_best), 1)
        if not self.null:
            stability = np.full(len(by.value), np.nan)
        least = bar if self.reject_noise else by.neutral
        ranked = np.flatnonzero(eligible & (by.value > least))
        best = ranked[np.argsort(-by.value[ranked], kind="stable")][: self.top_k]
        features = []
        for rank, place in enumerate(best.tolist(), start=1):
            side, f = divmod(place, width)
            sign, own = signs[side], scored[side]
            value, high = float(own.value[f]), own.neutral + (bar - by.neutral)
            if sign < 0:
                value, high = (2 * own.neutral - x for x in (value, high))
            feature = RankedFeature(
                layer=s.layer,
                rank=rank,
                feature=f,
                r=float(s.r[f]),
                ceiling=bar if len(signs) == sign == 1 else high,
                coefficient=float(s.mean_right[f] if sign > 0 else -s.mean_wrong[f]),
                freq=float(s.freq[f]),
                freq_right=float(s.freq_right[f]),
                freq_wrong=float(s.freq_wrong[f]),
                mean_right=float(s.mean_right[f]),
                mean_wrong=float(s.mean_wrong[f]),
                r_length=float(s.r_length[f]),
                r_adjusted=float(s.r_adjusted[f]),
                q=float(min(1.0, len(signs) * q[sign][s.layer][f])) if self.null else math.nan,
                stability=float(stability[place]),
                by=value if self.statistic else None,
                sign=sign,
                neutral=own.neutral,
            )
            features.append(feature)
        return features


_WHICH = {POSITIVE: "right", NEGATIVE: "wrong", BOTH: "right or on wrong"}


def _seen(s: LayerStats, sign: int) -> LayerStats:
    """The statistics in which features of that sign have high scores."""
    if sign > 0:
        return s
    assert s.mirror is not None, "observe collects it where a selector looks for wrong answers"
    return s.mirror


def _joined(one: Scored, other: Scored) -> Scored:
    """Of both signs, as scores of twice as many features that are 0 where neutral."""
    values = np.hstack([x.resampled - x.neutral for x in (one, other)])
    places = np.hstack([one.resampled_best, other.resampled_best + len(one.value)])
    order = np.argsort(-values, axis=1, kind="stable")
    return replace(
        one,
        value=np.concatenate([x.value - x.neutral for x in (one, other)]),
        neutral=0.0,
        max_shuffled=np.maximum(*(x.max_shuffled - x.neutral for x in (one, other))),
        resampled_best=np.take_along_axis(places, order, axis=1),
        resampled=np.take_along_axis(values, order, axis=1),
    )


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
