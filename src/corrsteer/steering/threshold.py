"""What gates with a threshold share: it is typed, or left open and chosen on validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from corrsteer.errors import ConfigError

if TYPE_CHECKING:
    from corrsteer.steering.plan import PlanEntry


@dataclass(frozen=True)
class Threshold:
    """A gate that is open where its signal is above ``above``; null: chosen on validation by
    :class:`corrsteer.methods.corrsteer.CorrSteer`. ``inverted``: where it is not."""

    above: float | None = None
    inverted: bool = False
    grid: ClassVar[Sequence[float]]
    """Ascending."""

    def inverse(self) -> Self:
        """The gate that is open where this one is closed."""
        return replace(self, inverted=not self.inverted)

    @property
    def is_open_ended(self) -> bool:
        """Whether its threshold is not chosen yet."""
        return self.above is None

    def levels(self, entries: Sequence[PlanEntry]) -> Sequence[float]:
        """What a threshold is chosen from, ascending."""
        return self.grid

    def candidates(self, entries: Sequence[PlanEntry]) -> Sequence[Self]:
        """One gate for each of these; the last acts least."""
        levels = self.levels(entries)
        return [replace(self, above=n) for n in (levels[::-1] if self.inverted else levels)]

    @property
    def chosen(self) -> float:
        """Raises ConfigError for a threshold that nothing chose."""
        if self.above is None:
            raise ConfigError(
                "gate.above=null is chosen on validation by strategy=corrsteer_a or corrsteer_s"
                " alone: type a number, such as gate.above=0.5"
            )
        return self.above
