"""Chosen features in, a plan out: each vector is the coefficient times the decoder direction.

Cost: one SAE is loaded per layer, for its decoder rows; nothing where the plan was made before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from corrsteer.records import RankedFeature
from corrsteer.stages.bench import Bench
from corrsteer.steering.controls import Directions
from corrsteer.steering.plan import Plan, PlanEntry, load_plan

STAGE = "select"


def make_plan(bench: Bench, chosen: Sequence[RankedFeature]) -> Plan:
    """The plan of these features at dial 1, by the default operator."""
    settings = {
        "features": [[f.layer, f.feature, f.coefficient, f.r] for f in chosen],
        "saes": [bench.sae_key(f.layer) for f in chosen],
    }

    def write(folder: Path) -> None:
        steering_plan(chosen, bench.directions).save(folder)

    return load_plan(bench.store.get(STAGE, settings, write))


def steering_plan(chosen: Sequence[RankedFeature], directions: Directions) -> Plan:
    """The plan (dial at 1): each vector is ``coefficient * decoder direction``, as in CorrSteer,
    section 3. ``directions`` is asked once per layer: an SAE may take seconds to load."""
    entries = []
    for f in chosen:
        (direction,) = directions(f.layer, [f.feature])
        vector = np.float32(f.coefficient) * direction
        entries.append(PlanEntry(f.layer, f.feature, f.r, f.coefficient, vector))
    return Plan(tuple(entries))
