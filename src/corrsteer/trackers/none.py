"""The default tracker: nothing leaves the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class NoTracker:
    enabled: ClassVar[bool] = False
