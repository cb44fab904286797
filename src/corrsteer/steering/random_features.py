"""The control of every gain: would a random feature have done the same?

Cost: one pass over the frequencies of each steered layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from corrsteer.errors import DataError
from corrsteer.records import LayerStats, RankedFeature
from corrsteer.steering.plan import PlanEntry


def random_features(
    stats: Sequence[LayerStats], chosen: Sequence[RankedFeature | PlanEntry], draw: int, seed: int
) -> dict[int, list[int]]:
    """Layer -> as many features as were chosen there, drawn uniformly and without repeats from the
    live ones (active on some sample) that were not, for every layer in ``chosen``.

    Deterministic in (seed, draw, layer): draws and layers are independent of each other and
    of which other layers are steered. Raises DataError if a layer has too few other
    live features.
    """
    freq = {s.layer: s.freq for s in stats}
    picks: dict[int, list[int]] = {}
    for layer in sorted({c.layer for c in chosen}):
        taken = [n for c in chosen if c.layer == layer for n in _features(c)]
        others = np.setdiff1d(np.flatnonzero(freq[layer] > 0), taken)
        k = sum(max(1, len(_several(c))) for c in chosen if c.layer == layer)
        if len(others) < k:
            there = "no feature" if not len(others) else f"only {len(others)}"
            of = f" of {k}" if k > 1 else ""
            raise DataError(
                f"layer {layer}: {there} besides the chosen {sorted({*taken})} is ever active, so"
                f" there is no random control{of}; raise limit= for more samples or leave it out"
                " of layers="
            )
        # spawn_key, not a longer entropy list: that pads with zeros, so draw 0 of layer 0
        # would share its stream with everything else seeded by the bare seed.
        key = np.random.SeedSequence(seed, spawn_key=(draw, layer))
        rng = np.random.default_rng(key)
        first = int(rng.choice(others))
        more = rng.choice(np.setdiff1d(others, first), k - 1, replace=False) if k > 1 else ()
        picks[layer] = [first, *map(int, more)]
    return picks


def _features(chosen: RankedFeature | PlanEntry) -> list[int]:
    return [chosen.feature, *(one["feature"] for one in _several(chosen))]


def _several(chosen: RankedFeature | PlanEntry) -> list[dict[str, Any]]:
    """The features of an entry that is of several
    (:func:`corrsteer.stages.plan.steering_plan`)."""
    return list(getattr(chosen, "about", {}).get("features", []))
