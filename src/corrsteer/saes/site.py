"""Where an SAE reads: which block's output its own metadata name.

sae_lens names sites as TransformerLens does (``blocks.5.hook_resid_post``); Gemma Scope 2 and
Qwen Scope also give the name of the module in transformers (``model.layers.5.output`` and
``model.layers.5``). The input of block L is the output of block L - 1.
"""

from __future__ import annotations

import re

from corrsteer.errors import ModelError

_HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")
# The prefixes are spelt out: a vision tower has layers too.
_MODULE = re.compile(
    r"(?:(?:model|language_model|transformer|gpt_neox)\.)*(?:layers|h)\.(\d+)(\.input|\.output)?"
)


def served_block(sae_id: str, hook: str | None, hf_hook: str | None = None) -> int:
    """The block whose output the SAE reads; -1 for the embeddings.

    ``hook`` and ``hf_hook`` are ``hook_name`` and ``hf_hook_name`` of the metadata; one is
    enough. Raises ModelError when there is none, when a name is not on the residual stream
    between blocks, or when the two disagree.
    """
    blocks = {name: _block(name) for name in (hook, hf_hook) if name}
    wrong = [name for name, block in blocks.items() if block is None]
    if wrong or not blocks:
        where = wrong[0] if wrong else "a site it does not name"
        raise ModelError(
            f"SAE {sae_id} was trained at {where}: only the output of a block can be used; choose"
            " an SAE with hook_name blocks.L.hook_resid_post or blocks.L.hook_resid_pre."
        )
    if len(set(blocks.values())) > 1:
        raise ModelError(
            f"SAE {sae_id} names two sites, {' and '.join(blocks)}: correct its metadata, or"
            " choose another SAE."
        )
    block = next(iter(blocks.values()))
    assert block is not None
    return block


def check_block(
    sae_id: str, layer: int, hook: str | None, hf_hook: str | None, remedy: str
) -> None:
    """Raise ModelError, ending with ``remedy``, unless the SAE reads block ``layer``'s output.

    ``{block}`` in ``remedy`` becomes the number of the block that it does read.
    """
    block = served_block(sae_id, hook, hf_hook)
    if block < 0:
        raise ModelError(
            f"SAE {sae_id} was trained at {hook or hf_hook}, the embeddings, which are not a"
            " block's output: leave it out."
        )
    if block != layer:
        raise ModelError(
            f"SAE {sae_id} was trained at {hook or hf_hook}, the output of block {block}, not of"
            f" block {layer}: {remedy.format(block=block)}"
        )


def _block(name: str) -> int | None:
    if match := _HOOK.fullmatch(name):
        return int(match[1]) - (match[2] == "pre")
    if match := _MODULE.fullmatch(name):
        return int(match[1]) - (match[2] == ".input")
    return None
