"""How well each chosen feature tells right from wrong answers that it was not chosen on: those of
the unsteered model to the test split.

Cost: one pass over prompts and answers, and encoding them at the chosen layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from corrsteer.progress import progress
from corrsteer.records import RIGHT
from corrsteer.stages.bench import (
    Bench,
    Collect,
    answers_key,
    pooled,
    read_json,
    write_json,
)
from corrsteer.stats.logistic import auroc
from corrsteer.steering.arms import baseline
from corrsteer.store.keys import digest

STAGE = "held_out"


def held_out(
    bench: Bench, features: Sequence[tuple[int, int]], base: pd.DataFrame, collect: Collect
) -> list[Mapping[str, Any]]:
    """Rows of layer, feature and ``auroc``: the chance that a right answer has the higher pooled
    activation than a wrong one, None where all are right or wrong.

    ``features``: (layer, feature). ``base``: scored, unsteered answers to the test split.
    """
    examples = bench.asking.splits["test"]
    right = (base["score"] >= RIGHT).to_numpy()
    layers = sorted({layer for layer, _ in features})
    settings = {
        **answers_key(bench, bench.asking, examples, baseline()),
        "features": [list(pair) for pair in features],
        "saes": [bench.sae_key(n) for n in layers],
        "token_source": collect.token_source,
        "pooling": collect.pooling,
        "right": digest(right.tobytes()),
    }

    def write(folder: Path) -> None:
        prompts = [e.prompt for e in examples]
        tokens = [[int(t) for t in row] for row in base["tokens"]]
        of = {n: [f for layer, f in features if layer == n] for n in layers}
        z = {n: np.zeros((len(prompts), len(some))) for n, some in of.items()}
        for saes in bench.in_budget(layers):
            with progress(f"held out, {len(saes)} layers", len(prompts)) as show:
                done = 0
                for rows in bench.model.batches(prompts):
                    texts = [prompts[i] for i in rows], [tokens[i] for i in rows]
                    how = collect.token_source, collect.pooling
                    for n, read in pooled(bench.model, saes, *texts, *how).items():
                        z[n][rows] = read.z[:, of[n]]
                    done += len(rows)
                    show(done)
        found = []
        for n, some in of.items():
            for k, feature in enumerate(some):
                value = auroc(z[n][:, k], right)
                known = None if np.isnan(value) else float(value)
                found.append({"layer": n, "feature": feature, "auroc": known})
        write_json(folder, found)

    rows: list[Mapping[str, Any]] = read_json(bench.store.get(STAGE, settings, write))
    return rows
