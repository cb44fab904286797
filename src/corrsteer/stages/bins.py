"""Scores of features that need more than moments (:mod:`corrsteer.stats.bins`), for all selectors
that rank by one of them.

Cost: one replay of the answers, the first time that such a selector is asked for; nothing for the
next one. A pass that is stopped begins anew.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from corrsteer.progress import progress
from corrsteer.records import LayerStats
from corrsteer.stages.bench import Bench, Collect, pooled, statistics_keys
from corrsteer.stats.bins import BINS, QUANTILES, FeatureBins
from corrsteer.stats.relabelled import resamples, shuffles
from corrsteer.stats.scores import scored_from_arrays, scored_to_arrays

log = logging.getLogger(__name__)

STAGE, FILE = "bins", "bins.npz"


def binned(
    bench: Bench, answered: pd.DataFrame, stats: Sequence[LayerStats], collect: Collect
) -> list[LayerStats]:
    """``stats`` of the same answers, with the scores that are made of bins. Shuffled outcomes and
    resamples are the same ones."""
    outcomes: np.ndarray = answered["score"].to_numpy(np.float64)
    grid = {"bins": BINS, "quantiles": QUANTILES}
    layers = [s.layer for s in stats]
    made = statistics_keys(bench, outcomes, layers, collect)
    keys = {n: {**key, **grid} for n, key in made.items()}

    def make(missing: list[int]) -> None:
        shuffled = shuffles(outcomes, collect.shuffles, bench.seed)
        drawn = resamples(len(outcomes), collect.resamples, bench.seed)
        prompts = [e.prompt for e in bench.selection]
        tokens = answered["tokens"].tolist()
        sizes = collect.shuffles, collect.resamples
        for saes in bench.in_budget(missing):
            bins = {n: FeatureBins(sae.width, *sizes) for n, sae in saes.items()}
            with progress(f"bins {len(saes)} layers", len(prompts)) as show:
                done = 0
                for rows in bench.model.batches(prompts):
                    texts = [prompts[i] for i in rows], [tokens[i] for i in rows]
                    how = collect.token_source, collect.pooling
                    for n, read in pooled(bench.model, saes, *texts, *how).items():
                        bins[n].update(read.z, outcomes[rows], shuffled[rows], drawn[rows])
                    done += len(rows)
                    show(done)
            for n, counted in bins.items():
                put(n, counted)

    def put(n: int, counted: FeatureBins) -> None:
        scores = counted.scores()
        log.info(
            "layer %d: %d bins; the AUROC of a feature is within %.3f of the exact one",
            *(n, len(counted.cells), scores["auroc"].error.max()),
        )

        def write(folder: Path) -> None:
            arrays: dict[str, Any] = {**scored_to_arrays(scores)}
            np.savez(folder / FILE, **arrays)

        bench.store.get(STAGE, keys[n], write)

    bench.store.fill(STAGE, keys, make, together=True)
    found = []
    for s in stats:
        with np.load(bench.store.read(STAGE, keys[s.layer]) / FILE, allow_pickle=False) as arrays:
            found.append(replace(s, others={**s.others, **scored_from_arrays(arrays)}))
    return found
