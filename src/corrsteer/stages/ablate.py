"""What each layer of a plan contributes: every layer alone, every layer left out, and layers added
one by one, by depth and by correlation.

Cost: 4(L - 1) arms at most for a plan of L layers, each as dear as answering the split once more.
They belong on the validation split: the test split is asked once, for the numbers that are
reported.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from corrsteer.records import RIGHT
from corrsteer.stats.flips import flip_table
from corrsteer.stats.intervals import paired_ci, proportion_ci
from corrsteer.steering.arms import Arm
from corrsteer.steering.plan import Plan, strength

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

KINDS = ("alone", "left_out", "by_depth", "by_r")
COLUMNS = (
    "kind", "k", "layer", "layers", "arm", "n", "accuracy", "low", "high",
    "gain", "gain_low", "gain_high", "fixed", "broken", "ser",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One point of a comparison: ``layers`` steer, ``k`` of them.

    ``layer`` is the one that steers alone, is left out or comes in at this step; None where
    nothing steers. ``arm`` names the answers; steps with the same layers share an arm.
    """

    kind: str
    k: int
    layer: int | None
    layers: tuple[int, ...]
    arm: str


def steps(plan: Plan) -> list[Step]:
    """All comparisons of ``KINDS``, in order; none for a plan of fewer than two layers.

    The cumulative ones begin at 0 layers, the arm "baseline", and end at all, the arm "steered".
    """
    depth = tuple(sorted(e.layer for e in plan.entries))
    if len(depth) < 2:
        return []
    best = [e.layer for e in sorted(plan.entries, key=lambda e: (-strength(e), e.layer))]
    arms: dict[tuple[int, ...], str] = {(): "baseline", depth: "steered"}
    points: list[Step] = []

    def add(kind: str, layer: int | None, layers: tuple[int, ...], name: str) -> None:
        arm = arms.setdefault(layers, name)
        points.append(Step(kind, len(layers), layer, layers, arm))

    for layer in depth:
        add("alone", layer, (layer,), f"only_{layer}")
    for layer in depth:
        add("left_out", layer, tuple(n for n in depth if n != layer), f"without_{layer}")
    for kind, order, name in (("by_depth", depth, "first"), ("by_r", best, "best")):
        for k in range(len(depth) + 1):
            added = order[k - 1] if k else None
            add(kind, added, tuple(sorted(order[:k])), f"{name}_{k}")
    return points


def ablation_arms(plan: Plan) -> list[Arm]:
    """The arms that are to be answered besides "baseline" and "steered": each set of layers once.

    Vectors and the dial are those of ``plan``.
    """
    if len(plan.entries) < 2:
        log.info(
            "ablations: the plan has %d layer(s), so there is nothing to compare", len(plan.entries)
        )
    plans = {
        step.arm: plan.with_entries(tuple(e for e in plan.entries if e.layer in step.layers))
        for step in steps(plan)
        if 0 < step.k < len(plan.entries)
    }
    return [Arm(name, "steered", some) for name, some in plans.items()]


def ablation_table(plan: Plan, answers: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per step, with the columns of ``COLUMNS``; no row where there are no steps.

    ``answers``: scored answers to the same examples by arm, "baseline" and "steered" among them.
    Accuracy has its Wilson interval; gain is over "baseline", with a paired score interval.
    ``ser`` is absent where no answer flipped. ``layers``: numbers with a space between.
    """
    import pandas as pd

    base = answers["baseline"]
    right = (base["score"] >= RIGHT).to_numpy(float)
    measured = {}
    for arm in dict.fromkeys(step.arm for step in steps(plan)):
        assert list(answers[arm]["id"]) == list(base["id"]), arm
        now = (answers[arm]["score"] >= RIGHT).to_numpy(float)
        flips = flip_table(base, answers[arm])
        low, high = proportion_ci(int(now.sum()), len(now))
        gain_low, gain_high = paired_ci(flips.fixed, flips.broken, flips.n)
        measured[arm] = {
            "n": len(now),
            "accuracy": now.mean(),
            "low": low,
            "high": high,
            "gain": now.mean() - right.mean(),
            "gain_low": gain_low,
            "gain_high": gain_high,
            "fixed": flips.fixed,
            "broken": flips.broken,
            "ser": np.nan if flips.ser is None else flips.ser,
        }
    rows = [
        {
            **{"kind": s.kind, "k": s.k, "layer": s.layer, "arm": s.arm},
            "layers": " ".join(map(str, s.layers)),
            **measured[s.arm],
        }
        for s in steps(plan)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"layer": "Int64"})
