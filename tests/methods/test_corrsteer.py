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

    with pytest.raises(DataError, match=r"no feature correlates .* \(layers=all\)") as caught:
        CorrSteer().fit(dataclasses.replace(bench, selector=Nobody()))
    assert "\n" not in str(caught.value)


def test_it_needs_what_its_positions_need():
    assert CorrSteer().needs == {"vectors", "positions=generation"}
    assert CorrSteer(positions="all").needs == {"vectors", "positions=all"}
