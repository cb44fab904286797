"""What else, as often or as strongly, would have done as well as a gate?

Every control is the plan at its dial without the gate, in which one thing is chosen otherwise:

=======  ======================================================================================
static   at every position: does the gate matter?
dosed    at every position, each layer's vector times the gate's duty there: as much in all,
         spread evenly; of an operator that does more than add, the dial times the mean duty
dealt    on answers that are drawn at random, as large a share as the gate's duty
inverse  where the gate is closed
oracle   on the answers that are wrong without steering: no gate can be better, so it is a bound
=======  ======================================================================================

Duty is the share of the plan's positions where the gate is open, measured on the test answers.
Over layers it is the mean. A random choice is of whole answers: of several tokens, all or none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from corrsteer.steering.arms import Arm
from corrsteer.steering.gates import Always
from corrsteer.steering.plan import Plan

DRAWS = 5


def gate_controls(
    plan: Plan,
    duties: Mapping[int, float],
    ids: Sequence[str],
    wrong: Collection[str],
    seed: int,
) -> list[Arm]:
    """``duties``: by layer. ``ids``: of the questions; ``wrong``: of those that are wrong without
    steering."""
    static, duty = replace(plan, gate=Always()), float(np.mean(list(duties.values())))
    arms = [
        Arm("static", "static", static),
        Arm("dosed", "dosed", _dosed(static, duties, duty)),
    ]
    for n in range(DRAWS):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2, n)))
        some = rng.permutation(len(ids))[: round(duty * len(ids))]
        arms.append(
            Arm(f"dealt_{n + 1}", "dealt", static, among=frozenset(ids[i] for i in some.tolist()))
        )
    if (inverse := getattr(plan.gate, "inverse", None)) is not None:
        arms.append(Arm("inverse", "inverse", replace(plan, gate=inverse())))
    arms.append(Arm("oracle", "oracle", static, among=frozenset(wrong)))
    return arms


def _dosed(static: Plan, duties: Mapping[int, float], duty: float) -> Plan:
    if not static.operator.additive:
        return static.turned_to(duty * static.coef)
    scaled = []
    for e in static.entries:
        share = duties[e.layer]
        vector = np.float32(share) * e.vector
        scaled.append(replace(e, coefficient=share * e.coefficient, vector=vector))
    return static.with_entries(tuple(scaled))
