"""The forms in which a plan can be taken elsewhere, and what becomes of it there.

A plan acts at its own positions; other programs have theirs, and then it is another intervention
(docs: README, "Taking a plan elsewhere"). The module ``corrsteer.export.NAME`` writes a format.
Plain values: costs nothing to import.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

OWN = "generation"
"""The last prompt token and every generated token but the last: a plan's own positions."""
ALL = "all"
NOT_FIRST = "all but block 0"

STEERS = {
    OWN: "the last prompt token and every generated one",
    ALL: "every token of prompt and answer",
    NOT_FIRST: "every token of prompt and answer, in all blocks but block 0",
}


@dataclass(frozen=True)
class Format:
    """``acts``: where it steers, a key of STEERS. ``takes``: positions of the plans that it can
    say. ``differs``: from the plan, in a sentence. ``models``: those it is for."""

    writes: str
    acts: str
    differs: str
    models: str
    takes: tuple[str, ...] = ("generation",)

    def is_exact(self, positions: str, layers: Collection[int]) -> bool:
        """Whether it steers where a plan of these ``positions`` and ``layers`` does."""
        if self.acts == NOT_FIRST:
            return positions == ALL and 0 not in layers
        return positions == self.acts


_ALL = "a plan's own are the last prompt token and the generated ones"
FORMATS: dict[str, Format] = {
    "transformers": Format(
        "vectors.safetensors, plan.json, steer.py",
        OWN,
        "nothing: token for token the same",
        "any causal language model of transformers",
    ),
    "gguf": Format(
        "plan.gguf, plan-llama.cpp.gguf (without direction.0)",
        NOT_FIRST,
        f"llama.cpp steers every token, and cannot reach block 0; {_ALL}",
        "those that llama.cpp runs",
        ("generation", "all"),
    ),
    "easysteer": Format(
        "plan.gguf, steer.json",
        OWN,
        "nothing, by its documentation: prompt_positions [-1] and all generated tokens",
        "those that EasySteer serves",
    ),
    "lm_eval": Format(
        "steer.pt",
        ALL,
        f"lm-eval's steered model adds at every token; {_ALL}",
        "any causal language model of transformers",
        ("generation", "all"),
    ),
    "folded": Format(
        "a model folder with the vectors in a bias of every block's MLP",
        ALL,
        f"a bias adds at every token; {_ALL}",
        "Llama, GPT-2, GPT-NeoX",
        ("generation", "all"),
    ),
    "vllm": Format(
        "request.json (vllm-lens's field); hook.py with what it reads",
        ALL,
        f"the field adds at every token (hook.py steers a plan's own positions); {_ALL}",
        "those that vLLM serves",
        ("generation", "all"),
    ),
}
