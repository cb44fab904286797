"""Some layers of another method's plan, as strong together as all of them: how many does it take?

Cost: nothing beside the other method's; no split is asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from corrsteer.errors import ConfigError, DataError
from corrsteer.methods.protocol import Fitted, Tunable
from corrsteer.seams import require
from corrsteer.stages.bench import Bench
from corrsteer.steering.plan import Plan, PlanEntry, strength

ALL = "all"
_FORM = re.compile(r"(depth|r|random_[1-9]\d*)_([1-9]\d*)")


@dataclass(frozen=True)
class Some:
    """``method``: whose plan; its own dial is not used. ``coef``: the dial. ``layers``: ``all``, or
    the first so many of an order: ``depth_2``, ``r_2`` (the highest correlations), ``random_1_2``
    (of the first random order); all of them where there are no more.

    The vectors of the layers that steer are made longer by one factor, so that their lengths have
    the sum that those of all layers have.
    """

    method: Tunable
    coef: float
    layers: str = ALL

    def __post_init__(self) -> None:
        require(self.method, Tunable, "strategy.method")
        if self.layers != ALL and not _FORM.fullmatch(self.layers):
            raise ConfigError(
                f"strategy.layers={self.layers}: it must be all, depth_N, r_N or random_D_N with"
                " whole numbers from 1 on, such as strategy.layers=r_2"
            )

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def variant(self) -> str:
        return self.layers

    @property
    def needs(self) -> frozenset[str]:
        return self.method.needs

    def share(self, bench: Bench) -> Sequence[Fitted]:
        return self.method.share(bench)

    def fit(self, bench: Bench) -> Fitted:
        plain = self.plain(bench, bench.collect.pooling)
        assert plain.plan is not None
        return plain.with_plan(plain.plan.turned_to(self.coef))

    def plain(self, bench: Bench, pooling: str) -> Fitted:
        whole = self.method.plain(bench, pooling)
        if whole.plan is None:
            raise DataError(
                "strategy.layers are those of a plan, and strategy.method gives none: type another"
                " strategy"
            )
        return whole.with_plan(of_some(whole.plan, self.layers, bench.seed))


def of_some(plan: Plan, layers: str, seed: int) -> Plan:
    """The plan at some of its layers, with the same sum of lengths."""
    found = _FORM.fullmatch(layers)
    if found is None:
        return plan
    first = {e.layer for e in _ordered(plan.entries, found[1], seed)[: int(found[2])]}
    kept = [e for e in plan.entries if e.layer in first]
    length = sum(e.norm for e in kept)
    factor = sum(e.norm for e in plan.entries) / length if length else 1.0
    return plan.with_entries(tuple(_longer(e, factor) for e in kept))


def _ordered(entries: Sequence[PlanEntry], order: str, seed: int) -> list[PlanEntry]:
    by_depth = sorted(entries, key=lambda e: e.layer)
    if order == "depth":
        return by_depth
    if order == "r":
        return sorted(by_depth, key=lambda e: -strength(e))
    draw = int(order.removeprefix("random_"))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3, 0, draw, 0)))
    return [by_depth[i] for i in rng.permutation(len(by_depth)).tolist()]


def _longer(e: PlanEntry, factor: float) -> PlanEntry:
    vector = (np.float32(factor) * e.vector).astype(np.float32)
    return replace(e, coefficient=factor * e.coefficient, vector=vector)
