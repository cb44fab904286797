"""Output scores of all features of a layer (:mod:`corrsteer.models.outputs`), for the selector that
ranks by them. No answer is read: they are of model and SAE alone.

Cost: a pass over a text of a few tokens for every feature, the first time that the selector is
asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from corrsteer.models.outputs import BATCH, NEUTRAL, TOP, neutral_residual, output_scores
from corrsteer.progress import progress
from corrsteer.records import LayerStats, Scored
from corrsteer.stages.bench import Bench

if TYPE_CHECKING:
    from corrsteer.models.local import LocalModel
    from corrsteer.saes.loaded import LoadedSAE

STAGE, FILE = "outputs", "outputs.npy"
OUTPUT_SCORE = "output_score"
"""As a selector asks for it."""
AMPLIFY = 10.0
"""A direction is added as many times the highest activation of any feature at the neutral text."""


def with_outputs(bench: Bench, stats: Sequence[LayerStats]) -> list[LayerStats]:
    """``stats`` with the score, which has no null."""
    keys = {
        s.layer: {
            **bench.model_key,
            "sae": bench.sae_key(s.layer),
            "layer": s.layer,
            "text": NEUTRAL,
            "top": TOP,
            "amplify": AMPLIFY,
        }
        for s in stats
    }

    def make(missing: list[int]) -> None:
        for saes in bench.in_budget(missing):
            for n, sae in saes.items():
                made = scores(bench.model, n, sae)  # type: ignore[arg-type]

                def write(folder: Path, made: np.ndarray = made) -> None:
                    np.save(folder / FILE, made)

                bench.store.get(STAGE, keys[n], write)

    bench.store.fill(STAGE, keys, make, together=True)
    found = {n: np.load(bench.store.read(STAGE, key) / FILE) for n, key in keys.items()}
    none, places = np.zeros(0), np.zeros((0, 1), dtype=np.int64)
    return [
        replace(
            s,
            others={
                **s.others,
                OUTPUT_SCORE: Scored(
                    found[s.layer], 0.0, none, none, places[:, 0], places, np.zeros((0, 1)), none
                ),
            },
        )
        for s in stats
    ]


def scores(model: LocalModel, layer: int, sae: LoadedSAE) -> np.ndarray:
    """[D] of every feature of a layer's SAE."""
    import torch

    x = neutral_residual(model, layer)
    strongest = float(sae.pool(x, torch.zeros(1, dtype=torch.long), 1, "max").max())
    made = np.zeros(sae.width)
    with progress(f"output scores, layer {layer}", sae.width) as show:
        for start in range(0, sae.width, BATCH):
            some = range(start, min(start + BATCH, sae.width))
            added = np.float32(AMPLIFY * strongest) * sae.directions(some)
            made[start : some.stop] = output_scores(model, layer, added)
            show(some.stop)
    return made
