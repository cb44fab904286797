"""Selectors and coefficients share what was collected: another choice replays no answer."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.methods.protocol import observe
from corrsteer.selectors.auroc import AUROC
from corrsteer.selectors.fisher import Fisher
from corrsteer.selectors.mean_difference import MeanDifference
from corrsteer.selectors.mutual_information import MutualInformation
from corrsteer.selectors.partial_correlation import PartialCorrelation
from corrsteer.selectors.random import Random
from corrsteer.selectors.square_ratio import SquareRatio
from corrsteer.stats.moments import FeatureMoments
from corrsteer.steering import coefficients as c
from tests.stages.made import bench, counted, unsteered

__all__ = ["bench"]  # a fixture

OF_MOMENTS = [MeanDifference(), Fisher(), SquareRatio(), PartialCorrelation(), Random()]
COEFFICIENTS = [
    c.MeanActive(), c.MeanDifference(), c.FixedNorm(3.0), c.ResidualFraction(0.1),
    c.TotalNorm(9.0), c.TotalNorm(9.0, "r"), c.TotalNorm(9.0, "residual"),
]  # fmt: skip


def test_another_selector_or_coefficient_collects_nothing(bench, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    plain = CorrSteer().fit(bench)
    replays, generated = counted(monkeypatch, "replay"), counted(monkeypatch, "generate")
    caplog.clear()
    for selector in OF_MOMENTS:
        fitted = CorrSteer().fit(replace(bench, selector=selector))
        assert fitted.ranked and {f.by for f in fitted.ranked} != {None}
        for s in fitted.observed.stats:
            by = selector.scored(s)
            best = max((f for f in fitted.ranked if f.layer == s.layer), key=lambda f: f.score)
            assert best.rank == 1 and best.by == by.value[best.feature]
            if selector.null:  # the control chooses as the selector does
                assert (s.shuffled_best == by.shuffled_best).all()
    for coefficient in COEFFICIENTS:
        CorrSteer(coefficient=coefficient).fit(bench)
    assert replays == generated == []
    assert sum("cache hit collect" in message for message in caplog.messages) >= 3 * len(OF_MOMENTS)
    first = CorrSteer().fit(replace(bench, selector=AUROC()))
    assert replays == [16, 16, 16, 12] and generated == []  # once, for all that need bins
    caplog.clear()
    second = CorrSteer().fit(replace(bench, selector=MutualInformation()))
    assert len(replays) == 4
    assert sum("cache hit bins" in message for message in caplog.messages) == 3
    assert {f.by for f in first.ranked} != {f.by for f in second.ranked}
    again = CorrSteer().fit(bench)
    assert len(replays) == 4 and again.ranked == plain.ranked
    np.testing.assert_array_equal(again.plan.entries[0].vector, plain.plan.entries[0].vector)


def test_features_of_wrong_answers_take_one_more_pass_over_the_stored_answers(bench, monkeypatch):
    bench = replace(bench, layers=(1,))
    CorrSteer().fit(bench)
    replays, generated = counted(monkeypatch, "replay"), counted(monkeypatch, "generate")
    for selector in (Fisher(sign="negative"), PartialCorrelation(sign="both")):
        fitted = CorrSteer().fit(replace(bench, selector=selector))
        assert replays == [16, 16, 16, 12] and generated == []
        for e, f in zip(fitted.plan.entries, fitted.chosen, strict=True):
            d = bench.directions(e.layer, [e.feature])[0]
            mean = f.mean_right if f.sign > 0 else -f.mean_wrong
            np.testing.assert_allclose(e.vector, np.float32(mean) * d, rtol=1e-6)
    assert {f.sign for f in fitted.ranked} == {1, -1}


def test_lengths_are_those_of_the_residuals_that_were_pooled(bench):
    base = unsteered(bench)
    fitted = CorrSteer(coefficient=c.ResidualFraction(0.25)).fit(bench)
    assert fitted.plan.about["coefficient"] == {"name": "ResidualFraction", "fraction": 0.25}
    for entry, f in zip(fitted.plan.entries, fitted.chosen, strict=True):
        norms = []
        for example, row in zip(bench.selection, base["tokens"], strict=True):
            read = bench.model.replay([example.prompt], [list(row)], [entry.layer], "generated")
            norms += read.layers[entry.layer].norm(dim=1).tolist()
        assert entry.norm == pytest.approx(0.25 * np.mean(norms), rel=1e-5)
        assert f.coefficient == entry.coefficient and f in fitted.ranked
    others = [f for f in fitted.ranked if f not in fitted.chosen]
    assert others and np.isnan([f.coefficient for f in others]).all()


def test_what_an_earlier_version_collected_is_collected_again_once(bench, monkeypatch):
    """Where r is not enough: its entries have nothing else, and stay as they are."""
    with monkeypatch.context() as earlier:
        earlier.setattr(FeatureMoments, "scores", lambda self: {})
        plain = CorrSteer().fit(bench)
    replays = counted(monkeypatch, "replay")
    assert CorrSteer().fit(bench).ranked == plain.ranked and replays == []
    observe(replace(bench, selector=Fisher()))
    assert replays == [16, 16, 16, 12]
    observe(replace(bench, selector=MeanDifference()))
    observe(bench, wholly=True)
    assert len(replays) == 4
