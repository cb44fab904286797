"""Rank features by their correlation with the outcome (CorrSteer, section 3).

Cost: one sort per layer over the eligible features; no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from corrsteer.errors import ConfigError
from corrsteer.records import LayerStats, RankedFeature


@dataclass(frozen=True)
class Correlation:
    """``top_k`` features per layer by r, best first.

    Eligible: r > 0 and active on at least ``min_active_right`` right samples (a feature seen
    on a single right answer is an anecdote, and its coefficient a single activation).
    ``ceiling_level``: share of shuffled outcomes whose best feature stays below the ceiling.
    ``reject_noise``: leave out features at or below their layer's ceiling, so that layers without
    a better one are not steered.
    """

    top_k: int = 20
    min_active_right: int = 2
    ceiling_level: float = 0.95
    reject_noise: bool = False

    def __post_init__(self) -> None:
        for name, default in (("top_k", 20), ("min_active_right", 2)):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(
                    f"selector.{name}={value}: must be a whole number from 1 on; "
                    f"type selector.{name}={default}"
                )
        if not isinstance(self.ceiling_level, float) or not 0 < self.ceiling_level < 1:
            raise ConfigError(
                f"selector.ceiling_level={self.ceiling_level}: must lie between 0 and 1; "
                "type selector.ceiling_level=0.95"
            )

    def rank(self, stats: Sequence[LayerStats]) -> tuple[RankedFeature, ...]:
        """Ranked features, layers ascending, ranks 1, 2, ... within a layer; equal r by lower
        feature number. A layer without an eligible feature contributes none."""
        ordered = sorted(stats, key=lambda s: s.layer)
        q = q_values(ordered)
        return tuple(f for layer in ordered for f in self._rank_layer(layer, q[layer.layer]))

    def _rank_layer(self, s: LayerStats, q: np.ndarray) -> list[RankedFeature]:
        n_active_right = np.rint(s.freq_right * s.n_right)
        ceiling = s.ceiling(self.ceiling_level)
        least = max(ceiling, 0.0) if self.reject_noise else 0.0
        eligible = np.flatnonzero((s.r > least) & (n_active_right >= self.min_active_right))
        best = eligible[np.argsort(-s.r[eligible], kind="stable")][: self.top_k]
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
            )
            for rank, f in enumerate(best, start=1)
        ]


def q_values(stats: Sequence[LayerStats]) -> dict[int, np.ndarray]:
    """Layer -> [D] q of every feature, for the one-sided test of r > 0 by Student's t, corrected
    over all features of all layers that vary (Benjamini and Hochberg 1995); 1 for the others.

    Features depend on each other; the correction holds for positive dependence (Benjamini and
    Yekutieli 2001), which is usual and not assured. The noise ceiling assumes neither.
    """
    from scipy.stats import false_discovery_control, t

    live = {s.layer: np.flatnonzero(s.r != 0) for s in stats}
    tested = [(s, s.r[live[s.layer]]) for s in stats if s.n > 2]
    p = [t.sf(r * np.sqrt((s.n - 2) / np.maximum(1 - r**2, 1e-300)), s.n - 2) for s, r in tested]
    found = {s.layer: np.ones(len(s.r)) for s in stats}
    if tested and sum(map(len, p)):
        q = false_discovery_control(np.concatenate(p))
        for (s, r), end in zip(tested, np.cumsum([len(one) for one in p]), strict=True):
            found[s.layer][live[s.layer]] = q[end - len(r) : end]
    return found
