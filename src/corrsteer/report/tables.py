"""What run folders hold, as rows for the reports. Cheap; needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from corrsteer.records import arm_kind

LABELS = {
    "baseline": "Baseline",
    "steered": "Steered",
    "constrained": "Constrained",
    "instruction": "Instruction",
    "flipped": "Sign flipped",
    "layers": "Other layers",
    "shuffled": "Shuffled outcomes",
    "direction": "Random direction",
    "random": "Random feature",
}
"""The arms of a run by kind, in the order they are shown."""

CONTROLS = {
    "random": "random features",
    "direction": "random directions",
    "shuffled": "shuffled outcomes",
    "layers": "other layers",
    "flipped": "sign flipped",
    "instruction": "instruction",
    "constrained": "constrained decoding",
}
"""The kinds of controls in a sentence."""


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain dicts with None for what is absent."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def arm_rows(arms: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Arms with ``name``, ``kind`` and ``label``, those of a kind together and numbered."""
    rows = []
    for kind, label in LABELS.items():
        names = [name for name in arms if arm_kind(name) == kind]
        for n, name in enumerate(names, start=1):
            number = f" {n}" if len(names) > 1 else ""
            rows.append({**arms[name], "name": name, "kind": kind, "label": label + number})
    return rows


def transfer_row(task: str, tested: Mapping[str, Any]) -> dict[str, Any]:
    """A cell of the transfer matrix, flat. ``tested``: a value of ``transfer`` in metrics.json."""
    arms, flips, gains = tested["arms"], tested["flips"], tested["random_gains"]
    return {
        "task": task,
        "n": tested["n"],
        "baseline": arms["baseline"]["accuracy"],
        "steered": arms["steered"]["accuracy"],
        "gain": tested["gain"],
        "gain_ci": tested["gain_ci"],
        "fixed": flips["fixed"],
        "broken": flips["broken"],
        "ser": flips["ser"],
        "mcnemar_p": flips["mcnemar_p"],
        "random_gains": gains,
        "best_random": max(gains, default=None),
    }
