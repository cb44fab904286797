"""How far an arm moves the next token's distribution on neutral text.

Cost: one pass over every text twice per arm; nothing for an arm that does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from corrsteer.progress import progress
from corrsteer.records import Divergence
from corrsteer.report.record import Moved, Neutral
from corrsteer.stages.bench import Bench, read_json, write_json
from corrsteer.stats.intervals import mean_ci
from corrsteer.steering.arms import Arm
from corrsteer.store.keys import digest

STAGE = "divergence"
TEXTS_AT_ONCE = 32  # between two marks of progress


def divergences(
    bench: Bench, texts: Sequence[str], arms: Sequence[Arm]
) -> dict[str, list[Divergence]]:
    """By arm, how far it moves the next-token distribution on each text."""
    shared = {**bench.model_key, "texts": digest(list(texts))}
    keys = {arm.name: {**shared, **arm.key()} for arm in arms}
    by_name = {arm.name: arm for arm in arms}

    def make(missing: list[str]) -> None:
        interventions = [by_name[name].intervention for name in missing]
        made: dict[str, list[Divergence]] = {name: [] for name in missing}
        with progress(f"neutral text, {len(missing)} arms", len(texts)) as show:
            for start in range(0, len(texts), TEXTS_AT_ONCE):
                part = list(texts[start : start + TEXTS_AT_ONCE])
                columns = bench.model.divergence(part, interventions)
                for name, column in zip(missing, columns, strict=True):
                    made[name] += column
                show(start + len(part))
        for name, per_text in made.items():
            rows = [asdict(d) for d in per_text]

            def write(folder: Path, rows: list[dict[str, float]] = rows) -> None:
                write_json(folder, rows)

            bench.store.get(STAGE, keys[name], write)

    bench.store.fill(STAGE, keys, make)
    return {
        name: [Divergence(**row) for row in read_json(bench.store.read(STAGE, key))]
        for name, key in keys.items()
    }


def summary(by_arm: Mapping[str, Sequence[Divergence]], source: str, seed: int) -> Neutral:
    """KL divergence in nats per position, with a bootstrap interval over texts, and the share of
    positions whose likeliest next token is another one. ``by_arm``: one per text."""
    arms = {}
    for name, parts in by_arm.items():
        positions = np.array([d.positions for d in parts], dtype=np.float64)
        kl = np.array([d.kl for d in parts])
        mean = float(kl.sum() / positions.sum())
        # The interval of a ratio of sums, linearised: texts differ in length.
        low, high = mean_ci((kl - mean * positions) / positions.mean(), seed)
        arms[name] = Moved(
            kl=mean,
            kl_ci=(max(0.0, mean + low), mean + high),
            top1_changed=float(sum(d.top1_changed for d in parts) / positions.sum()),
        )
    first = next(iter(by_arm.values()))
    total = sum(d.positions for d in first)
    return Neutral(n_texts=len(first), n_positions=total, source=source, arms=arms)
