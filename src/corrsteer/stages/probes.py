"""Probes: how likely the unsteered answer is to be wrong, told by the residual of each layer.

Fitted on the selection split alone: logistic regression of the outcome on the residual at the last
prompt token, or on its mean over the generation positions. Cost: one pass over prompt and answer,
and one number per layer, sample and dimension in memory; fits take about a second per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from corrsteer.progress import progress
from corrsteer.records import RIGHT
from corrsteer.stages.bench import Bench, answers_key
from corrsteer.stats.logistic import fit
from corrsteer.steering.arms import baseline
from corrsteer.steering.probe import Probe, positions_read
from corrsteer.store.keys import digest

if TYPE_CHECKING:
    from corrsteer.models.loaded import LoadedModel

STAGE, FILE = "probe", "probe.npz"
LEVELS = np.arange(1, 10) / 10


def probes(
    bench: Bench, selection: pd.DataFrame, layers: Sequence[int], source: str
) -> dict[int, Probe]:
    """By layer. ``selection``: scored unsteered answers. ``source``: ``generated`` or
    ``last_prompt``."""
    wrong = (selection["score"] < RIGHT).to_numpy()
    shared: dict[str, Any] = {
        **answers_key(bench, bench.asking, bench.selection, baseline()),
        "wrong": digest(wrong.tobytes()),
        "source": source,
        "seed": bench.seed,
    }
    keys = {n: {**shared, "layer": n} for n in layers}

    def make(missing: list[int]) -> None:
        prompts = [e.prompt for e in bench.selection]
        tokens = [[int(t) for t in row] for row in selection["tokens"]]
        means = residual_means(bench.model, prompts, tokens, missing, source)
        for n in missing:

            def write(folder: Path, n: int = n) -> None:
                arrays: Any = probe(means[n], wrong, bench.seed).arrays()
                np.savez(folder / FILE, **arrays)

            bench.store.get(STAGE, keys[n], write)

    bench.store.fill(STAGE, keys, make, together=True)
    found = {}
    for n in layers:
        with np.load(bench.store.read(STAGE, keys[n]) / FILE) as arrays:
            found[n] = Probe.read(dict(arrays), arrays["row"].size)
    return found


def residual_means(
    model: LoadedModel,
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]],
    layers: Sequence[int],
    source: str,
) -> dict[int, np.ndarray]:
    """[N, M] by layer, the mean over the positions of a token source. Raises what
    :func:`corrsteer.steering.probe.positions_read` does."""
    means = {n: np.zeros((len(prompts), model.d_model), np.float32) for n in layers}
    with progress(f"probes, {len(layers)} layers", len(prompts)) as show:
        done = 0
        for rows in model.batches(prompts):
            asked = [prompts[i] for i in rows], [answers[i] for i in rows]
            read = model.replay(*asked, list(layers), source)
            sample = read.sample.cpu().numpy()
            counts = positions_read(sample, len(rows), source)[:, None]
            for n in layers:
                sums = np.zeros((len(rows), model.d_model))
                np.add.at(sums, sample, read.layers[n].cpu().numpy())
                means[n][rows] = sums / counts
            done += len(rows)
            show(done)
    return means


def probe(x: np.ndarray, wrong: np.ndarray, seed: int) -> Probe:
    """``x`` [N, M], ``wrong`` [N] bool, with both values."""
    found = fit(x, wrong, seed)
    condition = x[wrong].mean(0) - x[~wrong].mean(0)
    lengths = np.linalg.norm(x, axis=1) * (float(np.linalg.norm(condition)) or 1.0)
    cosines = (x @ condition) / np.maximum(lengths, 1e-30)
    return Probe(
        found.row.astype(np.float32),
        found.offset,
        condition.astype(np.float32),
        np.quantile(cosines, LEVELS).astype(np.float32),
        found.auroc,
    )
