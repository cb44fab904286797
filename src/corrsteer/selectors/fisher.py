"""Rank features by Fisher's ratio: how far the classes are apart in units of their spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from corrsteer.selectors.ranking import Ranking


@dataclass(frozen=True)
class Fisher(Ranking):
    """By :func:`corrsteer.stats.scores.fisher_ratio`."""

    score: ClassVar[str] = "Fisher ratio"
    statistic: ClassVar[str] = "fisher_ratio"
