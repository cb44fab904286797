"""The control of every gain: would a random feature have done the same?

Cost: one pass over the frequencies of each steered layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corrsteer.errors import DataError
from corrsteer.records import LayerStats, RankedFeature
from corrsteer.steering.plan import PlanEntry


def random_features(
    stats: Sequence[LayerStats], chosen: Sequence[RankedFeature | PlanEntry], draw: int, seed: int
) -> dict[int, int]:
    """Layer -> one feature drawn uniformly from the live ones (active on some sample) that
    were not chosen there, for every layer in ``chosen``.

    Deterministic in (seed, draw, layer): draws and layers are independent of each other and
    of which other layers are steered. Raises DataError if a layer has no other live feature.
    """
    freq = {s.layer: s.freq for s in stats}
    picks: dict[int, int] = {}
    for layer in sorted({c.layer for c in chosen}):
        taken = [n for c in chosen if c.layer == layer for n in _features(c)]
        others = np.setdiff1d(np.flatnonzero(freq[layer] > 0), taken)
        if not len(others):
            raise DataError(
                f"layer {layer}: no feature besides the chosen {taken} is ever active, so there "
                "is no random control; raise limit= for more samples or leave it out of layers="
            )
        # spawn_key, not a longer entropy list: that pads with zeros, so draw 0 of layer 0
        # would share its stream with everything else seeded by the bare seed.
        key = np.random.SeedSequence(seed, spawn_key=(draw, layer))
        picks[layer] = int(np.random.default_rng(key).choice(others))
    return picks


def _features(chosen: RankedFeature | PlanEntry) -> list[int]:
    """An entry may be of several (:func:`corrsteer.stages.plan.steering_plan`)."""
    several = getattr(chosen, "about", {}).get("features", [])
    return [chosen.feature, *(one["feature"] for one in several)]
