"""How much longer the residual stream is under a plan than without it, layer by layer, at the
generation positions of the unsteered model's own answers, so that other text plays no part.

Cost: two passes over prompt and answer of at most ``MOST`` test questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from corrsteer.stages.bench import Bench, prompts_digest, read_json, write_json
from corrsteer.steering.arms import Arm
from corrsteer.store.keys import digest

STAGE, MOST = "norms", 100


def norm_ratios(bench: Bench, arm: Arm, base: pd.DataFrame) -> list[Mapping[str, Any]]:
    """Rows of arm, layer and ``ratio``: the mean norm under the arm's intervention over that
    without it, as the next block reads it. ``base``: unsteered answers to the test split."""
    examples = bench.asking.splits["test"][:MOST]
    tokens = [[int(t) for t in row] for row in base["tokens"][:MOST]]
    settings = {
        **bench.model_key,
        **arm.key(),
        "layers": list(bench.layers),
        "prompts": prompts_digest(bench, examples),
        "tokens": digest(tokens),
    }

    def write(folder: Path) -> None:
        prompts, layers = [e.prompt for e in examples], list(bench.layers)
        sums = np.zeros((2, len(layers)))
        for rows in bench.model.batches(prompts):
            asked = [prompts[i] for i in rows], [tokens[i] for i in rows], layers, "generated"
            for k, acts in enumerate((None, arm.intervention)):
                read = bench.model.replay(*asked, intervention=acts)
                norms = (read.layers[n].double().norm(dim=-1).sum() for n in layers)
                sums[k] += [float(x) for x in norms]
        write_json(folder, (sums[1] / sums[0]).tolist())

    ratios = read_json(bench.store.get(STAGE, settings, write))
    return [
        {"arm": arm.name, "layer": n, "ratio": x} for n, x in zip(bench.layers, ratios, strict=True)
    ]
