"""Rank features by the difference of their mean activations (contrastive activation addition)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from corrsteer.selectors.ranking import Ranking


@dataclass(frozen=True)
class MeanDifference(Ranking):
    """By :func:`corrsteer.stats.scores.mean_difference`."""

    score: ClassVar[str] = "mean difference"
    statistic: ClassVar[str] = "mean_difference"
