"""How strong a plan's vectors are at dial 1: as coefficients, in units of the feature's activation,
or as lengths, in units of the residual stream.

A feature's vector is its coefficient times its decoder direction, so that a coefficient of the mean
activation adds what the feature itself adds where it is that active. A length sets the coefficient
to that length over the length of the direction. Of a feature of wrong answers (``sign`` -1) right
and wrong change places and the coefficient is negative: the mean activation over wrong answers is
what steering takes away. CorrSteer, section 3, has features of right answers alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from corrsteer.errors import ConfigError, DataError
from corrsteer.records import RankedFeature

Residuals = Callable[[], Mapping[int, float]]
"""Layer -> mean norm of the residuals at the token source; asked only by who needs it."""
SPREADS = ("equally", "r", "residual")


class Coefficient(Protocol):
    """A frozen dataclass. One of the two methods gives None."""

    @property
    def reads_residuals(self) -> bool:
        """Whether ``lengths`` asks for the mean norms of residuals."""

    def coefficient(self, f: RankedFeature) -> float | None:
        """In units of the activation."""

    def lengths(
        self, chosen: Sequence[RankedFeature], residuals: Residuals
    ) -> Sequence[float] | None:
        """Of the vectors of ``chosen``, in their order."""


@dataclass(frozen=True)
class _OfActivations:
    reads_residuals: ClassVar[bool] = False

    def lengths(
        self, chosen: Sequence[RankedFeature], residuals: Residuals
    ) -> Sequence[float] | None:
        return None


@dataclass(frozen=True)
class MeanRight(_OfActivations):
    """Mean activation over right answers, inactive ones counted as 0 (CorrSteer, section 3); of a
    feature of wrong answers minus that over these."""

    def coefficient(self, f: RankedFeature) -> float:
        return f.mean_right if f.sign > 0 else -f.mean_wrong


@dataclass(frozen=True)
class MeanActive(_OfActivations):
    """Mean activation over the right answers on which the feature is active; of a feature of wrong
    answers minus that over these."""

    def coefficient(self, f: RankedFeature) -> float:
        mean, freq = (f.mean_right, f.freq_right) if f.sign > 0 else (f.mean_wrong, f.freq_wrong)
        return f.sign * mean / freq if freq else 0.0


@dataclass(frozen=True)
class MeanDifference(_OfActivations):
    """Mean activation over right answers minus that over wrong ones, whatever the sign."""

    def coefficient(self, f: RankedFeature) -> float:
        return f.mean_right - f.mean_wrong


@dataclass(frozen=True)
class _OfLengths:
    reads_residuals: ClassVar[bool] = False

    def coefficient(self, f: RankedFeature) -> float | None:
        return None


@dataclass(frozen=True)
class FixedNorm(_OfLengths):
    """Every vector has the length ``norm``."""

    norm: float

    def __post_init__(self) -> None:
        _positive("norm", self.norm, 10.0)

    def lengths(self, chosen: Sequence[RankedFeature], residuals: Residuals) -> Sequence[float]:
        return [float(self.norm)] * len(chosen)


@dataclass(frozen=True)
class ResidualFraction(_OfLengths):
    """Every vector has ``fraction`` of the mean norm of its layer's residuals at its source."""

    reads_residuals: ClassVar[bool] = True
    fraction: float

    def __post_init__(self) -> None:
        _positive("fraction", self.fraction, 0.1)

    def lengths(self, chosen: Sequence[RankedFeature], residuals: Residuals) -> Sequence[float]:
        norms = residuals()
        return [self.fraction * norms[f.layer] for f in chosen]


@dataclass(frozen=True)
class TotalNorm(_OfLengths):
    """The lengths of all vectors sum to ``total``; shares are equal, or as each feature's r, or as
    each layer's mean residual norm, by ``spread``, one of ``SPREADS``."""

    total: float
    spread: str = "equally"

    def __post_init__(self) -> None:
        _positive("total", self.total, 100.0)
        if self.spread not in SPREADS:
            raise ConfigError(
                f"coefficient.spread={self.spread} is unknown; choose one of: {', '.join(SPREADS)}"
            )

    @property
    def reads_residuals(self) -> bool:  # type: ignore[override]
        return self.spread == "residual"

    def lengths(self, chosen: Sequence[RankedFeature], residuals: Residuals) -> Sequence[float]:
        if self.spread == "r":
            shares = [max(f.sign * f.r, 0.0) for f in chosen]
        elif self.spread == "residual":
            norms = residuals()
            shares = [norms[f.layer] for f in chosen]
        else:
            shares = [1.0] * len(chosen)
        if not sum(shares):
            raise DataError(
                "coefficient.spread=r: no chosen feature correlates with success as it should, so "
                "there is nothing to share by; type coefficient.spread=equally"
            )
        return [self.total * share / sum(shares) for share in shares]


def _positive(name: str, value: float, example: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value > 0):
        raise ConfigError(
            f"coefficient.{name}={value}: it must be a positive number, such as"
            f" coefficient.{name}={example:g}"
        )
