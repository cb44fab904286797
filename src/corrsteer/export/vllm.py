"""vLLM with the plug-in vllm-lens: the field of a request that adds the vectors, and a hook.

The field knows no positions that move with the text, so it steers every token. The hook
(:mod:`corrsteer.export.hook`) steers the last position of every pass, a plan's own positions, where
prompts are read in one piece. The form is that of vllm-lens' source; a GPU is needed to run it, and
it was not run.
"""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import numpy as np

from corrsteer.export.formats import OWN
from corrsteer.export.source import Source
from corrsteer.export.transformers import STEER

HOOK = Path(__file__).with_name("hook.py")


def write(source: Source, folder: Path, out: Path) -> list[str]:
    """``request.json``, to be merged into a request's body, and the hook with what it reads."""
    vectors = source.vectors()
    rows = np.stack([*vectors.values()])
    steering = {
        "activations": {
            "data": base64.b64encode(rows.tobytes()).decode("ascii"),
            "dtype": "float32",
            "original_dtype": "torch.float32",
            "shape": list(rows.shape),
        },
        "layer_indices": list(vectors),
        "scale": source.plan.coef,
        "norm_match": False,
        "position_indices": None,
    }
    # A field of vllm_xargs is a text: vLLM takes no objects there.
    body = {"vllm_xargs": {"apply_steering_vectors": json.dumps([steering])}}
    (folder / "request.json").write_text(json.dumps(body) + "\n", encoding="utf-8")
    lines = [f"use it: merge {out / 'request.json'} into the body of /v1/completions (vllm-lens)"]
    if source.plan.positions == OWN:
        source.plan.save(folder)
        shutil.copyfile(HOOK, folder / "hook.py")
        shutil.copyfile(STEER, folder / "steer.py")
        lines.append(f"for the plan's own positions: {out / 'hook.py'} says how")
    return lines
