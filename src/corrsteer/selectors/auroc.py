"""Rank features by how well they tell right answers from wrong ones (AUROC)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from corrsteer.selectors.ranking import Ranking


@dataclass(frozen=True)
class AUROC(Ranking):
    """By :mod:`corrsteer.stats.bins`, of features that are more active on right answers."""

    score: ClassVar[str] = "AUROC"
    statistic: ClassVar[str] = "auroc"
