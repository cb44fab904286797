"""Controls change one thing of a plan and keep the rest."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from corrsteer.records import LayerStats
from corrsteer.stages.controls import controls as controls_stage
from corrsteer.steering.controls import KINDS, control_plans
from corrsteer.steering.operators import Ablate, Add, Clamp, NormPreserving, ProjectOut
from corrsteer.steering.plan import Plan, PlanEntry
from corrsteer.steering.probe import Probe
from corrsteer.steering.probe_operators import Mera, Scaled
from corrsteer.steering.random_features import random_features
from corrsteer.store.entries import Store
from tests.operators import made_encoder

WIDTH, FEATURES, LAYERS = 6, 12, (1, 2, 5, 7)
DRAWS = {"random": 5, "direction": 3, "shuffled": 2, "layers": 2, "flipped": 1}
NONE = dict.fromkeys(KINDS, 0)


def stats(layer: int) -> LayerStats:
    rng = np.random.default_rng(layer)
    columns = rng.random((9, FEATURES))
    best, counts = np.array([3, 4, 5]), np.zeros(9, int)
    resampled = np.tile(np.arange(FEATURES), (2, 1)), rng.random((2, FEATURES))
    return LayerStats(layer, 20, 10, *columns, rng.random(3), best, counts, *resampled)  # type: ignore[call-arg]


STATS = [stats(layer) for layer in LAYERS]


def directions(layer: int, features) -> np.ndarray:
    rows = np.random.default_rng([layer, 9]).normal(size=(FEATURES, WIDTH))
    return rows.astype(np.float32)[list(features)]


def plan_of(layers=LAYERS, coef=1.5) -> Plan:
    rng = np.random.default_rng(0)
    return Plan(
        tuple(
            PlanEntry(n, 2, 0.5, 1.0, (n * rng.normal(size=WIDTH)).astype(np.float32))
            for n in layers
        ),
        coef,
    )


def controls(plan=None, draws=DRAWS, seed=0, ask=directions, whole=None):
    return control_plans(plan or plan_of(), STATS, ask, draws, seed, whole=whole)


def encoders(layer: int, features):
    rows = directions(layer, features)
    made = [made_encoder(100 * layer + f, WIDTH) for f in features]
    return [replace(e, decoder=row) for e, row in zip(made, rows, strict=True)]


def test_random_plans_of_several_features_add_up_as_the_plan_does():
    weights = [2.0, -1.0, 0.5]
    several = [
        {"feature": f, "r": 0.1, "coefficient": c} for f, c in zip((2, 4, 9), weights, strict=True)
    ]
    plan = plan_of()
    plan = plan.with_entries(tuple(replace(e, about={"features": several}) for e in plan.entries))
    made = controls(plan)
    for n in range(DRAWS["random"]):
        picks = random_features(STATS, plan.entries, n, 0)
        for own, entry in zip(plan.entries, made[f"random_{n + 1}"].entries, strict=True):
            drawn = picks[own.layer]
            assert len(drawn) == 3 and entry.feature == drawn[0]
            rows = directions(own.layer, drawn)
            total = sum(np.float32(c) * row for c, row in zip(weights, rows, strict=True))
            total *= np.linalg.norm(own.vector) / np.linalg.norm(total)
            np.testing.assert_allclose(entry.vector, total, rtol=1e-5)


@pytest.mark.parametrize("sign", [1, -1], ids=["towards", "away"])
def test_a_control_reads_the_feature_it_draws_or_else_the_plans_and_does_as_much(sign):
    """``away``: coefficients below 0."""
    entries = []
    for e in plan_of().entries:
        (encoder,) = encoders(e.layer, [2])
        vector = np.float32(sign * 1.5) * encoder.decoder
        entries.append(replace(e, vector=vector, encoder=encoder))
    plan = plan_of().with_entries(tuple(entries))
    plans = control_plans(plan, STATS, None, DRAWS, 0, encoders)
    bare = control_plans(plan, STATS, directions, DRAWS, 0)
    for arm, control in plans.items():
        for own, entry, same in zip(plan.entries, control.entries, bare[arm].entries, strict=True):
            np.testing.assert_array_equal(entry.vector, same.vector)
            d, reads = entry.encoder.decoder, entry.encoder.row
            drawn = arm.split("_")[0] in ("random", "shuffled")
            (its,) = encoders(own.layer, [entry.feature]) if drawn else [own.encoder]
            np.testing.assert_array_equal(reads, its.row)
            # Along its own vector, to a level that makes a vector as long as the plan's.
            length = np.linalg.norm(its.decoder)
            np.testing.assert_allclose(np.linalg.norm(d), length, rtol=1e-5)
            level = float(Clamp().parts(entry)["level"])
            np.testing.assert_allclose(level * d, entry.vector, rtol=1e-4, atol=1e-5)
            if not drawn:
                np.testing.assert_allclose(level, sign * 1.5, rtol=1e-5)
            if arm == "flipped":
                np.testing.assert_allclose(d, -own.encoder.decoder, rtol=1e-5)
    assert Ablate().parts(plans["direction_1"].entries[0]).keys() == {
        "row", "shift", "numbers", "decoder"
    }  # fmt: skip


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_every_vector_is_as_long_as_the_plans_and_the_dial_the_same():
    plan, plans = plan_of(), controls()
    assert {arm.split("_")[0] for arm in plans} == {*KINDS} - {"subset"}
    assert len(plans) == sum(DRAWS.values())
    for control in plans.values():
        assert control.coef == plan.coef
        for entry, own in zip(control.entries, plan.entries, strict=True):
            assert entry.layer == own.layer
            assert entry.vector.dtype == np.float32
            assert np.linalg.norm(entry.vector) == pytest.approx(
                np.linalg.norm(own.vector), rel=1e-5
            )


def test_each_control_is_what_it_says():
    plan, plans = plan_of(), controls()
    for n in (1, 2):
        for entry, s in zip(plans[f"shuffled_{n}"].entries, STATS, strict=True):
            assert entry.feature == s.shuffled_best[n - 1] and entry.r == s.r[entry.feature]
            (row,) = directions(entry.layer, [entry.feature])
            np.testing.assert_allclose(unit(entry.vector), unit(row), atol=1e-6)
    for entry in plans["random_3"].entries:
        (row,) = directions(entry.layer, [entry.feature])
        np.testing.assert_allclose(unit(entry.vector), unit(row), atol=1e-6)
        assert entry.feature != 2
    directions_of_plan = [unit(e.vector) for e in plan.entries]
    for arm in ("layers_1", "layers_2"):
        dealt = [unit(e.vector) for e in plans[arm].entries]
        at = [int(np.argmax([a @ b for b in directions_of_plan])) for a in dealt]
        assert sorted(at) == [0, 1, 2, 3] and all(k != n for n, k in enumerate(at))
        np.testing.assert_allclose(dealt, np.array(directions_of_plan)[at], atol=1e-6)
    for entry, own in zip(plans["flipped"].entries, plan.entries, strict=True):
        np.testing.assert_allclose(entry.vector, -own.vector, rtol=1e-6)


def test_draws_differ_from_each_other_and_depend_on_the_seed_alone():
    first, again, other = controls(), controls(), controls(seed=1)
    for arm, control in first.items():
        vectors = [e.vector for e in control.entries]
        assert all(map(np.array_equal, vectors, (e.vector for e in again[arm].entries)))
    for kind in ("random", "direction", "layers"):
        changed = [
            any(
                not np.array_equal(a.vector, b.vector)
                for a, b in zip(first[arm].entries, other[arm].entries, strict=True)
            )
            for arm in first
            if arm.startswith(kind)
        ]
        assert any(changed), kind
    more = controls(draws=DRAWS | {"direction": 9, "random": 9})
    np.testing.assert_array_equal(
        more["direction_3"].entries[1].vector, first["direction_3"].entries[1].vector
    )
    vectors = {first[f"direction_{n}"].entries[0].vector.tobytes() for n in (1, 2, 3)}
    assert len(vectors) == 3


def test_directions_are_uniform_on_the_sphere():
    """Each sign of each coordinate of 400 draws is as likely as the other."""
    drawn = controls(draws=NONE | {"direction": 400})
    signs = np.array([c.entries[0].vector > 0 for c in drawn.values()])
    ups = signs.sum(axis=0)
    assert chisquare(np.stack([ups, 400 - ups]), axis=0).pvalue.min() > 0.001


def test_an_sae_is_asked_once_per_layer_and_only_if_needed():
    asked = []

    def ask(layer, features):
        asked.append(layer)
        return directions(layer, features)

    controls(ask=ask)
    assert asked == list(LAYERS)
    asked.clear()
    controls(draws=NONE | {"direction": 1, "layers": 1, "flipped": 1}, ask=ask)
    assert asked == []


def test_one_layer_has_no_other_to_deal_to():
    plans = controls(plan_of(layers=(2,)), DRAWS | {"shuffled": 9})
    assert not any(arm.startswith("layers") for arm in plans)
    assert sum(arm.startswith("shuffled") for arm in plans) == 3  # as many as there are shuffles


def test_random_choices_of_layers_are_as_many_and_each_another():
    whole = plan_of()
    some = whole.with_entries((whole.entries[0], whole.entries[2]))
    draws = NONE | {"subset": 9}
    plans = controls(some, draws, whole=whole)
    sets = {tuple(e.layer for e in control.entries) for control in plans.values()}
    # Of 4 layers there are 6 pairs, one of which is the plan's own.
    assert sets == {(1, 2), (1, 7), (2, 5), (2, 7), (5, 7)} and len(plans) == 5
    own = {e.layer: e.vector for e in whole.entries}
    for control in plans.values():
        assert control.coef == some.coef
        for e in control.entries:
            np.testing.assert_array_equal(e.vector, own[e.layer])
    few = controls(some, NONE | {"subset": 2}, whole=whole)
    assert [few[n].key() for n in few] == [plans[n].key() for n in few] and len(few) == 2
    assert controls(whole, draws, whole=whole) == controls(some, draws) == {}


def test_factors_are_dealt_to_random_layers():
    whole = plan_of()
    scaled = [
        replace(e, vector=np.float32(f) * e.vector)
        for e, f in zip(whole.entries, (0.1, 3, 1), strict=False)
    ]
    plans = controls(whole.with_entries(tuple(scaled)), NONE | {"subset": 3}, whole=whole)
    own = {e.layer: e.norm for e in whole.entries}
    for control in plans.values():
        factors = [e.norm / own[e.layer] for e in control.entries]
        assert sorted(factors) == pytest.approx([0.1, 1, 3], rel=1e-5)
    assert len(plans) == 3


def test_a_sign_that_does_not_matter_is_not_flipped(tmp_path):
    """It would be the plan once more, which no plan beats."""
    bench: Any = SimpleNamespace(
        store=Store(tmp_path), seed=0, sae_key=str, directions=directions, encoders=None
    )
    kinds = {
        operator: [arm.kind for arm in controls_stage(bench, plan, STATS, NONE | {"flipped": 1})]
        for operator in (Add(), ProjectOut(), NormPreserving())
        for plan in [replace(plan_of(), operator=operator)]
    }
    assert kinds == {Add(): ["flipped"], ProjectOut(): [], NormPreserving(): ["flipped"]}


def test_no_control_is_the_plan_once_more(tmp_path):
    """Of an operator that reads no vector, only other layers are controls."""
    operators = Add(), ProjectOut(), NormPreserving(), Ablate(), Clamp(), Scaled(), Mera(0.5)
    row = np.ones(WIDTH, np.float32)
    told = Probe(row, 0.0, row, np.zeros(9, np.float32), 0.9)
    draws = DRAWS | {"subset": 1}
    for n, operator in enumerate(operators):
        bench: Any = SimpleNamespace(store=Store(tmp_path / str(n)), seed=0, sae_key=str)
        bench.directions, bench.encoders = directions, encoders
        reads = isinstance(operator, Ablate | Clamp)
        whole = replace(
            plan_of(),
            entries=tuple(
                replace(e, probe=told, encoder=encoders(e.layer, [2])[0] if reads else None)
                for e in plan_of().entries
            ),
            operator=operator,
        )
        plan = whole.with_entries(whole.entries[:3])
        made = controls_stage(bench, plan, STATS, draws, whole)
        kinds = {arm.kind for arm in made}
        if isinstance(operator, Mera):
            assert kinds == {"subset"}
        else:
            assert kinds >= {"random", "direction", "shuffled", "layers", "subset"}
        own = {layer: digest_of(parts) for layer, parts in plan.parts().items()}
        for arm in made:
            acts = {layer: digest_of(parts) for layer, parts in arm.intervention.parts().items()}
            assert acts != own, (operator, arm.name)


def digest_of(parts) -> dict[str, bytes]:
    return {name: np.asarray(array).tobytes() for name, array in parts.items()}
