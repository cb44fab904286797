"""Chosen features in, a plan out: each vector is the coefficient times the decoder direction.

Cost: one SAE is loaded per layer, for its decoder rows; nothing where the plan was made before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from corrsteer.records import RankedFeature
from corrsteer.stages.bench import Bench
from corrsteer.steering.controls import Directions
from corrsteer.steering.encoder import Encoders
from corrsteer.steering.plan import Plan, PlanEntry, load_plan

STAGE = "select"


def make_plan(bench: Bench, chosen: Sequence[RankedFeature], encoders: bool = False) -> Plan:
    """The plan of these features at dial 1, by the default operator. ``encoders``: with those of
    the features, for operators and gates that read them."""
    settings: dict[str, Any] = {
        "features": [[f.layer, f.feature, f.coefficient, f.r] for f in chosen],
        "saes": [bench.sae_key(f.layer) for f in chosen],
    }
    if encoders:
        settings["encoders"] = True

    def write(folder: Path) -> None:
        read = bench.encoders if encoders else None
        steering_plan(chosen, bench.directions, read).save(folder)

    return load_plan(bench.store.get(STAGE, settings, write))


def steering_plan(
    chosen: Sequence[RankedFeature], directions: Directions, encoders: Encoders | None = None
) -> Plan:
    """The plan (dial at 1): each vector is ``coefficient * decoder direction``, as in CorrSteer,
    section 3. ``directions`` is asked once per layer, since an SAE may take seconds to load, or
    ``encoders`` in its place.

    The vectors of several features of one layer add up, and the entry is called after the first of
    them; its ``about`` names all.
    """
    layers: dict[int, list[RankedFeature]] = {}
    for f in chosen:
        layers.setdefault(f.layer, []).append(f)
    entries = []
    for layer, some in layers.items():
        numbers, first = [f.feature for f in some], some[0]
        read = encoders(layer, numbers) if encoders is not None else []
        rows = [encoder.decoder for encoder in read] or directions(layer, numbers)
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
