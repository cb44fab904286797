"""Statistics in, a plan out; and the plans of the random control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from corrsteer.errors import DataError
from corrsteer.records import LayerStats, Plan, PlanEntry, RankedFeature
from corrsteer.selectors.random_features import random_features

Directions = Callable[[int, Sequence[int]], np.ndarray]
"""(layer, features) -> decoder directions [k, M] in units of the raw residual stream."""


def select(
    stats: Sequence[LayerStats], selector: Any, strategy: Any
) -> tuple[tuple[RankedFeature, ...], tuple[RankedFeature, ...]]:
    """The ranked features of every layer, and the ones to steer with.

    Raises DataError when no layer has a feature that correlates positively with the outcome.
    """
    ranked = selector.rank(stats)
    chosen = strategy.choose(ranked)
    if not chosen:
        raise DataError(
            "no feature correlates positively with success on any chosen layer; "
            "steer more layers (layers=all) or give more samples (limit=null)"
        )
    return ranked, chosen


def make_plans(
    stats: Sequence[LayerStats],
    chosen: Sequence[RankedFeature],
    directions: Directions,
    *,
    draws: int,
    seed: int,
) -> tuple[Plan, tuple[Plan, ...]]:
    """The plan (dial at 1) of the chosen features, and ``draws`` random ones.

    Each vector is ``coefficient * decoder direction``, as in CorrSteer, section 3. A random plan
    has a random live feature per layer, its vector as long as the plan's. ``directions`` is asked
    once per layer: an SAE may take seconds to load.
    """
    drawn = [random_features(stats, chosen, draw, seed) for draw in range(draws)]
    rows: dict[int, dict[int, np.ndarray]] = {}
    for f in chosen:
        features = sorted({f.feature, *(picks[f.layer] for picks in drawn)})
        rows[f.layer] = dict(zip(features, directions(f.layer, features), strict=True))
    plan = Plan(tuple(_entry(f, rows[f.layer][f.feature]) for f in chosen))
    return plan, tuple(_matched(plan, picks, stats, rows) for picks in drawn)


def _entry(feature: RankedFeature, direction: np.ndarray) -> PlanEntry:
    vector = np.float32(feature.coefficient) * direction
    return PlanEntry(feature.layer, feature.feature, feature.r, feature.coefficient, vector)


def _matched(
    plan: Plan,
    features: dict[int, int],
    stats: Sequence[LayerStats],
    rows: dict[int, dict[int, np.ndarray]],
) -> Plan:
    r = {s.layer: s.r for s in stats}
    entries = []
    for e in plan.entries:
        feature = features[e.layer]
        direction = rows[e.layer][feature]
        length = float(np.linalg.norm(direction))
        coefficient = float(np.linalg.norm(e.vector)) / length
        vector = np.float32(coefficient) * direction
        entries.append(PlanEntry(e.layer, feature, float(r[e.layer][feature]), coefficient, vector))
    return Plan(tuple(entries), plan.coef)
