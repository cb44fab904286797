"""How likely the unsteered model finds what each arm wrote.

Cost: one pass over prompt and answer per arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pandas as pd

from corrsteer.progress import progress
from corrsteer.records import Example
from corrsteer.stages.bench import Bench, prompts_digest, read_json, write_json
from corrsteer.store.keys import digest

STAGE = "likelihood"


def likelihoods(
    bench: Bench, examples: Sequence[Example], answered: Mapping[str, pd.DataFrame]
) -> dict[str, list[float]]:
    """By arm, the log probability (nats) of each answer under the unsteered model."""
    prompts = [e.prompt for e in examples]
    shared = {**bench.model_key, "prompts": prompts_digest(bench, examples)}
    tokens = {
        name: [[int(t) for t in row] for row in frame["tokens"]] for name, frame in answered.items()
    }
    keys = {name: {**shared, "tokens": digest(rows)} for name, rows in tokens.items()}

    def make(missing: list[str]) -> None:
        with progress("likelihood of answers", len(missing) * len(prompts)) as show:
            for done, name in enumerate(missing, start=1):
                logs = bench.model.likelihood(prompts, tokens[name])

                def write(folder: Path, logs: list[float] = logs) -> None:
                    write_json(folder, logs)

                bench.store.get(STAGE, keys[name], write)
                show(done * len(prompts))

    bench.store.fill(STAGE, keys, make)
    return {
        name: cast(list[float], read_json(bench.store.read(STAGE, key)))
        for name, key in keys.items()
    }
