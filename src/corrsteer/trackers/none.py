"""The default tracker: nothing leaves the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class NoTracker:
    def open(self, folder: Path, config: Mapping[str, Any], name: str) -> NoTracker:
        return self

    def log(self, values: Mapping[str, Any]) -> None:
        pass

    def table(self, name: str, frame: pd.DataFrame) -> None:
        pass

    def close(self, status: str) -> None:
        pass
