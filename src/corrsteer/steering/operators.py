"""Operators: what happens to the residual stream at one layer.

``v`` is the plan's vector, ``d`` the decoder row of its feature, ``z`` the feature's activation
(:mod:`corrsteer.steering.encoder`) and ``c`` the dial; ``v = coefficient * d``.

==============  =========================  ====================================================
Add             h + c v                    CorrSteer (arXiv 2508.12535), section 3
Clamp           h + (c level - z) d        Templeton et al. 2024, "Scaling monosemanticity"
Fill            h + max(0, c level - z) d  the same, but never down
Ablate          h - c z d                  Marks et al. 2024 (2403.19647): zero ablation
ProjectOut      h - c (h.v) v / |v|^2      Arditi et al. 2024 (2406.11717): directional ablation
NormPreserving  (h + c v) |h| / |h + c v|  Pham and Nguyen 2024 (2409.10053): a push that turns h
                                           and leaves its length
==============  =========================  ====================================================

Cost of ``Add``: one addition per steered layer and position; the others take a product or a norm
more. Where it is done is the backend's business. Torch is not imported: ``apply`` only uses methods
of the tensors it is given, and is a plain function, so that it can be sent to a server as source.
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


def add(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """``x`` [..., M] plus dial times ``parts["vector"]`` [M], in the type and on the device of
    ``x``, which is not changed."""
    vector = parts["vector"] if dial == 1 else parts["vector"] * dial
    return x + vector.to(x)


@dataclass(frozen=True)
class Add:
    """Add the entry's vector: the steering of CorrSteer (section 3)."""

    additive: ClassVar[bool] = True
    apply = staticmethod(add)

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        return {"vector": entry.vector}


# -- a feature's activation ----------------------------------------------------------------------


def clamp(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """Along ``parts["decoder"]`` [M] from the activation to dial times ``parts["level"]``."""
    z = activation(x, parts)
    missing = parts["level"].to(z) * dial - z
    return x + (missing[..., None] * parts["decoder"].to(z)).to(x)


def fill(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """As :func:`clamp`, where the activation is below the level."""
    z = activation(x, parts)
    missing = (parts["level"].to(z) * dial - z).relu()
    return x + (missing[..., None] * parts["decoder"].to(z)).to(x)


def ablate(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """Without dial times what the feature writes, its activation times ``parts["decoder"]``."""
    z = activation(x, parts)
    return x - (dial * z[..., None] * parts["decoder"].to(z)).to(x)


@dataclass(frozen=True)
class Clamp:
    """Set the feature's activation to ``level`` times the dial, None: to the entry's coefficient.

    What the SAE does not explain of the residual stays as it is."""

    level: float | None = None
    additive: ClassVar[bool] = False
    reads_feature: ClassVar[bool] = True
    apply = staticmethod(clamp)

    @property
    def only_raises(self) -> bool:
        """A level above 0 may be above what the feature is."""
        return self.level is not None and self.level > 0

    def __post_init__(self) -> None:
        if self.level is not None and not math.isfinite(self.level):
            raise ConfigError(
                f"operator.level={self.level}: it must be a finite number, or null for the plan's"
                " coefficients"
            )

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        encoder = encoder_of(entry, self)
        d = encoder.decoder
        level = self.level
        if level is None:  # a search may have scaled the vector, and a control turned it
            level = float(entry.vector @ d) / (float(d @ d) or 1.0)
        return {**encoder.parts(), "decoder": d, "level": np.array(level, np.float32)}


@dataclass(frozen=True)
class Fill(Clamp):
    """Raise the feature's activation to at least that level."""

    apply = staticmethod(fill)

    @property
    def only_raises(self) -> bool:
        return True


@dataclass(frozen=True)
class Ablate:
    """Take away what the feature writes, whatever its coefficient; at dial 0.5 half of it."""

    additive: ClassVar[bool] = False
    reads_feature: ClassVar[bool] = True
    apply = staticmethod(ablate)

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        encoder = encoder_of(entry, self)
        return {**encoder.parts(), "decoder": encoder.decoder}


# -- the entry's vector --------------------------------------------------------------------------


def project_out(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """Without dial times the component along ``parts["unit"]`` [M]."""
    unit = parts["unit"].to(x.device)
    along = x.float() @ unit
    return x - (dial * along[..., None] * unit).to(x)


def norm_preserving(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """``x`` plus dial times ``parts["vector"]`` [M], made as long as ``x``."""
    h = x.float()
    new = h + parts["vector"].to(h) * dial
    lengths = [y.norm(dim=-1, keepdim=True) for y in (h, new)]
    return (new * (lengths[0] / lengths[1].clamp(min=1e-30))).to(x)


@dataclass(frozen=True)
class ProjectOut:
    """Remove the component along the entry's vector, whose length and sign do not matter."""

    additive: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    apply = staticmethod(project_out)

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        unit = entry.vector / (np.linalg.norm(entry.vector) or 1.0)
        return {"unit": unit.astype(np.float32)}


@dataclass(frozen=True)
class NormPreserving:
    """Add the entry's vector, then rescale to the length that the residual had."""

    additive: ClassVar[bool] = False
    apply = staticmethod(norm_preserving)

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        return {"vector": entry.vector}
