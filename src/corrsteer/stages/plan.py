"""Chosen features in, a plan out: each vector is the coefficient times the decoder direction.

Cost: one SAE is loaded per layer, for its decoder rows; nothing where the plan was made before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from corrsteer.records import RankedFeature
from corrsteer.stages.bench import Bench
from corrsteer.steering.coefficients import Coefficient, MeanRight
from corrsteer.steering.controls import Directions
from corrsteer.steering.encoder import Encoders
from corrsteer.steering.plan import Plan, PlanEntry, load_plan
from corrsteer.store.keys import component

STAGE = "select"
DEFAULT = MeanRight()


def make_plan(
    bench: Bench,
    chosen: Sequence[RankedFeature],
    encoders: bool = False,
    *,
    coefficient: Coefficient = DEFAULT,
    residuals: Mapping[int, float] | None = None,
) -> Plan:
    """The plan of these features at dial 1, by the default operator. ``encoders``: with those of
    the features, for operators and gates that read them. ``residuals``: mean norms by layer, for a
    coefficient that reads them."""
    chosen = strengthened(chosen, coefficient)
    lengths = coefficient.lengths(chosen, lambda: residuals or {})
    settings: dict[str, Any] = {
        "features": [[f.layer, f.feature, f.coefficient, f.r] for f in chosen],
        "saes": [bench.sae_key(f.layer) for f in chosen],
    }
    if encoders:
        settings["encoders"] = True
    if lengths is not None:
        settings["lengths"] = list(lengths)

    def write(folder: Path) -> None:
        read = bench.encoders if encoders else None
        steering_plan(chosen, bench.directions, read, lengths).save(folder)

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
    made: dict[tuple[int, int], float] = {}
    for e in plan.entries:
        own = [{"feature": e.feature, "coefficient": e.coefficient}]
        for one in e.about.get("features", own):
            made[e.layer, one["feature"]] = one["coefficient"]
    if all(made[f.layer, f.feature] == f.coefficient for f in chosen):
        return tuple(features)
    return tuple(replace(f, coefficient=made.get((f.layer, f.feature), math.nan)) for f in features)


def steering_plan(
    chosen: Sequence[RankedFeature],
    directions: Directions,
    encoders: Encoders | None = None,
    lengths: Sequence[float] | None = None,
) -> Plan:
    """The plan (dial at 1): each vector is ``coefficient * decoder direction``, as in CorrSteer,
    section 3, or the direction at one of ``lengths``. ``directions`` is asked once per layer, since
    an SAE may take seconds to load, or ``encoders`` in its place.

    The vectors of several features of one layer add up, and the entry is called after the first of
    them; its ``about`` names all.
    """
    layers: dict[int, list[int]] = {}
    for n, f in enumerate(chosen):
        layers.setdefault(f.layer, []).append(n)
    entries = []
    for layer, places in layers.items():
        numbers = [chosen[n].feature for n in places]
        read = encoders(layer, numbers) if encoders is not None else []
        rows = [encoder.decoder for encoder in read] or directions(layer, numbers)
        some = [
            chosen[n] if lengths is None else _as_long(chosen[n], row, lengths[n])
            for n, row in zip(places, rows, strict=True)
        ]
        first = some[0]
        vectors = [np.float32(f.coefficient) * row for f, row in zip(some, rows, strict=True)]
        entry = PlanEntry(
            *(layer, first.feature, first.r, first.coefficient, vectors[0]),
            encoder=read[0] if read else None,
        )
        if len(some) > 1:
            total: np.ndarray = np.stack(vectors).sum(axis=0, dtype=np.float32)
            entry = replace(entry, vector=total, about={"features": features_of(some)})
        entries.append(entry)
    return Plan(tuple(entries))


def features_of(some: Sequence[RankedFeature], factor: float = 1.0) -> list[dict[str, float]]:
    """What a plan says of the features of one layer. ``factor``: what their vector was multiplied
    by."""
    return [{"feature": f.feature, "r": f.r, "coefficient": factor * f.coefficient} for f in some]


def _as_long(f: RankedFeature, direction: np.ndarray, length: float) -> RankedFeature:
    own = float(np.linalg.norm(direction))
    return replace(f, coefficient=f.sign * length / own if own else 0.0)
