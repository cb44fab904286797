"""Side effects behind the store: measured once for all runs with the same plan.

Functions of :class:`~corrsteer.stages.bench.Cached`, whose cache keys they extend.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrsteer.progress import progress
from corrsteer.records import Divergence, Example, Plan
from corrsteer.stages.bench import Cached
from corrsteer.stages.side_effects import activity
from corrsteer.store.keys import digest
from corrsteer.tasks.neutral import Unrelated

if TYPE_CHECKING:
    import pandas as pd

TEXTS_AT_ONCE = 32  # between two marks of progress


def unrelated_stages(stages: Cached, new_tokens: int) -> Cached:
    """The same model and strategy, asked prompts that belong to no task."""
    return replace(stages, task=Unrelated(new_tokens), decoding="free", stop=())


def divergences(
    stages: Cached, texts: Sequence[str], plans: Mapping[str, Plan]
) -> dict[str, list[Divergence]]:
    """By arm, how far the plan moves the next-token distribution on each text."""
    shared = {**stages.model_key, "texts": digest(list(texts))}
    keys = {arm: {**shared, **stages.plan_key(plan)} for arm, plan in plans.items()}

    def make(missing: list[str]) -> None:
        some = [plans[arm] for arm in missing]
        found: dict[str, list[Divergence]] = {arm: [] for arm in missing}
        with progress(f"neutral text, {len(some)} arms", len(texts)) as show:
            for start in range(0, len(texts), TEXTS_AT_ONCE):
                part = list(texts[start : start + TEXTS_AT_ONCE])
                columns = stages.model.divergence(part, some, strategy=stages.strategy)
                for arm, column in zip(missing, columns, strict=True):
                    found[arm] += column
                show(start + len(part))
        for arm in missing:
            rows = [asdict(d) for d in found[arm]]
            stages.store.get("divergence", keys[arm], _writer(rows))

    stages.store.fill("divergence", keys, make)
    return {
        arm: [Divergence(**row) for row in _read(stages.store.read("divergence", key))]
        for arm, key in keys.items()
    }


def likelihoods(
    stages: Cached, examples: Sequence[Example], answers: Mapping[str, pd.DataFrame]
) -> dict[str, list[float]]:
    """By arm, the log probability (nats) of each answer under the unsteered model."""
    prompts = [e.prompt for e in examples]
    shared = {**stages.model_key, "prompts": digest(prompts)}
    tokens = {
        arm: [[int(t) for t in row] for row in frame["tokens"]] for arm, frame in answers.items()
    }
    keys = {arm: {**shared, "tokens": digest(rows)} for arm, rows in tokens.items()}

    def make(missing: list[str]) -> None:
        with progress("likelihood of answers", len(missing) * len(prompts)) as show:
            for done, arm in enumerate(missing, start=1):
                found = stages.model.likelihood(prompts, tokens[arm])
                stages.store.get("likelihood", keys[arm], _writer(found))
                show(done * len(prompts))

    stages.store.fill("likelihood", keys, make)
    return {arm: _read(stages.store.read("likelihood", key)) for arm, key in keys.items()}


def active_features(
    stages: Cached,
    examples: Sequence[Example],
    answers: pd.DataFrame,
    plan: Plan,
    layers: Sequence[int],
) -> list[dict[str, Any]]:
    """What :func:`~corrsteer.stages.side_effects.activity` counts, layer by layer.

    ``answers``: the unsteered model's.
    """
    prompts = [e.prompt for e in examples]
    tokens = [[int(t) for t in row] for row in answers["tokens"]]
    shared = {
        **stages.model_key,
        **stages.plan_key(plan),
        "prompts": digest(prompts),
        "tokens": digest(tokens),
    }
    keys = {n: {**shared, "layer": n, "sae": stages.sae_key(n)} for n in layers}

    def make(missing: list[int]) -> None:
        with progress(f"active features, {len(missing)} layers", len(prompts)) as show:
            done = 0
            for saes in stages.in_budget(missing):
                counted = activity(stages.model, saes, prompts, tokens, plan, stages.strategy)
                for row in counted:
                    stages.store.get("activity", keys[row["layer"]], _writer(row))
                done += len(saes)
                show(len(prompts) * done // len(missing))

    stages.store.fill("activity", keys, make, together=True)
    return [_read(stages.store.read("activity", keys[n])) for n in layers]


def _writer(value: Any) -> Any:
    def write(folder: Path) -> None:
        (folder / "value.json").write_text(json.dumps(value), encoding="utf-8")

    return write


def _read(folder: Path) -> Any:
    return json.loads((folder / "value.json").read_text(encoding="utf-8"))
