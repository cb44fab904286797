"""A linear probe of one layer: how likely the unsteered answer is to be wrong, told by a residual.

An operator or a gate that reads it sets ``reads_probe`` to the token source that it is fitted on
and finds it in the entry of a plan, which keeps it on disk; :mod:`corrsteer.stages.probes` fits it.
Cost: two vectors of the model's width per layer, a product of vectors per position. Torch is not
imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from corrsteer.errors import ConfigError, DataError
from corrsteer.steering.protocol import Parts

if TYPE_CHECKING:
    from torch import Tensor

    from corrsteer.steering.plan import PlanEntry


@dataclass(frozen=True, eq=False)
class Probe:
    """``sigmoid(x . row + offset)`` is the probability that the answer is wrong. Arrays are
    float32."""

    row: np.ndarray = field(repr=False)
    """[M]"""
    offset: float
    condition: np.ndarray = field(repr=False)
    """[M], the mean of wrong answers less that of right ones."""
    levels: np.ndarray = field(repr=False)
    """[K], quantiles of the cosine of a residual with ``condition``, ascending."""
    auroc: float
    """Of the probability, on parts of the selection split that it was not fitted on."""

    def arrays(self) -> dict[str, np.ndarray]:
        numbers = np.array([self.offset, self.auroc], np.float32)
        arrays = {"row": self.row, "condition": self.condition, "levels": self.levels}
        return {**arrays, "numbers": numbers}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], width: int) -> Probe:
        """Raises ValueError or KeyError for what :meth:`arrays` does not give."""
        for name, shape in (("row", (width,)), ("condition", (width,)), ("numbers", (2,))):
            if arrays[name].shape != shape:
                raise ValueError(f"the {name} of a probe is {list(arrays[name].shape)}")
        for name in ("row", "condition", "numbers", "levels"):
            array = arrays[name]
            if array.ndim != 1 or array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"the {name} of a probe is no finite float32 array of one axis")
        offset, auroc = (float(x) for x in arrays["numbers"])
        return cls(arrays["row"], offset, arrays["condition"], arrays["levels"], auroc)


PROBED = ("generated", "last_prompt")
"""Token sources that a probe is fitted on: the mean of the generation positions, or the first."""


def reads_probe(*parts: object) -> str | None:
    """The token source of the probe that some operators and gates read; None where none does.
    ConfigError where they read two."""
    sources = {s for part in parts if (s := getattr(part, "reads_probe", None)) is not None}
    if len(sources) > 1:
        names = " and ".join(type(part).__name__ for part in parts)
        raise ConfigError(
            f"{names} read probes of other positions ({', '.join(sorted(sources))}), and a plan"
            " has one per layer: type gate=probe, gate=always or operator=add"
        )
    return next(iter(sources), None)


def is_open_ended(part: object) -> bool:
    """Whether an operator or a gate has a threshold that is not chosen yet."""
    return bool(getattr(part, "is_open_ended", False))


def check_chosen(operator: object, gate: object, method: object) -> None:
    """Raises ConfigError for a threshold that a method leaves open: one that chooses them sets
    ``chooses_thresholds``."""
    if getattr(method, "chooses_thresholds", False):
        return
    for name, part, setting in (("operator", operator, "alpha"), ("gate", gate, "above")):
        if is_open_ended(part):
            raise ConfigError(
                f"{name}={type(part).__name__} has a threshold that strategy=corrsteer_a and"
                f" corrsteer_s choose on validation, and {type(method).__name__} does not: type a"
                f" number, such as {name}.{setting}=0.5"
            )


def candidates(part: Any, entries: Sequence[PlanEntry]) -> Sequence[Any]:
    """What it is chosen from, what acts least last; the part itself where nothing is open."""
    if not is_open_ended(part):
        return [part]
    found: Sequence[Any] = part.candidates(entries)
    return found


def probe_of(entry: PlanEntry, reader: object) -> Probe:
    """Raises ConfigError where the entry holds none."""
    if entry.probe is None:
        raise ConfigError(
            f"{type(reader).__name__} reads a probe of layer {entry.layer}, and the plan does not"
            " hold one: make the plan again by a run with that operator or gate and"
            " strategy=corrsteer_a or corrsteer_s"
        )
    return entry.probe


def logit(x: Tensor, parts: Parts, before: str = "") -> Tensor:
    """[...] float32, the log odds that the answer is wrong at residuals ``x`` [..., M]."""
    row = parts[before + "probe"].to(x.device)
    return x.float() @ row + parts[before + "offset"].to(x.device)


def logit_parts(probe: Probe, before: str = "") -> dict[str, np.ndarray]:
    """What :func:`logit` reads, each name with ``before`` in front."""
    offset = np.array(probe.offset, np.float32)
    return {before + "probe": probe.row, before + "offset": offset}


def made_up_probe(width: int) -> Probe:
    """A probe to try an operator or a gate on."""
    row = np.full(width, width**-0.5, np.float32)
    return Probe(row, 0.0, row, np.zeros(1, np.float32), 0.5)


def positions_read(sample: np.ndarray, n: int, source: str) -> np.ndarray:
    """[n] how many positions of each sample were read, at least 1 to divide by. ``sample``: of
    every position. Raises DataError where a last prompt token was not: it is a special one."""
    counts = np.bincount(sample, minlength=n)
    if source == "last_prompt" and not counts.all():
        raise DataError(
            "gate=prompt and gate=prompt_cosine read the last token of a prompt, and here it is a"
            " special token, which is never read: type gate=probe"
        )
    return np.maximum(counts, 1)
