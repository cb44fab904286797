"""How strong vectors are, against sums over the samples themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from corrsteer.errors import ConfigError, DataError
from corrsteer.selectors.correlation import Correlation
from corrsteer.stages.plan import steering_plan, strengthened, with_coefficients
from corrsteer.stats.moments import FeatureMoments
from corrsteer.stats.relabelled import shuffles
from corrsteer.steering.coefficients import (
    FixedNorm,
    MeanActive,
    MeanDifference,
    MeanRight,
    ResidualFraction,
    TotalNorm,
)

LAYERS = (1, 4, 6)
RESIDUALS = {1: 2.0, 4: 10.0, 6: 40.0}


def unasked():
    raise AssertionError("residuals were asked for")


@pytest.fixture(scope="module")
def made():
    """(outcomes, layer -> activations, the best feature of every layer)."""
    rng = np.random.default_rng(1)
    y = (rng.random(80) < 0.6).astype(float)
    z = {n: np.maximum(rng.normal(size=(80, 5)) + y[:, None] - 0.7, 0) for n in LAYERS}
    stats = []
    for n in LAYERS:
        moments = FeatureMoments(5, 20, 0)
        moments.update(z[n], y, shuffles(y, 20, 0))
        stats.append(moments.finish(n))
    chosen = tuple(f for f in Correlation().rank(stats) if f.rank == 1)
    return y > 0, z, chosen


@pytest.mark.parametrize(
    ("coefficient", "slow"),
    [
        (MeanRight(), lambda right, wrong: right.mean()),
        (MeanActive(), lambda right, wrong: right[right > 0].mean()),
        (MeanDifference(), lambda right, wrong: right.mean() - wrong.mean()),
    ],
)
def test_coefficients_of_activations(made, coefficient, slow):
    right, z, chosen = made
    found = [f.coefficient for f in strengthened(chosen, coefficient)]
    want = [slow(z[f.layer][right, f.feature], z[f.layer][~right, f.feature]) for f in chosen]
    np.testing.assert_allclose(found, want, rtol=1e-12)
    assert coefficient.lengths(chosen, unasked) is None and not coefficient.reads_residuals


@pytest.mark.parametrize(
    ("coefficient", "slow"),
    [
        (FixedNorm(7.0), lambda f, all_r: 7.0),
        (ResidualFraction(0.25), lambda f, all_r: 0.25 * RESIDUALS[f.layer]),
        (TotalNorm(90.0), lambda f, all_r: 30.0),
        (TotalNorm(90.0, "r"), lambda f, all_r: 90 * f.r / all_r),
        (TotalNorm(104.0, "residual"), lambda f, all_r: 104 * RESIDUALS[f.layer] / 52),
    ],
)
def test_vectors_of_a_length(made, coefficient, slow):
    """Whatever the length of the decoder's rows, along which they point."""
    _, _, chosen = made
    rows = {f.layer: np.random.default_rng(f.layer).normal(size=9) * f.layer for f in chosen}
    residuals = (lambda: RESIDUALS) if coefficient.reads_residuals else unasked
    lengths = coefficient.lengths(strengthened(chosen, coefficient), residuals)
    plan = steering_plan(chosen, lambda layer, _: [rows[layer].astype(np.float32)], None, lengths)
    for f, entry in zip(chosen, plan.entries, strict=True):
        row, want = rows[f.layer], slow(f, sum(f.r for f in chosen))
        np.testing.assert_allclose(entry.norm, want, rtol=1e-6)
        np.testing.assert_allclose(entry.vector, want * row / np.linalg.norm(row), rtol=1e-5)
        assert entry.coefficient == pytest.approx(want / np.linalg.norm(row), rel=1e-6)


def test_nothing_to_share_by_is_one_line(made):
    *_, chosen = made
    with pytest.raises(DataError, match=r"type coefficient.spread=equally"):
        TotalNorm(9.0, "r").lengths([replace(f, r=-0.1) for f in chosen], unasked)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FixedNorm(0.0), "coefficient.norm=0.0"),
        (lambda: FixedNorm(float("nan")), "coefficient.norm=nan"),
        (lambda: ResidualFraction(-1), "coefficient.fraction=-1"),
        (lambda: TotalNorm(True), "coefficient.total=True"),
        (lambda: TotalNorm(1.0, "evenly"), "coefficient.spread=evenly"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_several_features_of_a_layer_have_their_lengths_before_they_add_up(made):
    *_, chosen = made
    first = chosen[0]
    second = replace(first, rank=2, feature=first.feature + 1)
    rows = np.array([[3.0, 0, 0], [0, 0, 0.5]], np.float32)
    plan = steering_plan((first, second), lambda *_: rows, None, [6.0, 2.0])
    (entry,) = plan.entries
    np.testing.assert_allclose(entry.vector, [6, 0, 2])
    found = with_coefficients((first, second, chosen[1]), (first, second), plan)
    np.testing.assert_array_equal([f.coefficient for f in found], [2.0, 4.0, np.nan])
