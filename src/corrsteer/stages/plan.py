"""Statistics in, a plan out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from corrsteer.errors import DataError
from corrsteer.records import LayerStats, Plan, PlanEntry, RankedFeature
from corrsteer.steering.controls import Directions

Narrow = Callable[[tuple[RankedFeature, ...]], tuple[RankedFeature, ...]]


def select(
    stats: Sequence[LayerStats], selector: Any, strategy: Any, narrow: Narrow | None = None
) -> tuple[tuple[RankedFeature, ...], tuple[RankedFeature, ...]]:
    """The ranked features of every layer, and the ones to steer with.

    ``narrow``: which of the ranked features may be chosen, with their ranks among those. Raises
    DataError when no layer has a feature that correlates positively with the outcome.
    """
    ranked = selector.rank(stats)
    chosen = strategy.choose(ranked)
    if not chosen:
        why = "correlates positively with success"
        if getattr(selector, "reject_noise", False):
            why = "passes its layer's noise ceiling (selector.reject_noise=true)"
        raise DataError(
            f"no feature {why} on any chosen layer; "
            "steer more layers (layers=all) or give more samples (limit=null)"
        )
    if narrow is not None:
        ranked = narrow(ranked)
        chosen = strategy.choose(ranked)
    return ranked, chosen


def steering_plan(chosen: Sequence[RankedFeature], directions: Directions) -> Plan:
    """The plan (dial at 1): each vector is ``coefficient * decoder direction``, as in CorrSteer,
    section 3. ``directions`` is asked once per layer: an SAE may take seconds to load."""
    entries = []
    for f in chosen:
        (direction,) = directions(f.layer, [f.feature])
        vector = np.float32(f.coefficient) * direction
        entries.append(PlanEntry(f.layer, f.feature, f.r, f.coefficient, vector))
    return Plan(tuple(entries))
