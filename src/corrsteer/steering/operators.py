"""Operators: what happens to the residual stream at one layer.

Cost of ``Add``: one addition per steered layer and position. Where it is done is the backend's
business. Torch is not imported: ``apply`` only uses methods of the tensors it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from corrsteer.steering.protocol import Parts

if TYPE_CHECKING:
    from torch import Tensor

    from corrsteer.steering.plan import PlanEntry


def add(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """``x`` [..., M] plus dial times ``parts["vector"]`` [M], in the type and on the device of
    ``x``, which is not changed."""
    vector = parts["vector"] if dial == 1 else parts["vector"] * dial
    return x + vector.to(x)


@dataclass(frozen=True)
class Add:
    """Add the entry's vector: the steering of CorrSteer (section 3)."""

    additive: ClassVar[bool] = True
    # A plain function, so that it can be sent to a server as source.
    apply = staticmethod(add)

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        return {"vector": entry.vector}
