"""Which layers of a plan help, asked of the validation split: CorrSteer's variant P (arXiv
2508.12535: "verify the link by amplifying each block"), and a greedy one.

Sets of a plan's layers that are asked about together share one pass over the prompts. So P costs
two such passes however many layers there are, and a short pass for each layer; greedy as many as it
adds layers, and one. The test split is not touched: what is chosen here is confirmed there.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pandas as pd

from corrsteer.errors import ConfigError, DataError, check_known
from corrsteer.methods.protocol import Fitted, Tunable
from corrsteer.records import RIGHT
from corrsteer.report.record import LayerChoice
from corrsteer.seams import require
from corrsteer.stages.answers import answers
from corrsteer.stages.bench import Bench
from corrsteer.stages.evaluate import outcomes
from corrsteer.stats.flips import FlipTable, flip_table
from corrsteer.stats.intervals import better_p, difference_ci, paired_ci
from corrsteer.steering.arms import Arm, baseline
from corrsteer.steering.plan import Plan

log = logging.getLogger(__name__)

Layers = tuple[int, ...]
"""Layers that steer, ascending; none is the unsteered model."""

GAIN, MCNEMAR = "gain", "mcnemar"

# -- what validation is asked ------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """Answers to the validation split under some of a plan's layers, at the plan's dial."""

    bench: Bench
    plan: Plan
    answers: dict[Layers, pd.DataFrame] = field(default_factory=dict)

    @property
    def layers(self) -> Layers:
        return tuple(sorted(e.layer for e in self.plan.entries))

    def ask(self, sets: Iterable[Layers]) -> None:
        """All that were not asked about yet, in one pass over the prompts."""
        new = [some for some in dict.fromkeys(sets) if some not in self.answers]
        if new:
            arms = {some: self._arm(some) for some in new}
            made = answers(self.bench, self.bench.asking, "validation", arms.values())
            self.answers.update((some, made[arm.name]) for some, arm in arms.items())

    def _arm(self, some: Layers) -> Arm:
        if not some:
            return baseline()
        return Arm(f"layers_{'_'.join(map(str, some))}", "steered", of_layers(self.plan, some))

    def flips(self, sets: Iterable[Layers]) -> dict[Layers, FlipTable]:
        """Against the unsteered model."""
        sets = list(sets)
        self.ask([(), *sets])
        return {some: flip_table(self.answers[()], self.answers[some]) for some in sets}

    def net(self, sets: Iterable[Layers]) -> dict[Layers, int]:
        """How many more answers are right than without steering. Counts, not accuracies: a tie must
        not hang on how a fraction was rounded."""
        return {some: flips.fixed - flips.broken for some, flips in self.flips(sets).items()}


def of_layers(plan: Plan, layers: Layers) -> Plan | None:
    """The plan at some of its layers; None at none."""
    some = tuple(e for e in plan.entries if e.layer in layers)
    return plan.with_entries(some) if some else None


def choice(
    asked: Asked,
    kept: Sequence[int],
    used: Layers,
    rule: str,
    *,
    path: Sequence[int] = (),
    factors: Mapping[int, float] | None = None,
) -> LayerChoice:
    """What each layer does alone, and the ``kept`` ones together. Of these answers there are none
    that were not asked for, but for a layer alone and the kept ones together. ``path``: right
    answers more than without steering, after each of ``kept``. ``factors``: by layer, 1 where it is
    absent, for a plan whose vectors are not those of the whole one; None: they are."""
    singles: list[Layers] = [(n,) for n in asked.layers]
    together = tuple(sorted(kept))
    flips = asked.flips([*singles, together])
    base = asked.answers[()]
    n, right = len(base), float((base["score"] >= RIGHT).mean())
    p = [better_p(flips[one].fixed, flips[one].broken) for one in singles]
    alone = [
        {
            "layer": layer,
            "factor": (factors or {}).get(layer, 1.0),
            "fixed": flips[layer,].fixed,
            "broken": flips[layer,].broken,
            "gain": (flips[layer,].fixed - flips[layer,].broken) / n,
            "ci": paired_ci(flips[layer,].fixed, flips[layer,].broken, n),
            "p": p_alone,
            "q": q,
            "kept": layer in kept,
        }
        for layer, p_alone, q in zip(asked.layers, p, adjusted(p), strict=True)
    ]
    joint = outcomes(base, asked.answers[together])
    apart = np.sum([np.zeros(n), *(outcomes(base, asked.answers[k,]) for k in kept)], axis=0)
    whole = None if factors is not None else asked.answers.get(asked.layers)
    return LayerChoice.model_validate(
        {
            "rule": rule,
            "n": n,
            "unsteered": right,
            "whole": None if whole is None else float((whole["score"] >= RIGHT).mean()),
            "alone": alone,
            "kept": list(kept),
            "used": list(used),
            "joint": float(joint.mean()),
            "joint_ci": paired_ci(flips[together].fixed, flips[together].broken, n),
            "singles": float(apart.mean()),
            "singles_ci": difference_ci(apart),
            "interaction": float((joint - apart).mean()),
            "interaction_ci": difference_ci(joint - apart),
            "path": [right + net / n for net in path],
        }
    )


def layers_table(made: LayerChoice) -> pd.DataFrame:
    """One row per layer: ``layers.csv``."""
    rows = []
    for one in made.alone:
        row = one.model_dump(exclude={"ci"})
        low, high = one.ci
        rows.append({**row, "low": low, "high": high, "used": one.layer in made.used})
    return pd.DataFrame(rows)


def adjusted(p: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's q of each p."""
    from scipy.stats import false_discovery_control

    return list(map(float, false_discovery_control(p))) if p else []


# -- the methods -------------------------------------------------------------------------------


@dataclass(frozen=True)
class OfLayers(ABC):
    """Some layers of another method's plan. ``method``: whose; its own dial is not used.
    ``coef``: the dial at which layers are asked about, and that of the plan.

    Where no layer is kept nothing steers: the plan has all layers, at dial 0, so that whatever
    follows goes on.
    """

    variant: ClassVar[str]
    method: Tunable
    coef: float

    def __post_init__(self) -> None:
        require(self.method, Tunable, "strategy.method")

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def needs(self) -> frozenset[str]:
        return self.method.needs

    def share(self, bench: Bench) -> Sequence[Fitted]:
        return self.method.share(bench)

    def fit(self, bench: Bench) -> Fitted:
        whole, made = self._chosen(bench, bench.collect.pooling)
        assert whole.plan is not None
        log.info("layers: %s keeps %s; %s", self.variant, made.kept or "none", made.rule)
        plan = of_layers(whole.plan, tuple(made.used)) or whole.plan.turned_to(0.0)
        chosen = whole.with_plan(plan)
        return replace(
            chosen,
            whole=whole.plan,
            choice=made,
            tables={**whole.tables, "layers": layers_table(made)},
        )

    def plain(self, bench: Bench, pooling: str) -> Fitted:
        """The kept layers at dial 1; all of them where none is kept: a search may find a dial at
        which they help."""
        whole, made = self._chosen(bench, pooling)
        assert whole.plan is not None
        plan = of_layers(whole.plan, tuple(made.used)) or whole.plan
        return replace(whole.with_plan(plan.turned_to(1.0)), whole=whole.plan)

    def _chosen(self, bench: Bench, pooling: str) -> tuple[Fitted, LayerChoice]:
        """The whole plan at the dial, and which of its layers to steer."""
        plain = self.method.plain(bench, pooling)
        if plain.plan is None:
            raise DataError(
                f"strategy {self.variant} chooses layers of a plan, and strategy.method gives none:"
                " type another strategy"
            )
        whole = plain.with_plan(plain.plan.turned_to(self.coef))
        return whole, self._choose(Asked(bench, plain.plan.turned_to(self.coef)))

    @abstractmethod
    def _choose(self, asked: Asked) -> LayerChoice: ...


@dataclass(frozen=True)
class Verified(OfLayers):
    """Variant P: the layers whose feature alone does better than nothing on the validation split.

    ``keep``: "gain", more answers fixed than broken, as published; "mcnemar", so by the exact
    one-sided McNemar test at a false discovery rate of ``level`` over the layers (Benjamini and
    Hochberg 1995). Where no layer is kept nothing steers. The kept ones together are asked about
    on the same split: they steer if they do better than nothing and at least as well as all
    layers; if not, all layers do where those are better than nothing; else nothing steers.
    """

    variant: ClassVar[str] = "P"
    keep: str = GAIN
    level: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("strategy.keep", self.keep, (GAIN, MCNEMAR))
        if not 0 < self.level < 1:
            raise ConfigError(
                f"strategy.level={self.level}: it must lie between 0 and 1, such as"
                " strategy.level=0.05"
            )

    def _choose(self, asked: Asked) -> LayerChoice:
        singles: list[Layers] = [(n,) for n in asked.layers]
        flips = asked.flips([*singles, asked.layers])
        kept = self.kept({one[0]: flips[one] for one in singles})
        net = asked.net([kept, asked.layers])
        used, why = settled(kept, asked.layers, net)
        how = "fixes more answers than it breaks"
        if self.keep == MCNEMAR:
            how += f", at a false discovery rate of {self.level:g}"
        return choice(asked, kept, used, f"a layer is kept if it alone {how}; {why}")

    def kept(self, alone: Mapping[int, FlipTable]) -> Layers:
        """``alone``: what each layer does by itself."""
        if self.keep == GAIN:
            return tuple(sorted(n for n, flips in alone.items() if flips.fixed > flips.broken))
        q = adjusted([better_p(flips.fixed, flips.broken) for flips in alone.values()])
        return tuple(sorted(n for n, value in zip(alone, q, strict=True) if value <= self.level))


def settled(kept: Layers, every: Layers, net: Mapping[Layers, int]) -> tuple[Layers, str]:
    """Which layers steer, and why. ``net``: right answers more than without steering."""
    if not kept:
        return (), "none is kept, so nothing steers"
    if net[kept] > 0 and net[kept] >= net[every]:
        return kept, "together they gain, and no less than all layers"
    why = "than nothing" if net[kept] <= 0 else "than all layers do"
    if net[every] > 0:
        return every, f"together they do no better {why}, so all layers steer"
    return (), f"together they do no better {why}, and neither do all layers: nothing steers"


@dataclass(frozen=True)
class Greedy(OfLayers):
    """Layers come in one by one: each time the one that leaves most answers right on the validation
    split beside those that are in, while that is more than without it. Of two that do alike, the
    lower."""

    variant: ClassVar[str] = "greedy"

    def _choose(self, asked: Asked) -> LayerChoice:
        order, path = greedy(asked.layers, asked.net)
        rule = "the layer beside which most answers are right comes in, while that adds to them"
        return choice(asked, order, tuple(sorted(order)), rule, path=path)


def greedy(
    every: Layers, net: Callable[[Iterable[Layers]], Mapping[Layers, int]]
) -> tuple[list[int], list[int]]:
    """The layers that come in, in order, and what ``net`` says after each: it rises each time."""
    order: list[int] = []
    path: list[int] = []
    best = 0
    while left := [n for n in every if n not in order]:
        sets = {n: tuple(sorted([*order, n])) for n in left}
        found = net(sets.values())
        layer = max(left, key=lambda n: found[sets[n]])  # the first, so the lowest, of equal ones
        if found[sets[layer]] <= best:
            break
        best = found[sets[layer]]
        order.append(layer)
        path.append(best)
    return order, path
