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
    """

    top_k: int = 20
    min_active_right: int = 2
    ceiling_level: float = 0.95

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
        return tuple(feature for layer in ordered for feature in self._rank_layer(layer))

    def _rank_layer(self, s: LayerStats) -> list[RankedFeature]:
        n_active_right = np.rint(s.freq_right * s.n_right)
        eligible = np.flatnonzero((s.r > 0) & (n_active_right >= self.min_active_right))
        best = eligible[np.argsort(-s.r[eligible], kind="stable")][: self.top_k]
        ceiling = s.ceiling(self.ceiling_level)
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
            )
            for rank, f in enumerate(best, start=1)
        ]
