"""Rank features by their squared activation on right and on wrong answers (DSG)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from corrsteer.selectors.ranking import Ranking


@dataclass(frozen=True)
class SquareRatio(Ranking):
    """By :func:`corrsteer.stats.scores.square_ratio`."""

    score: ClassVar[str] = "square ratio"
    statistic: ClassVar[str] = "square_ratio"
