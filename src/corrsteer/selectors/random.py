"""Rank features by chance: what any choice has to be better than."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from corrsteer.errors import ConfigError
from corrsteer.records import LayerStats, Scored
from corrsteer.selectors.ranking import Ranking


@dataclass(frozen=True)
class Random(Ranking):
    """By a number drawn for every live feature, equally often each from 0 to 1. Outcomes do not
    matter, so there is no ceiling and no stability. ``seed``: layers are independent of each
    other."""

    score: ClassVar[str] = "random number"
    null: ClassVar[bool] = False
    statistic: ClassVar[str] = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.seed) is not int or self.seed < 0:
            raise ConfigError(
                f"selector.seed={self.seed}: must be a whole number, at least 0; type "
                "selector.seed=0"
            )

    @property
    def criterion(self) -> str:
        return f"is active on {self.min_active_right} right answers"

    def scored(self, s: LayerStats) -> Scored:
        # Other streams of a seed have spawn keys that are shorter or begin otherwise.
        key = np.random.SeedSequence(self.seed, spawn_key=(3, 0, s.layer))
        drawn = 1 - np.random.default_rng(key).random(len(s.freq))
        none, places = np.zeros(0), np.zeros((0, 1), dtype=np.int64)
        value = np.where(s.freq > 0, drawn, 0.0)
        return Scored(value, 0.0, none, none, places[:, 0], places, np.zeros((0, 1)), none)
