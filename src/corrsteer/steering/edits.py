"""Operators of several features of a layer at once, each by its own activation: what SPARE and
dynamic SAE guardrails do to the residual stream.

``z`` are the activations of the layer's features and ``D`` their decoder rows; ``c`` is the dial.

=====  =====================================================  =====================================
SPARE  h + c (max(wanted - z, 0) - min(z, unwanted)) D        Zhao et al. 2024 (2410.15999): adds
                                                              what is missing of the features of one
                                                              behaviour, removes those of the other
Guard  h + [z > 0] (-c level - z) D                           Muhamed et al. 2025 (2504.08192):
                                                              clamps features where they are active
=====  =====================================================  =====================================

Cost: two products of [k, M] per position. Their plans hold encoders and levels themselves
(``PlanEntry.arrays``), so no SAE is needed to use one. Torch is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from corrsteer.steering.encoder import Encoder, activation
from corrsteer.steering.protocol import Parts

if TYPE_CHECKING:
    from torch import Tensor

    from corrsteer.steering.plan import PlanEntry


def stacked(encoders: Sequence[Encoder]) -> dict[str, np.ndarray]:
    """The parts of several features of one SAE, of which
    :func:`corrsteer.steering.encoder.activation` reads all at once."""
    parts = [encoder.parts() for encoder in encoders]
    first = parts[0]
    many = {name: np.stack([p[name] for p in parts]) for name in ("row", "numbers")}
    decoders = np.stack([encoder.decoder for encoder in encoders])
    return {**first, **many, "decoders": decoders}


def spare(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """``parts``: wanted [k] and unwanted [k], mean activations, each 0 for the other's features."""
    z = activation(x, parts)
    missing = (parts["wanted"].to(z) - z).relu()
    change = missing - z.minimum(parts["unwanted"].to(z))
    return x + (dial * (change @ parts["decoders"].to(z))).to(x)


def guard(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """``parts``: level [k], below zero of which an active feature is pushed at dial 1."""
    z = activation(x, parts)
    change = (z > 0) * (-dial * parts["level"].to(z) - z)
    return x + (change @ parts["decoders"].to(z)).to(x)


@dataclass(frozen=True)
class _Edit:
    additive: ClassVar[bool] = False

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        return entry.arrays


@dataclass(frozen=True)
class SpareEdit(_Edit):
    """Move activations to those of right answers."""

    apply = staticmethod(spare)


@dataclass(frozen=True)
class Guard(_Edit):
    """Clamp the features of wrong answers below zero, where they are active."""

    apply = staticmethod(guard)
