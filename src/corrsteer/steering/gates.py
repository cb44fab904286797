"""Gates: when an operator acts. ``Always`` is the paper's, and costs nothing.

``FeatureActive`` and ``FeatureInactive`` read the activation of the entry's own feature, before the
operator writes: act only where it speaks (Muhamed et al. 2025, arXiv 2504.08192, clamp so), or only
where it is silent, which fills in. Cost: a product of vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from corrsteer.errors import ConfigError
from corrsteer.steering.encoder import activation, encoder_of
from corrsteer.steering.protocol import Parts

if TYPE_CHECKING:
    from torch import Tensor

    from corrsteer.steering.plan import PlanEntry


@dataclass(frozen=True)
class Always:
    """At every position of the plan."""

    open: ClassVar[None] = None

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        return {}


def is_active(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """[...] bool: where the activation is above ``parts["gate_above"]``."""
    z = activation(x, parts, "gate_")
    return z > parts["gate_above"].to(z)


def level(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """[...], the activation."""
    return activation(x, parts, "gate_")


def is_inactive(x: Tensor, parts: Parts, dial: float) -> Tensor:
    return ~is_active(x, parts, dial)


@dataclass(frozen=True)
class FeatureActive:
    """Where the entry's feature is more active than ``above``, in units of the raw stream."""

    above: float = 0.0
    reads_feature: ClassVar[bool] = True
    open = staticmethod(is_active)
    signal = staticmethod(level)

    def inverse(self) -> FeatureActive:
        """The gate that is open where this one is closed."""
        return FeatureInactive(self.above)

    def __post_init__(self) -> None:
        if not 0 <= self.above < math.inf:
            raise ConfigError(f"gate.above={self.above}: it must be a finite number, at least 0")

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        above = np.array(self.above, np.float32)
        return {**encoder_of(entry, self).parts("gate_"), "gate_above": above}


@dataclass(frozen=True)
class FeatureInactive(FeatureActive):
    """Where it is not."""

    open = staticmethod(is_inactive)

    def inverse(self) -> FeatureActive:
        return FeatureActive(self.above)
