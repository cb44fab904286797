"""Scores of binned activations against exact ones over all samples at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as sps

from corrsteer.stats.bins import BINS, QUANTILES, FeatureBins
from corrsteer.stats.relabelled import resamples, shuffles

N, WIDTH, P, R = 400, 14, 3, 2


def made():
    rng = np.random.default_rng(2)
    y = (rng.random(N) < 0.4).astype(float)
    z = np.maximum(rng.normal(size=(N, WIDTH)) + np.linspace(-2, 1, WIDTH), 0)
    z[:, ::2] *= 1 + 0.5 * y[:, None]
    z[:, 3] = 0
    z[:, 4] *= 1e-6  # below the grid
    z[:, 5] *= 1e5  # beyond it
    return z.astype(np.float32), y, shuffles(y, P, 1), resamples(N, R, 1)


@pytest.fixture(scope="module")
def counted():
    z, *rest = made()
    bins = FeatureBins(WIDTH, P, R)
    for rows in np.array_split(np.arange(N), 7):
        bins.update(z[rows], *(column[rows] for column in rest))
    return bins


def auroc(z, right):
    return sps.mannwhitneyu(z[right], z[~right]).statistic / (right.sum() * (~right).sum())


def information(cells, right):
    """In nats, from the table of a feature's bins against the outcome."""
    table = np.array([[np.mean((cells == c) & (right == y)) for y in (0, 1)] for c in set(cells)])
    outer = table.sum(1, keepdims=True) * table.sum(0)
    return float((table[table > 0] * np.log((table / outer)[table > 0])).sum())


def labellings():
    z, y, shuffled, drawn = made()
    yield "value", slice(None), y
    for k in range(P):
        yield "shuffled", slice(None), shuffled[:, k]
    for k in range(R):
        yield "resampled", np.repeat(np.arange(N), drawn[:, k]), y


def test_auroc_is_exact_within_the_bound_that_it_states(counted):
    z, *_ = made()
    found = counted.scores()["auroc"]
    inside = [f for f in range(WIDTH) if f not in (4, 5)]
    highest, kept = iter(found.max_shuffled), iter(found.resampled)
    for kind, rows, y in labellings():
        exact = np.array([auroc(z[rows, f], y[rows] > 0) for f in range(WIDTH)])
        if kind == "value":
            assert (np.abs(found.value - exact) <= found.error + 1e-12).all()
            assert np.abs(found.value - exact)[inside].max() < 0.005
            assert 0 < found.error[inside].max() < 0.05 and found.error[3] == 0
            assert found.value[3] == 0.5
        else:
            near = next(highest) if kind == "shuffled" else next(kept)[0]
            assert near == pytest.approx(exact.max(), abs=0.01)


def test_auroc_of_values_on_the_grid_is_exact():
    """Also of ties, and of zeros."""
    rng = np.random.default_rng(0)
    z = 2.0 ** rng.integers(-3, 4, (N, 6)) * (rng.random((N, 6)) < 0.6)
    y = (rng.random(N) < 0.5).astype(float)
    bins = FeatureBins(6, P, 0)
    bins.update(z, y, shuffles(y, P, 1), np.zeros((N, 0), np.int64))
    want = [auroc(z[:, f], y > 0) for f in range(6)]
    np.testing.assert_allclose(bins.scores()["auroc"].value, want, atol=1e-12)


def test_mutual_information_is_that_of_quantile_bins(counted):
    """Of the grid's own quantile bins to rounding, and near that of exact quantiles."""
    z, *_ = made()
    found = counted.scores()["mutual_information"]
    grid = np.full((N, WIDTH), -1.0)
    exact = np.full((N, WIDTH), -1.0)
    for f in range(WIDTH):
        on = np.flatnonzero(z[:, f] > 0)
        if len(on):
            octave = np.floor(16 * np.log2(z[on, f].astype(float))).clip(-BINS / 2, BINS / 2 - 1)
            middle = [np.sum(octave < b) + np.sum(octave == b) / 2 for b in octave]
            grid[on, f] = np.floor(QUANTILES * np.array(middle) / len(on))
            exact[on, f] = np.floor(QUANTILES * (sps.rankdata(z[on, f]) - 0.5) / len(on))
    highest, kept = iter(found.max_shuffled), iter(found.resampled)
    for kind, rows, y in labellings():
        right = y[rows] > 0
        sign = [np.sign(auroc(z[rows, f], right) - 0.5) for f in range(WIDTH)]
        want = [s * information(grid[rows, f], right) for f, s in enumerate(sign)]
        if kind == "value":
            np.testing.assert_allclose(found.value, want, atol=1e-9)
            near = [s * information(exact[rows, f], right) for f, s in enumerate(sign)]
            inside = [f for f in range(WIDTH) if f not in (4, 5)]
            np.testing.assert_allclose(found.value[inside], np.array(near)[inside], atol=0.01)
        elif kind == "shuffled":
            assert next(highest) == pytest.approx(max(want), abs=1e-9)
        else:
            # Of the feature below the grid, exact and binned AUROC differ in their sign.
            np.testing.assert_allclose(
                np.sort(np.abs(next(kept))), np.sort(np.abs(want)), atol=1e-9
            )


def test_memory_is_that_of_bins_in_use_however_many_samples(counted):
    z, *rest = made()
    before = counted.counts.shape
    again = FeatureBins(WIDTH, P, R)
    for _ in range(3):
        again.update(z, *rest)
    assert again.counts.shape == before and before[1] == 2 + P + 2 * R
    assert before[0] < 80 * WIDTH and again.counts.nbytes == 4 * before[0] * before[1]
    np.testing.assert_array_equal(again.counts, 3 * counted.counts)


def test_what_is_never_active_has_no_bins():
    bins = FeatureBins(3, P, R)
    y = np.array([0.0, 1, 1])
    bins.update(np.zeros((3, 3)), y, shuffles(y, P, 1), resamples(3, R, 1))
    assert bins.scores()["auroc"].value.tolist() == [0.5] * 3
    assert not bins.scores()["mutual_information"].value.any()
