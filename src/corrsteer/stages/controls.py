"""The controls of a plan that steer, behind the store; what they are:
:mod:`corrsteer.steering.controls`.

Cost: one SAE is loaded per layer, for its decoder rows; nothing where they were made before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from corrsteer.records import LayerStats
from corrsteer.stages.bench import Bench, read_json, write_json
from corrsteer.steering.arms import Arm
from corrsteer.steering.controls import control_plans
from corrsteer.steering.plan import Plan, load_plan
from corrsteer.store.keys import digest

STAGE, FILE = "controls", "arms.json"


def controls(
    bench: Bench,
    plan: Plan,
    stats: Sequence[LayerStats],
    draws: Mapping[str, int],
    whole: Plan | None = None,
) -> list[Arm]:
    """An arm per control, at the plan's norms, dial, operator, positions and gate.

    ``draws``: how many of each kind (:data:`corrsteer.steering.controls.KINDS`); a flipped sign is
    none where an operator does not look at it (``signed = False``), nor is another vector where it
    reads none (``reads_vector = False``): there only layers are drawn (``subset``). ``whole``: the
    plan whose layers the plan's were chosen from; None: they were not chosen.
    """
    if not getattr(plan.operator, "reads_vector", True):  # each would be the plan once more
        draws = {kind: n if kind == "subset" else 0 for kind, n in draws.items()}
    if not getattr(plan.operator, "signed", True):  # it would be the plan once more
        draws = {**draws, "flipped": 0}
    if whole is None or not draws.get("subset"):
        whole, draws = None, {kind: n for kind, n in draws.items() if kind != "subset"}
    dial, plan = plan.coef, plan.turned_to(1.0)  # a sweep over the dial has the same ones
    steered = [s for s in stats if s.layer in plan.vectors()]
    settings: dict[str, Any] = {
        "plan": _key(plan),
        "live": [digest((s.freq > 0).tobytes()) for s in steered],
        "r": [digest(s.r.tobytes()) for s in steered],
        "shuffled": [s.shuffled_best[: draws["shuffled"]].tolist() for s in steered],
        "saes": [bench.sae_key(s.layer) for s in steered],
        "draws": dict(draws),
        "seed": bench.seed,
    }
    signs = [_signs(s, draws["shuffled"]) for s in steered]
    if any(e.coefficient < 0 for e in plan.entries) or any(signs):
        settings["signs"] = [[e.coefficient < 0 for e in plan.entries], signs]
    several = [[e.layer, e.about["features"]] for e in plan.entries if "features" in e.about]
    if several:
        settings["features"] = several
    encoders = None
    if any(e.encoder is not None for e in plan.entries):
        encoders, settings["encoders"] = bench.encoders, True
    if whole is not None:
        settings["whole"] = _key(whole)

    def write(folder: Path) -> None:
        plans = control_plans(plan, steered, bench.directions, draws, bench.seed, encoders, whole)
        for name, control in plans.items():
            control.save(folder / name)
        write_json(folder, list(plans), FILE)

    entry = bench.store.get(STAGE, settings, write)
    probes = {e.layer: e.probe for one in (whole, plan) if one for e in one.entries}
    arms = []
    for name in read_json(entry, FILE):
        # Only vectors are kept: how they act is the plan's.
        made = load_plan(entry / name).entries
        same = plan.with_entries(tuple(replace(e, probe=probes.get(e.layer)) for e in made))
        arms.append(Arm(name, name.split("_")[0], same.turned_to(dial)))
    return arms


def _signs(s: LayerStats, shuffled: int) -> list[int]:
    return [] if s.shuffled_sign is None else s.shuffled_sign[:shuffled].tolist()


def _key(plan: Plan) -> list[list[object]]:
    return [[e.layer, e.feature, digest(e.vector.tobytes())] for e in plan.entries]
