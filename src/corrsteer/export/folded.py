"""A model folder with the plan inside: each vector in the bias that is added right before the
residual stream. It needs no runtime of ours, and has no dial.

Exact, up to rounding, as an addition at every token where a block ends in ``x + W h + b``: Llama
(with ``mlp_bias``), GPT-2, GPT-NeoX. Costs memory for the model, and as much disk.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrsteer import hub
from corrsteer.errors import ModelError
from corrsteer.export.source import Source
from corrsteer.models import weights
from corrsteer.steering.hooks import blocks

if TYPE_CHECKING:
    import torch

_FOLDS = {"llama": "Llama", "gpt2": "GPT-2", "gpt_neox": "GPT-NeoX"}
_WHY = {
    "gemma": "its MLP has no bias, and from Gemma 2 on a norm stands between MLP and residual"
    " stream",
    "qwen": "transformers gives its MLP no bias",
    "mistral": "transformers gives its MLP no bias",
    "mixtral": "its experts share no bias",
}


def check(source: Source) -> None:
    architecture = source.model().architecture()
    if architecture in _FOLDS:
        return
    why = "no bias of it is known to stand right before the residual add"
    why = next((words for name, words in _WHY.items() if architecture.startswith(name)), why)
    if "moe" in architecture:
        why = "its experts share no bias"
    raise ModelError(
        f"a plan cannot be folded into a {architecture}: {why}; formats for it: transformers, gguf,"
        " lm_eval, vllm"
    )


def write(source: Source, folder: Path, out: Path) -> list[str]:
    import torch

    spec = source.model()
    dtype = spec.dtype
    if dtype == "auto":  # as it is kept
        dtype = str(getattr(spec.config(), "dtype", None) or torch.float32).removeprefix("torch.")
    module: Any = weights.load(spec, dtype, None)
    kind = module.config.get_text_config().model_type
    with torch.no_grad():
        for layer, block in enumerate(blocks(module, spec.path)):
            bias = _bias(block, kind)
            vector = source.plan.vectors().get(layer)
            if vector is not None:
                added = bias.to(torch.float32) + torch.tensor(vector)
                bias.copy_(added.to(bias))
    if kind == "llama":
        module.config.get_text_config().mlp_bias = True
    with weights.quiet():
        module.save_pretrained(folder)
    for pattern in hub.SMALL:  # the tokenizer, as it is
        for file in spec.folder(weights=False).glob(pattern):
            if file.name != hub.INDEX and not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)
    return [f"use it: any program that reads {out}; here model=folder model.path={out}"]


def _bias(block: Any, kind: str) -> torch.Tensor:
    """The bias before the residual add, made where a Llama has none yet."""
    import torch

    if kind == "gpt2":
        return block.mlp.c_proj.bias
    if kind == "gpt_neox":
        return block.mlp.dense_4h_to_h.bias
    for part in (block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj):
        if part.bias is None:
            part.bias = torch.nn.Parameter(part.weight.new_zeros(part.weight.shape[0]))
    return block.mlp.down_proj.bias
