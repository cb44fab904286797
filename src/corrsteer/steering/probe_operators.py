"""Operators that read a probe (:mod:`corrsteer.steering.probe`): ``w`` its row, ``b`` its offset.

======  ====================================================  =======================
Scaled  h + c sigmoid(w.h + b) v                              DSAS (arXiv 2512.03661)
Mera    h + c min(0, logit(alpha) - (w.h + b)) w / |w|^2      MERA (arXiv 2510.13290)
======  ====================================================  =======================

DSAS reads principal components of h, MERA without b: a probe on either is a linear one of h.

MERA calibrates alpha, and abstains where no correction is sure to help: here alpha is the one that
gives most right answers to the validation split, the highest of equals, and 1 is among them, at
which it never acts. So it abstains where no lower one leaves more answers right than no steering
does. Deviation: one answer more is enough, and no bound or test stands between the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from corrsteer.errors import ConfigError
from corrsteer.steering.probe import logit, logit_parts, probe_of
from corrsteer.steering.protocol import Parts

if TYPE_CHECKING:
    from torch import Tensor

    from corrsteer.steering.plan import PlanEntry

ABSTAINS = 1.0
GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, ABSTAINS)


def scaled(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """``x`` plus dial times the probe's probability times ``parts["vector"]`` [M]."""
    p = logit(x, parts).sigmoid()
    return x + (dial * p[..., None] * parts["vector"].to(p)).to(x)


def mera(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """The log odds are lowered to ``parts["level"]`` by the shortest push that does, where they
    are above it; at dial 0.5 by half of it."""
    too_high = (logit(x, parts) - parts["level"].to(x.device)).relu()
    return x - (dial * too_high[..., None] * parts["push"].to(x.device)).to(x)


@dataclass(frozen=True)
class Scaled:
    """Add the entry's vector as far as the probe finds an error likely."""

    additive: ClassVar[bool] = False
    reads_probe: ClassVar[str] = "generated"
    apply = staticmethod(scaled)

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        return {**logit_parts(probe_of(entry, self)), "vector": entry.vector}


@dataclass(frozen=True)
class Mera:
    """Push against the probe until an error is no likelier than ``alpha``; 1: never; null: chosen
    on validation. Of the entry only its layer counts, so other vectors are no controls of it."""

    alpha: float | None = None
    additive: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    reads_vector: ClassVar[bool] = False
    reads_probe: ClassVar[str] = "generated"
    apply = staticmethod(mera)

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 < self.alpha <= 1:
            raise ConfigError(
                f"operator.alpha={self.alpha}: it must be a probability above 0, at most 1, which"
                " never acts, or null"
            )

    @property
    def abstains(self) -> bool:
        return self.alpha == ABSTAINS

    @property
    def is_open_ended(self) -> bool:
        """Whether its level is not chosen yet."""
        return self.alpha is None

    def candidates(self, entries: Sequence[PlanEntry]) -> Sequence[Mera]:
        return [replace(self, alpha=alpha) for alpha in GRID]

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        if self.alpha is None:
            raise ConfigError(
                "operator.alpha=null is chosen on validation by strategy=corrsteer_a or corrsteer_s"
                " alone: type a number, such as operator.alpha=0.5"
            )
        probe = probe_of(entry, self)
        push = probe.row / (float(probe.row @ probe.row) or 1.0)
        odds = math.inf if self.abstains else self.alpha / (1 - self.alpha)
        level = np.array(math.log(odds), np.float32)
        return {**logit_parts(probe), "push": push.astype(np.float32), "level": level}
