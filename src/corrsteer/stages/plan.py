"""Chosen features in, a plan out: each vector is the coefficient times the decoder direction.

Cost: one SAE is loaded per layer, for its decoder rows; nothing where the plan was made before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from corrsteer.records import RankedFeature
from corrsteer.stages.bench import Bench
from corrsteer.steering.coefficients import Coefficient, MeanRight
from corrsteer.steering.controls import Directions
from corrsteer.steering.plan import Plan, PlanEntry, load_plan
from corrsteer.store.keys import component

STAGE = "select"
DEFAULT = MeanRight()


def make_plan(
    bench: Bench,
    chosen: Sequence[RankedFeature],
    coefficient: Coefficient = DEFAULT,
    residuals: Mapping[int, float] | None = None,
) -> Plan:
    """The plan of these features at dial 1, by the default operator. ``residuals``: mean norms by
    layer, for a coefficient that reads them."""
    chosen = strengthened(chosen, coefficient)
    lengths = coefficient.lengths(chosen, lambda: residuals or {})
    settings = {
        "features": [[f.layer, f.feature, f.coefficient, f.r] for f in chosen],
        "saes": [bench.sae_key(f.layer) for f in chosen],
    }
    if lengths is not None:
        settings["lengths"] = list(lengths)

    def write(folder: Path) -> None:
        steering_plan(chosen, bench.directions, lengths).save(folder)

    plan = load_plan(bench.store.get(STAGE, settings, write))
    return replace(plan, about={**plan.about, "coefficient": component(coefficient)})


def strengthened(
    features: Sequence[RankedFeature], coefficient: Coefficient
) -> tuple[RankedFeature, ...]:
    """The features with their coefficients; as they are where lengths are set instead."""
    new = ((f, coefficient.coefficient(f)) for f in features)
    return tuple(f if c is None else replace(f, coefficient=c) for f, c in new)


def with_coefficients(
    features: Sequence[RankedFeature], chosen: Sequence[RankedFeature], plan: Plan
) -> tuple[RankedFeature, ...]:
    """``features`` with the coefficients of the plan of ``chosen``. Where that plan is made of
    lengths, the coefficient of any other feature is not known."""
    if all(f.coefficient == e.coefficient for f, e in zip(chosen, plan.entries, strict=True)):
        return tuple(features)
    made = {(e.layer, e.feature): e.coefficient for e in plan.entries}
    return tuple(replace(f, coefficient=made.get((f.layer, f.feature), math.nan)) for f in features)


def steering_plan(
    chosen: Sequence[RankedFeature],
    directions: Directions,
    lengths: Sequence[float] | None = None,
) -> Plan:
    """The plan (dial at 1): each vector is ``coefficient * decoder direction``, as in CorrSteer,
    section 3, or the direction at one of ``lengths``. ``directions`` is asked once per layer: an
    SAE may take seconds to load."""
    entries = []
    for n, f in enumerate(chosen):
        (direction,) = directions(f.layer, [f.feature])
        coefficient = f.coefficient
        if lengths is not None:
            length = float(np.linalg.norm(direction))
            coefficient = lengths[n] / length if length else 0.0
        vector = np.float32(coefficient) * direction
        entries.append(PlanEntry(f.layer, f.feature, f.r, coefficient, vector))
    return Plan(tuple(entries))
