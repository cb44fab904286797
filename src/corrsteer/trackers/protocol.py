"""What a tracker is: a place outside the run's folder where its numbers are shown again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import pandas as pd

Number = int | float | None
"""None: undefined or not measured."""


@runtime_checkable
class Handle(Protocol):
    """One open run of a tracker."""

    def axis(self, names: str, step: str) -> None:
        """Draw the numbers ``names``, such as ``by_layer/*``, over the number ``step``."""

    def log(self, values: Mapping[str, Number]) -> None:
        """One row of numbers. None and NaN are left out."""

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """A table, of which a tracker may keep only the first rows."""

    def artifact(self, name: str, kind: str, files: Sequence[Path]) -> None:
        """Copies of ``files``, as they are now."""


@runtime_checkable
class Tracker(Protocol):
    @property
    def enabled(self) -> bool:
        """Whether :meth:`open` does anything."""

    def open(
        self,
        home: Path,
        *,
        name: str,
        group: str | None,
        job_type: str,
        tags: Sequence[str],
        config: Mapping[str, object],
    ) -> AbstractContextManager[Handle]:
        """A run of the tracker, closed at the end of the context. Files go to ``home``; ``group``:
        the runs that it is shown with. May raise anything."""
