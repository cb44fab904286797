"""A hook of vllm-lens with the plan beside this file: it steers a plan's own positions.

    from hook import hook

    client = VLLMLensClient("http://localhost:8000")
    client.generate(prompt, hooks=[hook()])             # hook(coef=0.5) turns the dial

Of a request's tokens in a pass it steers the last: the last prompt token, then every generated one.
Start vLLM with --no-enable-chunked-prefill and --no-enable-prefix-caching: a prompt in pieces has
more than one last token, and a cached one may have been steered. Not run by those who wrote it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steer import read  # the file beside this one

HERE = Path(__file__).resolve().parent


def hook(coef: float | None = None, folder: Path = HERE) -> Any:
    """A ``vllm_lens.Hook``, which travels to the server with its vectors."""
    from vllm_lens import Hook

    plan, at_1 = read(folder)
    vectors = {layer: v * (plan["coef"] if coef is None else coef) for layer, v in at_1.items()}

    def add(ctx: Any, hidden: Any) -> Any:
        steered = hidden.clone()
        steered[-1] += vectors[ctx.layer_idx].to(hidden)
        return steered

    return Hook(fn=add, layer_indices=sorted(vectors))
