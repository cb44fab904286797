"""What SAEs are trained with, as plain settings, and what that takes in memory.

Costs nothing to import. :mod:`corrsteer.saes.training` does it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from corrsteer.errors import ConfigError

ARCHITECTURES = ("batchtopk", "topk", "jumprelu")
DTYPES = ("float32", "bfloat16", "float16")
READ = 2048
"""Positions of one pass of the model."""
ROUNDS = 8
"""Into how many rounds training is cut at least: each ends with a checkpoint."""


@dataclass(frozen=True)
class TrainSAE:
    """SAEs of the outputs of blocks, all of them from one pass over ``text``, saved below ``out``.

    ``text`` and ``heldout``: files or folders. ``width``: features per dimension. ``k``: active
    features per position (of jumprelu what the penalty draws it to). ``positions`` are trained on
    in batches of ``batch``, from rows of ``context`` tokens. ``memory_gb`` bounds everything but
    the model. ``dtype`` is that of the saved weights.
    """

    text: str | Sequence[str]
    out: str
    heldout: str | Sequence[str] | None = None
    architecture: str = "batchtopk"
    width: float = 4
    k: int = 32
    positions: int = 300_000
    context: int = 256
    batch: int = 1024
    lr: float = 1e-3
    heldout_positions: int = 8192
    loss_positions: int = 2048
    memory_gb: float = 8.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("text", "out"):
            if not getattr(self, name):
                raise ConfigError(f"job.{name} is empty: type job.{name}=PLACE.")
        for name, legal in (("architecture", ARCHITECTURES), ("dtype", DTYPES)):
            value = getattr(self, name)
            if value not in legal:
                raise ConfigError(f"job.{name}={value} is unknown: use one of {', '.join(legal)}.")
        least = {"k": 1, "positions": 1, "context": 8, "batch": 1, "heldout_positions": 1}
        for name, smallest in {**least, "loss_positions": 0}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise ConfigError(
                    f"job.{name}={value}: it must be a whole number of at least {smallest}."
                )
        for name in ("width", "lr", "memory_gb"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ConfigError(f"job.{name}={value}: it must be a number above 0.")

    @property
    def steps(self) -> int:
        """Steps of training: ``positions`` in batches, the last one filled up."""
        return math.ceil(self.positions / self.batch)

    def features(self, d_model: int) -> int:
        """Features of each SAE. Raises ConfigError where there are fewer than ``k``."""
        features = round(self.width * d_model)
        if features < self.k:
            raise ConfigError(
                f"job.width={self.width} makes {features} features of a residual stream of width"
                f" {d_model}, fewer than job.k={self.k}: choose a larger width or a smaller k."
            )
        return features

    def memory(self, layers: int, d_model: int) -> tuple[float, int]:
        """(bytes of everything but the model, positions of a round).

        The SAEs with their gradients and Adam's two moments, one step's activations, one pass of
        the model, and the residuals of a round, which get what is left of ``memory_gb`` but no
        more than an eighth of what is trained on. Raises ConfigError where less than two batches
        fit.
        """
        features = self.features(d_model)
        saes = 16 * layers * (2 * d_model + 3) * features
        step = 4 * self.batch * (8 * features + 4 * d_model)
        position = 4 * layers * d_model
        passing = 3 * (READ + self.context) * position
        left = self.memory_gb * 1e9 - saes - step - passing
        batches = int(left // (self.batch * position))
        if batches < 2:
            needed = (saes + step + passing + 2 * self.batch * position) / 1e9
            raise ConfigError(
                f"{layers} SAEs of {features} features at width {d_model} take at least"
                f" {needed:.1f} GB, job.memory_gb={self.memory_gb:g} allows less: choose fewer"
                " layers at a time, a smaller job.width, or more memory."
            )
        batches = min(batches, max(2, math.ceil(self.steps / ROUNDS)))
        size = batches * self.batch
        return saes + step + passing + size * position, size

    def key(self) -> dict[str, Any]:
        """What decides the trained weights: not where they go, nor how they are judged."""
        names = ("architecture", "width", "k", "positions", "context", "batch", "lr")
        return {name: getattr(self, name) for name in names}
