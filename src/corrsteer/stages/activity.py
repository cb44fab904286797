"""Active features before and after, layer by layer, on the unsteered model's own answers, so that
other text plays no part. Attention sinks, where many times as many features can be active, are left
out: where a prompt is a single token, its answer begins with one.

Cost: two passes over prompt and answer, and encoding both at every layer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from corrsteer.models.protocol import sinks
from corrsteer.progress import progress
from corrsteer.records import Example
from corrsteer.report.record import LayerActivity
from corrsteer.stages.bench import Bench, prompts_digest, read_json, write_json
from corrsteer.steering.arms import Arm
from corrsteer.steering.plan import Plan
from corrsteer.steering.protocol import Intervention
from corrsteer.store.keys import digest

if TYPE_CHECKING:
    from corrsteer.models.loaded import LoadedModel
    from corrsteer.saes.loaded import LoadedSAE

STAGE, FORM = "activity", 2
_ROWS = 256  # positions encoded at once


def active_features(
    bench: Bench, examples: Sequence[Example], answered: pd.DataFrame, arm: Arm
) -> list[LayerActivity]:
    """What :func:`activity` counts. ``answered``: the unsteered model's answers."""
    prompts = [e.prompt for e in examples]
    tokens = [[int(t) for t in row] for row in answered["tokens"]]
    shared = {
        **bench.model_key,
        **arm.key(),
        "prompts": prompts_digest(bench, examples),
        "tokens": digest(tokens),
    }
    keys = {n: {**shared, "layer": n, "sae": bench.sae_key(n)} for n in bench.layers}
    acts = arm.intervention
    steered = acts.vectors().keys() if isinstance(acts, Plan) else bench.layers if acts else ()

    def make(missing: list[int]) -> None:
        with progress(f"active features, {len(missing)} layers", len(prompts)) as show:
            done = 0
            for saes in bench.in_budget(missing):
                for row in activity(bench.model, saes, prompts, tokens, acts, steered):

                    def write(folder: Path, row: LayerActivity = row) -> None:
                        write_json(folder, row.model_dump())

                    bench.store.get(STAGE, keys[row.layer], write, FORM)
                done += len(saes)
                show(len(prompts) * done // len(missing))

    bench.store.fill(STAGE, keys, make, FORM, together=True)
    return [
        LayerActivity.model_validate(read_json(bench.store.read(STAGE, keys[n], FORM)))
        for n in bench.layers
    ]


def activity(
    model: LoadedModel,
    saes: Mapping[int, LoadedSAE],
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]],
    intervention: Intervention | None,
    acts_at: Collection[int],
) -> list[LayerActivity]:
    """Active features per generation position and layer, without the intervention and with it.

    ``answers``: token ids that the unsteered model wrote; they are read twice. ``new`` or ``lost``:
    how many of the active features are; all are means over ``n_positions``, those that are no
    attention sinks without the intervention. The residual stream of a layer in ``acts_at`` is read
    after the intervention acted, as the next block reads it.
    """
    counts = {n: np.zeros(4) for n in saes}
    positions = dict.fromkeys(saes, 0)
    for rows in model.batches(prompts):
        asked = [prompts[i] for i in rows], [answers[i] for i in rows], list(saes), "generated"
        before = model.replay(*asked)
        after = model.replay(*asked, intervention=intervention)
        for n, sae in saes.items():
            ordinary = ~sinks(before.layers[n], before.sample)
            positions[n] += int(ordinary.sum())
            both = (read.layers[n][ordinary].split(_ROWS) for read in (before, after))
            for plain, moved in zip(*both, strict=True):
                was, now = sae.encode(plain) > 0, sae.encode(moved) > 0
                sums = was.sum(), now.sum(), (now & ~was).sum(), (was & ~now).sum()
                counts[n] += [float(s) for s in sums]
    names = ("l0_before", "l0_after", "new", "lost")
    return [
        LayerActivity(
            layer=n,
            n_positions=positions[n],
            steered=n in acts_at,
            **dict(zip(names, (counts[n] / max(positions[n], 1)).tolist(), strict=True)),
        )
        for n in saes
    ]
