"""What a selector is: statistics of features in, ranked features out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from corrsteer.records import BOTH, NEGATIVE, LayerStats, RankedFeature


class Selector(Protocol):
    """A frozen dataclass. What is not a setting of it may be a class attribute. One that ranks by
    another score than r may say so in ``statistic`` (:func:`statistic`). One that looks for
    features of wrong answers says so in ``sign``, has ``shuffled(stats)`` and reads
    ``stats.mirror`` (:class:`corrsteer.selectors.ranking.Ranking`). One that needs something of a
    backend (``supports()``) says so in ``needs``, a frozenset."""

    @property
    def score(self) -> str:
        """What features are ranked by, as a column is called, such as r."""

    @property
    def criterion(self) -> str:
        """What a feature does to be ranked, after "no feature": correlates with success."""

    @property
    def null(self) -> bool:
        """Whether the score is also known under shuffled outcomes: whether there is a ceiling."""

    @property
    def classes(self) -> Sequence[str] | None:
        """Steer only with features of these classes (:mod:`corrsteer.selectors.classes`); None: of
        all. Whoever knows the classes applies it, after the ranking."""

    def rank(self, stats: Sequence[LayerStats]) -> tuple[RankedFeature, ...]:
        """Ranked features, layers ascending, ranks 1, 2, ... within a layer; a layer without an
        eligible feature contributes none. Pure."""


def selector_name(selector: Selector) -> str:
    """As a run's record names it, with the features that it looks for where those are others than
    of right answers."""
    said = {NEGATIVE: ", negative features", BOTH: ", features of both signs"}
    return type(selector).__name__ + said.get(getattr(selector, "sign", ""), "")


def statistic(selector: Selector) -> str:
    """The score that it asks for beside r, as :attr:`corrsteer.records.LayerStats.others` names it:
    one of :data:`corrsteer.stats.scores.SCORES` or :data:`corrsteer.stats.bins.BINNED`; empty for
    none."""
    return str(getattr(selector, "statistic", ""))
