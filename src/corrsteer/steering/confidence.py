"""A gate that asks how sure the unsteered model is: act where its next token is open.

Entropy in nats of the whole next-token distribution after the prompt, without steering and without
any restriction of the answer. An answer is steered as a whole or not at all; cost: one pass over
its prompt, which is counted in what a run says of its gate. Deviation: entropy gating may ask
before every token. Here it asks before the first, which is the same for answers of one token, since
an unsteered pass beside each steered token needs keys and values of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from corrsteer.errors import ConfigError
from corrsteer.steering.protocol import Parts
from corrsteer.steering.threshold import Threshold

if TYPE_CHECKING:
    from torch import Tensor

    from corrsteer.steering.plan import PlanEntry

GRID = (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Nats; the entropy of two equally likely tokens is 0.7, of twenty 3."""


def nats(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """Entropies as they are."""
    return x


def is_unsure(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """[...] bool: where entropies ``x`` [...] are at least ``parts["gate_above"]`` or, inverted,
    are not."""
    return (x >= parts["gate_above"].to(x)) ^ parts["gate_inverted"].to(x).bool()


@dataclass(frozen=True)
class Confidence(Threshold):
    """On answers before which the model's entropy is at least ``above`` nats, 0: on all; null:
    chosen on validation by :class:`corrsteer.methods.corrsteer.CorrSteer`. ``inverted``: where it
    is not."""

    grid: ClassVar[Sequence[float]] = GRID
    whole_answer: ClassVar[bool] = True
    reads_entropy: ClassVar[bool] = True
    open = staticmethod(is_unsure)
    signal = staticmethod(nats)

    def __post_init__(self) -> None:
        if self.above is not None and not 0 <= self.above < math.inf:
            raise ConfigError(
                f"gate.above={self.above}: it must be an entropy in nats, at least 0 and finite, or"
                " null"
            )

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        return {
            "gate_above": np.array(self.chosen, np.float32),
            "gate_inverted": np.array(self.inverted, np.float32),
        }


def reads_entropy(gate: object) -> bool:
    """Whether a gate is asked of the entropy of the unsteered next-token distribution, not of
    residuals."""
    return bool(getattr(gate, "reads_entropy", False))
