"""Rank features by their mutual information with the outcome (SPARE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from corrsteer.selectors.ranking import Ranking


@dataclass(frozen=True)
class MutualInformation(Ranking):
    """By :mod:`corrsteer.stats.bins`, of features that are more active on right answers."""

    score: ClassVar[str] = "mutual information"
    statistic: ClassVar[str] = "mutual_information"
