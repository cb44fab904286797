"""Rank features by their correlation with the outcome, the length of the answer held fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from corrsteer.selectors.ranking import Ranking


@dataclass(frozen=True)
class PartialCorrelation(Ranking):
    """By :func:`corrsteer.stats.scores.partial`."""

    score: ClassVar[str] = "r given length"
    statistic: ClassVar[str] = "partial"
