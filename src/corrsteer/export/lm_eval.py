"""lm-evaluation-harness: the file that its model ``steered`` reads.

It is a pickle, as lm-eval wants it, and nothing of ours reads one.
"""

from __future__ import annotations

import io
from pathlib import Path

from corrsteer.export.source import Source, skeleton
from corrsteer.steering.hooks import blocks

FILE = "steer.pt"


def check(source: Source) -> None:
    source.model()


def write(source: Source, folder: Path, out: Path) -> list[str]:
    """Vectors by the names of blocks relative to the model without its head, such as layers.3."""
    import torch

    spec = source.model()
    module = skeleton(spec)
    names = {id(part): name for name, part in module.base_model.named_modules()}
    places = [names[id(block)] for block in blocks(module, spec.path)]
    steering = {
        places[layer]: {
            "steering_vector": torch.tensor(vector),
            "steering_coefficient": float(source.plan.coef),
            "action": "add",
            "bias": None,
            "head_index": None,
        }
        for layer, vector in source.vectors().items()
    }
    made = io.BytesIO()  # torch has no errno for a full disk
    torch.save(steering, made)
    (folder / FILE).write_bytes(made.getvalue())
    arguments = f"pretrained={spec.path},steer_path={out / FILE}"
    return [f"use it: lm_eval --model steered --model_args {arguments} --tasks TASK"]
