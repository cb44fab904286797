"""Rank features by what their direction does to the next token (Arad et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from corrsteer.selectors.ranking import Ranking


@dataclass(frozen=True)
class OutputScore(Ranking):
    """By :mod:`corrsteer.models.outputs` (arXiv 2505.20063), of features that are active on enough
    right answers.

    Outcomes do not matter, so there is no ceiling and no stability, and what stands in for a choice
    on shuffled outcomes is that of r. Deviation: the paper leaves out features of low scores and
    chooses among the others for a concept, where here the highest one of every layer steers. Its
    prompt, its amplification and its 20 tokens are kept.
    """

    score: ClassVar[str] = "output score"
    null: ClassVar[bool] = False
    statistic: ClassVar[str] = "output_score"
    needs: ClassVar[frozenset[str]] = frozenset({"next-token distributions"})

    @property
    def criterion(self) -> str:
        return f"is active on {self.min_active_right} right answers"
