"""Rivals that choose SAE features and edit their activations: SPARE and dynamic SAE guardrails.

Cost: what observing costs; SPARE one more pass over the answers, for mutual information. Answering
takes two products of [k, M] per layer and position.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from corrsteer.errors import ConfigError, DataError
from corrsteer.methods.protocol import Fitted, Observed, observe
from corrsteer.methods.turned import TurnedPlan
from corrsteer.records import LayerStats
from corrsteer.stages.bench import Bench
from corrsteer.stages.bins import binned
from corrsteer.steering.arms import steered
from corrsteer.steering.edits import Guard, SpareEdit, stacked
from corrsteer.steering.operators import Add
from corrsteer.steering.plan import Plan, PlanEntry
from corrsteer.steering.positions import GENERATION, where
from corrsteer.steering.protocol import Operator


@dataclass(frozen=True)
class _Edited(TurnedPlan):
    """``k`` features of every layer. ``coef``: the dial."""

    name: ClassVar[str]
    variant: ClassVar[str] = ""
    learns_from: ClassVar[str] = "outcomes"
    unread: ClassVar[frozenset[str]] = frozenset({"selector"})  # no control of theirs is ranked
    operator: ClassVar[Operator] = Add()
    coef: float = 1.0
    positions: str = GENERATION
    k: int = 16

    def __post_init__(self) -> None:
        where(self.positions)
        if type(self.k) is not int or self.k < 1:
            raise ConfigError(
                f"strategy.k={self.k}: it must be a whole number, at least 1, such as strategy.k=16"
            )

    def plain(self, bench: Bench, pooling: str) -> Fitted:
        observed = observe(bench, replace(bench.collect, pooling=pooling), wholly=True)
        entries = []
        for s in self._stats(bench, observed):
            features = self._features(s)
            if not len(features):
                continue
            arrays = stacked(bench.encoders(s.layer, features.tolist()))
            levels = self._levels(s, features)
            push = sum(levels.values()) @ arrays["decoders"]
            vector = np.asarray(push, np.float32)
            arrays |= {n: np.abs(a).astype(np.float32) for n, a in levels.items()}
            entries.append(
                PlanEntry(
                    *(s.layer, -1, 0.0, float(np.linalg.norm(vector)), vector),
                    about={"edited": features.tolist()},
                    arrays=arrays,
                )
            )
        if not entries:
            raise DataError(
                "no feature is more active on right or on wrong answers; give more samples"
                " (limit=null)"
            )
        plan = Plan(tuple(entries), operator=self.operator, positions=self.positions)
        return Fitted(steered(plan), observed)

    def _stats(self, bench: Bench, observed: Observed) -> Sequence[LayerStats]:
        return observed.stats

    @abstractmethod
    def _features(self, s: LayerStats) -> np.ndarray:
        """[k] of one layer, the best first."""

    @abstractmethod
    def _levels(self, s: LayerStats, features: np.ndarray) -> dict[str, np.ndarray]:
        """What the operator reads of each, [k]; signs say which way it pushes."""


@dataclass(frozen=True)
class Spare(_Edited):
    """SPARE (Zhao et al. 2024, arXiv 2410.15999): the features with most mutual information with
    the behaviour, moved from the mean activations of one behaviour to those of the other.

    Deviations: the two behaviours are right and wrong answers, not context and memory; every layer
    is edited, where the paper takes a few; k is a number, where the paper takes a share of the
    information; and it acts at ``positions``."""

    name: ClassVar[str] = "SPARE"
    operator: ClassVar[Operator] = SpareEdit()

    def _stats(self, bench: Bench, observed: Observed) -> Sequence[LayerStats]:
        return binned(bench, observed.selection, observed.stats, observed.collect)

    def _features(self, s: LayerStats) -> np.ndarray:
        information = np.abs(s.others["mutual_information"].value)
        order = np.argsort(-information, kind="stable")[: self.k]
        kept: np.ndarray = order[information[order] > 0]
        return kept

    def _levels(self, s: LayerStats, features: np.ndarray) -> dict[str, np.ndarray]:
        sign = s.others["mutual_information"].value[features]
        return {
            "wanted": np.where(sign > 0, s.mean_right[features], 0.0),
            "unwanted": -np.where(sign < 0, s.mean_wrong[features], 0.0),
        }


@dataclass(frozen=True)
class DSG(_Edited):
    """Dynamic SAE guardrails (Muhamed et al. 2025, arXiv 2504.08192): the features whose mean
    squared activation is highest on what is to be forgotten relative to what is to be kept, clamped
    below zero where they are active.

    Deviations: forgotten are the model's wrong answers, kept its right ones; the level is a
    feature's mean over wrong answers times the dial, where the paper has one number for all; the
    gate is each feature's own activation at the position, where the paper counts active tokens of
    the whole input."""

    name: ClassVar[str] = "DSG"
    operator: ClassVar[Operator] = Guard()

    def _features(self, s: LayerStats) -> np.ndarray:
        ratio = s.others["square_ratio"].value
        active = np.rint(s.freq_wrong * (s.n - s.n_right)) >= 2  # one wrong answer is an anecdote
        fits = np.flatnonzero((ratio < s.others["square_ratio"].neutral) & active)
        # Of features that no right answer has, the stronger one.
        order = np.lexsort((-s.mean_wrong[fits], ratio[fits]))
        kept: np.ndarray = fits[order][: self.k]
        return kept

    def _levels(self, s: LayerStats, features: np.ndarray) -> dict[str, np.ndarray]:
        return {"level": -s.mean_wrong[features]}
