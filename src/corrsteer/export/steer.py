"""Steer a transformers model with the plan beside this file. Needs torch and safetensors only.

    from steer import steer

    with steer(model):                  # steer(model, coef=0.5) turns the dial
        model.generate(**inputs)        # greedy, sampling or beams; batches padded on the left

Adds coef * vector to the output of each planned block at the last position of every forward pass:
the last prompt token, then every generated one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

HERE = Path(__file__).resolve().parent


def read(folder: Path = HERE) -> tuple[dict[str, Any], dict[int, torch.Tensor]]:
    """(what plan.json says, vector by block). ValueError where a byte of either was changed."""
    text, raw = (folder / "plan.json").read_bytes(), (folder / "vectors.safetensors").read_bytes()
    head, mark, tail = text.rpartition(b'\n  "digest": "')
    if not mark or tail != _digest(head + mark + b'"\n}\n') + b'"\n}\n':
        raise ValueError(f"{folder / 'plan.json'} was changed: export the plan again")
    plan = json.loads(text)
    if plan["vectors"].encode() != _digest(raw):
        raise ValueError(f"{folder / 'vectors.safetensors'} was changed: export the plan again")
    vectors = load(raw)
    return plan, {e["layer"]: vectors[f"layer_{e['layer']}"] for e in plan["entries"]}


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:32].encode()


@contextmanager
def steer(model: Any, coef: float | None = None, folder: Path = HERE) -> Iterator[Any]:
    """Steer ``model`` while the block runs. ValueError for another model than the plan's."""
    plan, vectors = read(folder)
    config = model.config.get_text_config()
    wanted = (plan.get("model") or {}).get("architecture")
    if wanted not in (None, config.model_type):
        raise ValueError(f"the plan is for a {wanted}, and this model is a {config.model_type}")
    lists = [
        part for part in model.get_decoder().modules() if isinstance(part, torch.nn.ModuleList)
    ]
    (blocks,) = [part for part in lists if len(part) == config.num_hidden_layers]
    for layer, vector in vectors.items():
        if layer >= len(blocks) or vector.shape != (config.hidden_size,):
            raise ValueError(
                f"the plan has a vector of width {len(vector)} at block {layer}, and this model has"
                f" {len(blocks)} blocks of width {config.hidden_size}"
            )
    dial = plan["coef"] if coef is None else coef
    handles = [model.register_forward_pre_hook(_left_padded, with_kwargs=True)]
    try:
        for layer, vector in vectors.items():
            handles.append(blocks[layer].register_forward_hook(_adder(vector * dial)))
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _adder(vector: torch.Tensor) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[:, -1] = hidden[:, -1] + vector.to(hidden)

    return hook


def _left_padded(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.ndim == 2 and not bool(mask[:, -1].all()):
        raise ValueError("the batch is padded on the right: make it with padding_side='left'")
