"""The default tracker: nothing leaves the run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corrsteer.trackers.protocol import Handle, Number

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class NoTracker:
    @property
    def enabled(self) -> bool:
        return False

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
        return nullcontext(Nothing())


class Nothing:
    """Ignores whatever it is sent."""

    def axis(self, names: str, step: str) -> None:
        pass

    def log(self, values: Mapping[str, Number]) -> None:
        pass

    def table(self, name: str, frame: pd.DataFrame) -> None:
        pass

    def artifact(self, name: str, kind: str, files: Sequence[Path]) -> None:
        pass
