"""Chosen features in, a plan out: each vector is the coefficient times the decoder direction.

Cost: one SAE is loaded per layer, for its decoder rows; nothing where the plan was made before.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    ``encoders`` in its place."""
    entries = []
    for f in chosen:
        encoder = None
        if encoders is not None:
            (encoder,) = encoders(f.layer, [f.feature])
        (direction,) = [encoder.decoder] if encoder else directions(f.layer, [f.feature])
        vector = np.float32(f.coefficient) * direction
        entries.append(PlanEntry(f.layer, f.feature, f.r, f.coefficient, vector, encoder=encoder))
    return Plan(tuple(entries))
