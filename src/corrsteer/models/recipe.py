"""How a model is fine-tuned, as values. Costs nothing to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from corrsteer.steering.positions import GENERATION

BIAS = "bias"
"""What is trained: a vector for each of some layers, added to the block's output. The other kinds
are those of :mod:`corrsteer.steering.adapter`."""


@dataclass(frozen=True)
class Recipe:
    """``kind``: lora, full or bias. AdamW at a constant rate ``lr``, without weight decay, on
    ``batch`` answers at a time, in an order of each epoch's own that ``seed`` decides.

    ``rank``, ``alpha``: of a lora. ``layers``, ``positions``: where a bias is added.
    """

    kind: str
    lr: float
    batch: int
    seed: int
    rank: int = 0
    alpha: float = 0.0
    layers: tuple[int, ...] = ()
    positions: str = GENERATION


@dataclass(frozen=True)
class Epoch:
    """What training was at the end of an epoch (1 is the first). ``loss``: mean over its steps.

    ``arrays``: what was trained, float32; of a bias by layer. ``config``: what peft has to know.
    ``state``: what the next epoch goes on from, safetensors.
    """

    number: int
    steps: int
    loss: float
    seconds: float
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    state: bytes = field(repr=False)
