"""What CorrSteer chooses, and how its plan acts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from corrsteer.errors import ConfigError, DataError
from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.records import RankedFeature
from corrsteer.selectors.correlation import Correlation
from corrsteer.steering.gates import Always
from corrsteer.steering.operators import Add
from corrsteer.steering.plan import load_plan
from corrsteer.steering.random_features import random_features
from tests.operators import Clamp, Side
from tests.stages.made import asked, bench, counted

__all__ = ["bench"]  # a fixture


def feature(layer, rank, r, number=0):
    rates = (0.5, 0.5, 0.5)
    return RankedFeature(layer, rank, number, r, 0.3, 1.0, *rates, 1.0, 1.0, 0.0, r, 0.01, 1.0)


RANKED = [feature(4, 1, 0.2), feature(4, 2, 0.1), feature(1, 2, 0.3), feature(1, 1, 0.6)]


def test_a_takes_the_best_of_every_layer():
    assert CorrSteer().choose(RANKED) == (RANKED[3], RANKED[0])


def test_s_takes_the_one_best():
    assert CorrSteer("S").choose(RANKED) == (RANKED[3],)
    assert CorrSteer("S").choose([feature(5, 1, 0.4), feature(3, 1, 0.4)])[0].layer == 3


@pytest.mark.parametrize("variant", ["A", "S"])
def test_nothing_ranked(variant):
    assert CorrSteer(variant).choose([]) == ()


@pytest.mark.parametrize("variant", ["a", "P", "", None])
def test_unknown_variant(variant):
    with pytest.raises(ConfigError, match=r"type strategy\.variant=A") as caught:
        CorrSteer(variant)
    assert "\n" not in str(caught.value)


def test_its_plan_acts_as_it_was_told(bench):
    plain = CorrSteer().fit(bench).plan
    assert (plain.coef, plain.operator, plain.gate) == (1.0, Add(), Always())
    fitted = CorrSteer("S", coef=0.5, operator=Clamp(2.0), gate=Side(3)).fit(bench)
    plan = fitted.plan
    assert (plan.coef, plan.operator, plan.gate) == (0.5, Clamp(2.0), Side(3))
    assert [f.layer for f in fitted.chosen] == [e.layer for e in plan.entries]
    assert len(plan.entries) == 1
    best = max(plain.entries, key=lambda e: e.r)
    np.testing.assert_array_equal(plan.entries[0].vector, best.vector)
    assert fitted.arm.name == fitted.arm.kind == "steered"


def test_the_shared_part_is_the_same_whatever_the_dial(bench, monkeypatch):
    """What the jobs of a sweep wait for leaves them nothing to read and nothing unsteered to
    answer."""
    (shared,) = CorrSteer(coef=3.0).share(bench)
    assert shared.plan.coef == 1.0
    replays, generated = counted(monkeypatch, "replay"), counted(monkeypatch, "generate")
    fitted = CorrSteer(coef=2.0).fit(bench)
    assert replays == generated == [] and fitted.plan.coef == 2.0
    assert fitted.chosen == shared.chosen and fitted.ranked == shared.ranked
    asked(bench, fitted.arm, split="validation")
    assert generated == [16, 16, 16, 12]


def test_nothing_to_steer_with_is_one_line(bench):
    class Nobody(Correlation):
        def rank(self, stats):
            return ()

    with pytest.raises(DataError, match=r"no feature .* of \d+ answers .* right.*limit") as caught:
        CorrSteer().fit(dataclasses.replace(bench, selector=Nobody()))
    assert "\n" not in str(caught.value)


def test_it_needs_what_its_positions_need():
    assert CorrSteer().needs == {"vectors", "positions=generation"}
    assert CorrSteer(positions="all").needs == {"vectors", "positions=all"}


def test_k_features_of_a_layer_add_up_and_all_are_named(bench, tmp_path):
    assert CorrSteer(k=2).choose(RANKED) == (RANKED[3], RANKED[2], RANKED[0], RANKED[1])
    assert CorrSteer("S", k=2).choose(RANKED) == (RANKED[3], RANKED[2])
    fitted = CorrSteer(k=3).fit(bench)
    assert len(fitted.chosen) == 9 and [e.layer for e in fitted.plan.entries] == [0, 1, 2]
    fitted.plan.save(tmp_path / "plan")
    for plan in (fitted.plan, load_plan(tmp_path / "plan")):
        for entry in plan.entries:
            own = [f for f in fitted.chosen if f.layer == entry.layer]
            rows = bench.directions(entry.layer, [f.feature for f in own])
            total = sum(f.coefficient * row for f, row in zip(own, rows, strict=True))
            np.testing.assert_allclose(entry.vector, total, rtol=1e-5, atol=1e-5)
            assert [one["feature"] for one in entry.about["features"]] == [f.feature for f in own]
            assert entry.feature == own[0].feature
    draws = [random_features(fitted.observed.stats, fitted.plan.entries, n, 0) for n in range(300)]
    taken = {(f.layer, f.feature) for f in fitted.chosen}
    drawn = {(layer, pick) for draw in draws for layer, picks in draw.items() for pick in picks}
    assert drawn and not taken & drawn


@pytest.mark.parametrize("k", [0, 1.5, True])
def test_k_is_a_whole_number(k):
    with pytest.raises(ConfigError, match=r"strategy\.k=.*such as strategy\.k=1"):
        CorrSteer(k=k)


def test_several_features_can_only_be_added():
    with pytest.raises(ConfigError, match="can only be added"):
        CorrSteer(k=2, operator=Clamp(2.0))
