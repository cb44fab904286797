"""What directions do to the next token: the output score of Arad, Mueller and Belinkov 2025 ("SAEs
are good for steering, if you select the right features", arXiv 2505.20063, section 3).

A direction is added, long enough, after its block at the last token of a neutral text. Of the
``TOP`` tokens that it promotes by the logit lens, the one that is then likeliest has probability p,
and k of the V tokens are likelier: the score is ``(1 - k / V) p``. Cost: a pass over the text for
every direction. torch is imported by the functions that need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from corrsteer.models.weighing import LOGITS_BYTES, not_finite

if TYPE_CHECKING:
    import torch

    from corrsteer.models.local import LocalModel

NEUTRAL = "From my experience,"
TOP = 20
BATCH = 256


def neutral_residual(model: LocalModel, layer: int) -> torch.Tensor:
    """[1, M] float32, after block ``layer`` at the last token of the neutral text."""
    import torch

    read: list[torch.Tensor] = []

    def keep(hidden: torch.Tensor) -> None:
        read.append(hidden[:, -1].float().clone())

    with torch.no_grad():
        _logits(model, layer, 1, keep)
    return read[0].to(model.device)


def output_scores(model: LocalModel, layer: int, added: np.ndarray) -> np.ndarray:
    """[K] float64 of the directions ``added`` [K, M], at the length they are added with."""
    import torch

    vocabulary = model._module.get_output_embeddings().weight.shape[0]
    batch = max(1, min(BATCH, LOGITS_BYTES // (4 * vocabulary)))
    scores = []
    for start in range(0, len(added), batch):
        rows = torch.from_numpy(added[start : start + batch])
        tokens = torch.tensor(model.lens(rows.numpy(), TOP), device=model.device)

        def add(hidden: torch.Tensor, rows: torch.Tensor = rows) -> None:
            hidden[:, -1] += rows.to(hidden)

        with torch.no_grad():
            p = _logits(model, layer, len(rows), add).softmax(-1)
        best = p.gather(1, tokens.to(p.device)).amax(1, keepdim=True)
        rank = (p > best).sum(1)
        scores.append(((1 - rank / p.shape[1]) * best[:, 0]).double().cpu().numpy())
    return np.concatenate([np.zeros(0), *scores])


def _logits(model: LocalModel, layer: int, n: int, do: Any) -> torch.Tensor:
    """[n, V] float32 after the neutral text, read n times, where ``do`` was done to the output
    [n, T, M] of a block."""
    (ids,) = model._encode_plain([NEUTRAL])

    def hook(module: Any, args: Any, output: Any) -> None:
        do(output[0] if isinstance(output, tuple) else output)

    handle = model._blocks[layer]._module.register_forward_hook(hook)
    try:
        inputs = model._pad_left([ids] * n)
        output = model._module(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        handle.remove()
    logits: torch.Tensor = output.logits[:, -1].float()
    if not logits.isfinite().all():
        raise not_finite(model._model.name, "predictions", steered=False)
    return logits
