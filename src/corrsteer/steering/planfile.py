"""A plan on disk: what a user keeps, shares and deploys.

``plan.json`` says which features of which SAEs at which layers, with the dial (``coef``);
``vectors.safetensors`` holds one float32 vector per layer at dial 1, and ``norm`` is its length:
the coefficient times the length of the feature's decoder row. Scaling, or leaving a layer
out, needs no retraining and no SAE.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from corrsteer.errors import DataError
from corrsteer.records import Plan, PlanEntry

FORMAT = 1


def save_plan(
    plan: Plan,
    folder: Path,
    about: Mapping[str, Any],
    features: Mapping[int, Mapping[str, Any]] = MappingProxyType({}),
) -> None:
    """Writes ``plan`` and ``about`` (model, SAEs, splits, versions) into ``folder``.

    ``features``: layer -> what else is to be said of its feature.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({f"layer_{e.layer}": e.vector for e in plan.entries}, folder / "vectors.safetensors")
    entries = [
        {
            "layer": e.layer,
            "feature": e.feature,
            "r": e.r,
            "coefficient": e.coefficient,
            # SAEs differ in where they keep their scale: a coefficient says little without it.
            "norm": float(np.linalg.norm(e.vector)),
            **features.get(e.layer, {}),
        }
        for e in plan.entries
    ]
    content = {"format": FORMAT, "coef": plan.coef, "entries": entries, **about}
    (folder / "plan.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_plan(folder: Path) -> Plan:
    """Reads a plan back. Raises DataError when the folder does not hold a whole one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        content = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        vectors = load_file(folder / "vectors.safetensors")
        if content["format"] != FORMAT:
            raise DataError(
                f"{folder} holds a plan of format {content['format']}, this program reads "
                f"format {FORMAT}; make the plan again"
            )
        entries = tuple(
            PlanEntry(
                e["layer"], e["feature"], e["r"], e["coefficient"], vectors[f"layer_{e['layer']}"]
            )
            for e in content["entries"]
        )
        return Plan(entries, content["coef"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(
            f"{folder} is not a plan ({type(error).__name__}: {error}); give the plan/ folder "
            "of a finished run"
        ) from error
