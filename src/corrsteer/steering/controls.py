"""What else, of the same length at the same layers, would have done as well?

Every control is the plan with one thing changed. In each layer its vector is as long as the
plan's (``subset``: as the vector that the method began with), and the dial is the plan's:

=========  ====================================================================================
random     features drawn from the live ones, as many: does the choice of feature matter?
direction  a direction drawn at random: does it matter that it is a feature?
shuffled   the feature that correlates best with shuffled outcomes: does the outcome matter?
layers     the plan's own vectors, dealt to other layers: does the layer matter?
subset     as many layers, drawn from those that the method chose from: does their choice matter?
flipped    the plan's vectors with their sign changed: does the direction matter?
=========  ====================================================================================

A feature that was drawn is lowered where the plan's own is, one of shuffled outcomes where these
would have lowered it. Vectors of several features of a layer add up: those that were drawn as the
plan's own do, each in turn times the coefficient of one of these. ``shuffled`` has one feature per
layer all the same.

Where an operator or a gate reads how active a feature is, a feature that was drawn is read itself;
the other kinds read the plan's own at each layer, so that they do as much, and write elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from corrsteer.errors import ConfigError
from corrsteer.records import LayerStats
from corrsteer.steering.encoder import Encoder, Encoders
from corrsteer.steering.plan import Plan, PlanEntry, sign_of
from corrsteer.steering.random_features import random_features

Directions = Callable[[int, Sequence[int]], np.ndarray]
"""(layer, features) -> decoder directions [k, M] in units of the raw residual stream."""

KINDS = ("random", "direction", "shuffled", "layers", "subset", "flipped")
NULLS = KINDS[:-1]
"""Kinds that are drawn: the plan may be asked whether it is one more of them."""

AUTO = "auto"
SHORT = 16
"""Up to so many tokens an answer is short: most of its cost is its prompt's, which draws share."""
DRAWS, DRAWS_OF_LONG = 39, 19
"""What ``auto`` stands for: the p-value can reach 1/40, or 1/20 where answers are long, or cost as
much since every draw reads the prompts itself."""
LOOK = 2
"""So many draws of shuffled outcomes are made in any case, where their number is ``auto``."""


@dataclass(frozen=True)
class Controls:
    """The settings of ``conf/controls/standard.yaml``, where they are explained."""

    random_features: int | str
    random_directions: int
    shuffled_outcomes: int | str
    shuffled_layers: int
    random_layers: int
    stop: int | None
    flipped: bool
    constrained: bool
    other_half: bool
    instruction: str | None

    def __post_init__(self) -> None:
        least = {"random_features": 1, "random_directions": 0}
        least |= {"shuffled_outcomes": 0, "shuffled_layers": 0, "random_layers": 0, "stop": 1}
        special = {"random_features": AUTO, "shuffled_outcomes": AUTO, "stop": None}
        for name, smallest in least.items():
            value = getattr(self, name)
            if name in special and value == special[name]:
                continue
            if type(value) is not int or value < smallest:
                other = f", or {special[name] or 'null'}" if name in special else ""
                raise ConfigError(
                    f"controls.{name}={value}: it must be a whole number, at least"
                    f" {smallest}{other}"
                )
        for name in ("flipped", "constrained", "other_half"):
            if type(getattr(self, name)) is not bool:
                raise ConfigError(
                    f"controls.{name}={getattr(self, name)}: it must be true or false"
                )
        if self.instruction is not None and not str(self.instruction).strip():
            raise ConfigError(
                "controls.instruction is empty: type controls.instruction=null for none"
            )

    def draws(self, max_new_tokens: float) -> dict[str, int]:
        """How many of each of ``KINDS``, where answers may have so many tokens."""
        random, shuffled = self.random_features, self.shuffled_outcomes
        if isinstance(random, str):
            random = DRAWS if max_new_tokens <= SHORT else DRAWS_OF_LONG
        if isinstance(shuffled, str):
            shuffled = random
        layers = self.shuffled_layers, self.random_layers
        numbers = random, self.random_directions, shuffled, *layers, int(self.flipped)
        return dict(zip(KINDS, numbers, strict=True))

    @property
    def look(self) -> int | None:
        """How many draws of shuffled outcomes are enough where random features already do as well
        as steering, which decides; None: all are made."""
        return LOOK if self.shuffled_outcomes == AUTO else None


def control_plans(
    plan: Plan,
    stats: Sequence[LayerStats],
    directions: Directions,
    draws: Mapping[str, int],
    seed: int,
    encoders: Encoders | None = None,
    whole: Plan | None = None,
) -> dict[str, Plan]:
    """Arm name (``random_1``, ...) -> plan. ``draws``: how many of each of ``KINDS``; ``flipped``
    has one, ``layers`` none where there is one layer, ``shuffled`` at most one per shuffle,
    ``subset`` none without the ``whole`` plan that the plan's layers were chosen from, and at most
    one per other choice of as many of its layers.

    ``directions`` is asked once per layer, since an SAE may take seconds to load; ``encoders`` in
    its place where the plan's entries have one.
    """
    by_layer = {s.layer: s for s in stats}
    picks: dict[str, dict[int, list[int]]] = {}
    for n in range(draws["random"]):
        picks[f"random_{n + 1}"] = random_features(stats, plan.entries, n, seed)
    outcomes: dict[str, int] = {}
    shuffles = min(len(by_layer[e.layer].shuffled_best) for e in plan.entries)
    for n in range(min(draws["shuffled"], shuffles)):
        best = {e.layer: [int(by_layer[e.layer].shuffled_best[n])] for e in plan.entries}
        picks[f"shuffled_{n + 1}"], outcomes[f"shuffled_{n + 1}"] = best, n
    plans: dict[str, list[PlanEntry]] = {arm: [] for arm in picks}
    for entry in plan.entries:
        features = sorted({f for drawn in picks.values() for f in drawn[entry.layer]})
        if not features:
            break
        read: dict[int, Encoder] = {}
        if encoders is not None:
            read = dict(zip(features, encoders(entry.layer, features), strict=True))
            rows = {feature: encoder.decoder for feature, encoder in read.items()}
        else:
            rows = dict(zip(features, directions(entry.layer, features), strict=True))
        for arm, chosen in picks.items():
            feature, *more = chosen[entry.layer]
            s = by_layer[entry.layer]
            r = float(s.r[feature])
            sign = sign_of(entry)
            if arm in outcomes and s.shuffled_sign is not None:
                sign = int(s.shuffled_sign[outcomes[arm]])
            direction = rows[feature]
            if more:
                weights = [one["coefficient"] for one in entry.about["features"]]
                drawn = np.stack([rows[f] for f in (feature, *more)])
                direction, sign = np.asarray(weights, np.float32) @ drawn, 1
            one = as_long(entry, direction, feature, r, sign)
            plans[arm].append(replace(one, encoder=read.get(feature)))
    for n in range(draws["direction"]):
        plans[f"direction_{n + 1}"] = [
            as_long(e, _rng(seed, n, e.layer).normal(size=len(e.vector)), -1, 0.0)
            for e in plan.entries
        ]
    for n in range(draws["layers"] if len(plan.entries) > 1 else 0):
        others = _dealt(len(plan.entries), _rng(seed, n))
        plans[f"layers_{n + 1}"] = [
            as_long(e, plan.entries[k].vector, plan.entries[k].feature, plan.entries[k].r)
            for e, k in zip(plan.entries, others, strict=True)
        ]
    for n, some in enumerate(_subsets(plan, whole, draws.get("subset", 0), seed)):
        plans[f"subset_{n + 1}"] = some
    if draws["flipped"]:
        plans["flipped"] = [as_long(e, -e.vector, e.feature, e.r) for e in plan.entries]
    return {arm: Plan(tuple(entries), plan.coef) for arm, entries in plans.items()}


def as_long(
    entry: PlanEntry, direction: np.ndarray, feature: int, r: float, sign: int = 1
) -> PlanEntry:
    """``direction`` at the length of the entry's vector, or against it where ``sign`` is -1.
    ``feature`` is -1 where it is none."""
    length = float(np.linalg.norm(direction))
    coefficient = sign * float(np.linalg.norm(entry.vector)) / length if length else 0.0
    vector = (np.float32(coefficient) * direction).astype(np.float32)
    encoder = entry.encoder and entry.encoder.along(vector, entry)
    return PlanEntry(entry.layer, feature, r, coefficient, vector, encoder=encoder)


def _subsets(plan: Plan, whole: Plan | None, n: int, seed: int) -> list[list[PlanEntry]]:
    """``n`` choices of as many of the ``whole`` plan's layers as the plan has, no two of them alike
    and none the plan's own; fewer where there are no more. By how much the plan's vectors are
    longer or shorter than the whole one's is dealt to them at random."""
    if whole is None:
        return []
    layers = sorted(e.layer for e in whole.entries)
    taken = {tuple(sorted(e.layer for e in plan.entries))}
    began = {e.layer: e for e in whole.entries}
    factors = [e.norm / (began[e.layer].norm or 1.0) for e in plan.entries]
    drawn: list[list[PlanEntry]] = []
    while len(drawn) < min(n, math.comb(len(layers), len(factors)) - 1):
        rng = _rng(seed, len(drawn), 0, 0)
        dealt = rng.permutation(factors)
        while (
            some := tuple(sorted(rng.choice(layers, len(dealt), replace=False).tolist()))
        ) in taken:
            pass
        taken.add(some)
        drawn.append([_times(began[k], f) for k, f in zip(some, dealt.tolist(), strict=True)])
    return drawn


def _times(entry: PlanEntry, factor: float) -> PlanEntry:
    """Vectors that need no change are not touched, not even by rounding."""
    if math.isclose(factor, 1.0, rel_tol=1e-6):
        return entry
    vector = np.float32(factor) * entry.vector
    return replace(entry, coefficient=factor * entry.coefficient, vector=vector)


def _dealt(n: int, rng: np.random.Generator) -> np.ndarray:
    """A permutation of n things that leaves none in its place."""
    while True:
        order = rng.permutation(n)
        if (order != np.arange(n)).all():
            return order


def _rng(seed: int, *place: int) -> np.random.Generator:
    # The control's own stream: spawn keys of random features are (draw, layer), two numbers.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, 1, *place)))
