"""Gates that read a probe (:mod:`corrsteer.steering.probe`): act where the model is likely wrong.

============  ============================================  =======================================
Probe         open where sigmoid(w.h + b) > above           DSAS (arXiv 2512.03661), as a threshold
Prompt        the same at the last prompt token, unsteered  CAST (arXiv 2409.05907)
PromptCosine  cos(h, condition) > above there               CAST
============  ============================================  =======================================

``Probe`` asks at every position of every layer. The other two ask once per answer, at the planned
layer whose probe tells right from wrong best, and the answer is steered as a whole or not at all:
a pass over the prompt as it is, before any operator writes. ``above`` null is chosen on the
validation split. Cost: a product of vectors, and for the latter two a second prompt pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from corrsteer.errors import ConfigError
from corrsteer.steering.probe import logit, logit_parts, probe_of
from corrsteer.steering.protocol import Parts
from corrsteer.steering.threshold import Threshold

if TYPE_CHECKING:
    from torch import Tensor

    from corrsteer.steering.plan import PlanEntry

GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def log_odds(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """[...], what :func:`is_likely_wrong` compares."""
    return logit(x, parts, "gate_")


def is_likely_wrong(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """[...] bool: where the log odds are above ``parts["gate_above"]`` or, inverted, are not."""
    z = log_odds(x, parts, dial)
    return (z > parts["gate_above"].to(z)) ^ parts["gate_inverted"].to(z).bool()


def cosine(x: Tensor, parts: Parts, dial: float) -> Tensor:
    """[...], of ``x`` [..., M] with ``parts["gate_condition"]`` [M], a unit vector."""
    h = x.float()
    return (h @ parts["gate_condition"].to(h)) / h.norm(dim=-1).clamp(min=1e-30)


def is_alike(x: Tensor, parts: Parts, dial: float) -> Tensor:
    z = cosine(x, parts, dial)
    return (z > parts["gate_above"].to(z)) ^ parts["gate_inverted"].to(z).bool()


@dataclass(frozen=True)
class Probe(Threshold):
    """Where the layer's probe finds an error likelier than ``above``; null: chosen on validation
    by :class:`corrsteer.methods.corrsteer.CorrSteer`. ``inverted``: where it does not."""

    grid: ClassVar[Sequence[float]] = GRID
    reads_probe: ClassVar[str] = "generated"
    whole_answer: ClassVar[bool] = False
    open = staticmethod(is_likely_wrong)
    signal = staticmethod(log_odds)

    def __post_init__(self) -> None:
        if self.above is not None and not 0 < self.above < 1:
            raise ConfigError(
                f"gate.above={self.above}: it must be a probability between 0 and 1, or null"
            )

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        above = self.chosen
        return {
            **logit_parts(probe_of(entry, self), "gate_"),
            "gate_above": np.array(math.log(above / (1 - above)), np.float32),
            "gate_inverted": np.array(self.inverted, np.float32),
        }


@dataclass(frozen=True)
class Prompt(Probe):
    """On answers whose last prompt token is so, as a whole."""

    reads_probe: ClassVar[str] = "last_prompt"
    whole_answer: ClassVar[bool] = True


@dataclass(frozen=True)
class PromptCosine(Prompt):
    """On answers whose last prompt token has a larger cosine than ``above`` with the condition
    vector, the mean of wrong answers less that of right ones."""

    open = staticmethod(is_alike)
    signal = staticmethod(cosine)

    def __post_init__(self) -> None:
        if self.above is not None and not -1 < self.above < 1:
            raise ConfigError(
                f"gate.above={self.above}: it must be a cosine between -1 and 1, or null"
            )

    def levels(self, entries: Sequence[PlanEntry]) -> Sequence[float]:
        return sorted({*probe_of(deciding(entries), self).levels.tolist()})

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        condition = probe_of(entry, self).condition
        unit = condition / (np.linalg.norm(condition) or 1.0)
        above = np.array(self.chosen, np.float32)
        inverted = np.array(self.inverted, np.float32)
        return {
            "gate_condition": unit.astype(np.float32),
            "gate_above": above,
            "gate_inverted": inverted,
        }


def deciding(entries: Sequence[PlanEntry]) -> PlanEntry:
    """The entry at which a gate that decides for a whole answer is asked: the one whose probe is
    best on the selection split, the lowest of several."""
    if not entries:
        raise ConfigError("a gate that decides for a whole answer needs a plan with a layer")
    ordered = sorted(entries, key=lambda e: e.layer)
    return max(ordered, key=lambda e: e.probe.auroc if e.probe else -math.inf)
