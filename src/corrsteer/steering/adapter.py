"""An adapter: what training made of a model's own weights, as an intervention.

It changes what the model makes of every token, so nothing of a prompt can be shared with the
unsteered model. Its files are safetensors and JSON, no pickles. torch is not imported; the weights
are read by the backend that applies them (:mod:`corrsteer.models.adapters`).

====  ==========================================================================================
lora  ``adapter_model.safetensors`` and ``adapter_config.json``, in peft's format: two small
      matrices beside each linear layer (Hu et al. 2022, "LoRA")
full  ``weights.safetensors``: every parameter, float32, by its name in the model
====  ==========================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from corrsteer.store.keys import digest

LORA, FULL = "lora", "full"
WEIGHTS = {LORA: "adapter_model.safetensors", FULL: "weights.safetensors"}
CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """``kind``: lora or full. ``folder``: where its files are; None for one that was not trained
    and does nothing. ``content``: a digest of its files.

    ``coef``, the dial: the model's weights are W + coef (W' - W), with W' the trained ones, so that
    0 is the unsteered model, token for token, and 1 what was trained.
    """

    changes_prompt: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"weights"})
    kind: str
    folder: Path | None = field(default=None, compare=False)
    content: str = ""
    coef: float = 1.0

    @classmethod
    def read(cls, kind: str, folder: Path) -> Adapter:
        made = cls(kind, folder)
        return replace(made, content=digest([digest(file.read_bytes()) for file in made.files]))

    @property
    def files(self) -> list[Path]:
        names = [WEIGHTS[self.kind], *([CONFIG] if self.kind == LORA else [])]
        return [] if self.folder is None else [self.folder / name for name in names]

    def turned_to(self, coef: float) -> Adapter:
        return replace(self, coef=coef)

    @property
    def does_nothing(self) -> bool:
        return self.folder is None or self.coef == 0

    def key(self) -> dict[str, Any]:
        return {"adapter": {"kind": self.kind, "weights": self.content, "coef": self.coef}}


def save(
    kind: str, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], folder: Path
) -> None:
    """Write an adapter's files, the same bytes for the same values. ``config``: what peft has to
    know of a lora; not written for others."""
    from safetensors.numpy import save_file

    save_file(dict(arrays), folder / WEIGHTS[kind], metadata={"format": "pt"})
    if kind == LORA:
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")
