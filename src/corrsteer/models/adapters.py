"""A model under an adapter: its parameters are changed for as long as a pass takes.

The values are made once; a pass then costs what it costs without, since parameters only point
elsewhere meanwhile. Imports torch: only for use behind a loaded model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from corrsteer.errors import ModelError
from corrsteer.steering.adapter import CONFIG, FULL, WEIGHTS, Adapter

_PEFT = "base_model.model."
"""What peft puts before the names of a model's own modules."""
_CHUNK = 64
"""Positions whose distributions are compared at a time."""


def values(module: torch.nn.Module, adapter: Adapter) -> dict[str, torch.Tensor]:
    """Parameter -> its value under the adapter, at its dial, in the type and place of the model's.

    Raises ModelError for an adapter of another model.
    """
    from safetensors.torch import load_file

    if adapter.does_nothing:
        return {}
    assert adapter.folder is not None
    arrays = load_file(adapter.folder / WEIGHTS[adapter.kind])
    own = dict(module.named_parameters())
    trained = arrays if adapter.kind == FULL else _with_lora(module, arrays, adapter)
    made = {}
    for name, new in trained.items():
        if name not in own or own[name].shape != new.shape:
            raise ModelError(f"the adapter is another model's: it changes {name} {list(new.shape)}")
        old = own[name].detach()
        wide = new if adapter.coef == 1 else torch.lerp(old.float().cpu(), new, adapter.coef)
        made[name] = wide.to(old)
    return made


def _with_lora(
    module: torch.nn.Module, arrays: Mapping[str, torch.Tensor], adapter: Adapter
) -> dict[str, torch.Tensor]:
    """W + alpha / r * B A, float32 on the CPU: what peft calls merged."""
    assert adapter.folder is not None
    config = json.loads((adapter.folder / CONFIG).read_text(encoding="utf-8"))
    parts, made = dict(module.named_modules()), {}
    for name, a in arrays.items():
        if not name.endswith(".lora_A.weight"):
            continue
        b = arrays[name.replace(".lora_A.", ".lora_B.")]
        place = name.removeprefix(_PEFT).removesuffix(".lora_A.weight")
        change = config["lora_alpha"] / config["r"] * (b @ a)
        if type(parts.get(place)).__name__ == "Conv1D":  # keeps its matrix the other way round
            change = change.T
        old: torch.Tensor | None = getattr(parts.get(place), "weight", None)
        if old is None or old.shape != change.shape:
            shape = list(change.shape)
            raise ModelError(f"the adapter is another model's: it changes {place} {shape}")
        made[f"{place}.weight"] = old.detach().float().cpu() + change
    return made


@contextmanager
def worn(module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """The model with other values of some parameters; then with its own again, to the bit."""
    changed = [(p, weights[name]) for name, p in module.named_parameters() if name in weights]
    kept = [p.data for p, _ in changed]
    try:
        for parameter, new in changed:
            parameter.data = new
        yield
    finally:
        for (parameter, _), old in zip(changed, kept, strict=True):
            parameter.data = old


def diverged(
    module: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    counted: torch.Tensor,
    weights: Mapping[str, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(unsteered || under the adapter) [B] float64 and changed likeliest tokens [B] long, summed
    over the positions ``counted`` [B, T]."""
    before = module(**inputs, use_cache=False).logits
    with worn(module, weights):
        after = module(**inputs, use_cache=False).logits
    each = torch.zeros(counted.shape, dtype=torch.float64, device=before.device)
    other = torch.zeros(counted.shape, dtype=torch.long, device=before.device)
    for cells in counted.to(before.device).nonzero().split(_CHUNK):
        row, column = cells.unbind(1)
        p, q = (x[row, column].float().log_softmax(-1) for x in (before, after))
        each[row, column] = (p.exp() * (p - q)).sum(-1, dtype=torch.float64)
        other[row, column] = (p.argmax(-1) != q.argmax(-1)).long()
    return each.sum(1), other.sum(1)
