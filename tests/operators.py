"""Operators and gates that are not the product's, for tests of its seams, and features to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from corrsteer.steering.encoder import Encoder


def subtract(x, parts, dial):
    return x - (parts["vector"] * dial).to(x)


@dataclass(frozen=True)
class Minus:
    """The opposite of Add, with a dial that is not folded into its vector."""

    additive: ClassVar[bool] = False
    apply = staticmethod(subtract)

    def parts(self, entry):
        return {"vector": entry.vector}


def along(x, parts, dial):
    """Set the component along the vector's direction to level times dial."""
    direction = parts["direction"].to(x)
    return x + (parts["level"].to(x) * dial - x @ direction)[..., None] * direction


@dataclass(frozen=True)
class Clamp:
    level: float = 1.0
    additive: ClassVar[bool] = False
    apply = staticmethod(along)

    def parts(self, entry):
        unit = entry.vector / np.linalg.norm(entry.vector)
        return {"direction": unit.astype(np.float32), "level": np.float32(self.level)}


def on_one_side(x, parts, dial):
    return x @ parts["normal"].to(x) > 0


@dataclass(frozen=True)
class Side:
    """Open where the residual lies on one side of a plane."""

    seed: int = 0
    open = staticmethod(on_one_side)

    def parts(self, entry):
        rng = np.random.default_rng((self.seed, entry.layer))
        return {"normal": rng.normal(size=len(entry.vector)).astype(np.float32)}


def fails(x, parts, dial):
    raise KeyError("boom")


@dataclass(frozen=True)
class Broken(Minus):
    apply = staticmethod(fails)


def made_encoder(seed, width=32, **how):
    """A feature that is active at about half of all random residuals."""
    rng = np.random.default_rng((seed, 77))
    row, decoder, shift = rng.normal(size=(3, width)).astype(np.float32)
    numbers = {"threshold": 0.1, "slope": 1.3, "offset": 0.2}
    return Encoder(row / np.float32(width**0.5), decoder, shift, **{**numbers, **how})
