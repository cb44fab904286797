"""Add a vector to the residual stream: the steering operator of CorrSteer S and A.

Cost: one addition per steered layer and position. What is added lives here; where it is
added is the backend's business. Torch is not imported: ``apply`` only uses methods of the
tensors it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corrsteer.errors import ConfigError
from corrsteer.records import RankedFeature

if TYPE_CHECKING:
    from torch import Tensor


def add(x: Tensor, vector: Tensor) -> Tensor:
    """``x`` [..., M] plus ``vector`` [M] (or broadcastable), in the type and on the device of
    ``x``; neither is changed."""
    return x + vector.to(x)


@dataclass(frozen=True)
class Add:
    """``variant`` A: the best feature of every layer. S: the one best feature of all layers."""

    variant: str = "A"

    def __post_init__(self) -> None:
        if self.variant not in ("A", "S"):
            raise ConfigError(
                f"strategy.variant={self.variant}: unknown; type strategy.variant=A (the best "
                "feature of every layer) or strategy.variant=S (the one best feature of all)"
            )

    def choose(self, ranked: Sequence[RankedFeature]) -> tuple[RankedFeature, ...]:
        """The features to steer with, layers ascending; none if nothing was ranked. S takes
        the lower layer of two with equal r."""
        best = sorted((f for f in ranked if f.rank == 1), key=lambda f: f.layer)
        if self.variant == "S":
            best = sorted(best, key=lambda f: -f.r)[:1]
        return tuple(best)

    # A plain function, so that it can be sent to a server as source.
    apply = staticmethod(add)
