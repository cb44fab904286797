"""Scores beside r from streaming sums, against the textbook over all samples at once: on the
outcomes, on each shuffled outcome and in each resample, written out row by row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as sps

from corrsteer.records import ceiling
from corrsteer.stats.bins import BINNED, FeatureBins
from corrsteer.stats.moments import FeatureMoments
from corrsteer.stats.relabelled import resamples, shuffles
from corrsteer.stats.scores import SCORES, best, from_arrays, to_arrays

N, WIDTH, P, R = 90, 12, 4, 3


def mean_difference(z, y, length):
    return np.average(z, weights=y) - np.average(z, weights=1 - y)


def fisher_ratio(z, y, length):
    means = [np.average(z, weights=w) for w in (y, 1 - y)]
    spreads = [np.average((z - m) ** 2, weights=w) for w, m in zip((y, 1 - y), means, strict=True)]
    return np.sign(means[0] - means[1]) * (means[0] - means[1]) ** 2 / sum(spreads)


def square_ratio(z, y, length):
    a, b = (np.average(z**2, weights=w) for w in (y, 1 - y))
    return a / (a + b)


def partial(z, y, length):
    """Correlation of the residuals of two straight lines through the lengths."""
    if np.ptp(length) == 0:
        return sps.pearsonr(z, y).statistic
    rest = [x - np.polyval(np.polyfit(length, x, 1), length) for x in (z, y)]
    return sps.pearsonr(*rest).statistic


TEXTBOOK = [mean_difference, fisher_ratio, square_ratio, partial]


def made(fractional):
    rng = np.random.default_rng(5)
    z = np.maximum(rng.normal(size=(N, WIDTH)) - 0.4, 0)
    z[:, 1] += 1e3  # far from zero: variances are not to be differences of large squares
    z[:, 2] = 0
    y = rng.random(N) if fractional else (rng.random(N) < 0.6).astype(float)
    length = rng.integers(1, 9, N).astype(float)
    return z, y, shuffles(y, P, 1), length, resamples(N, R, 1)


def collected(data, cuts=()):
    """Over parts of the samples, each part its own accumulator."""
    z, *rest = data
    parts = np.split(np.arange(N), cuts)
    moments = [FeatureMoments(WIDTH, P, R) for _ in parts]
    for one, rows in zip(moments, parts, strict=True):
        for some in np.array_split(rows, 3):
            one.update(z[some], *(column[some] for column in rest))
    out = moments[0]
    for other in moments[1:]:
        out = out.merge(other)
    return FeatureMoments.from_arrays(out.to_arrays())


@pytest.mark.parametrize("score", TEXTBOOK, ids=lambda f: f.__name__)
@pytest.mark.parametrize("fractional", [False, True])
@pytest.mark.parametrize("cuts", [(), (2, 50)])
def test_a_score_is_the_textbooks(score, fractional, cuts):
    z, y, shuffled, length, drawn = data = made(fractional)
    found = collected(data, cuts).scores()[score.__name__]
    live = [f for f in range(WIDTH) if f != 2]

    def slow(outcome, rows=slice(None)):
        row = np.full(WIDTH, found.neutral)
        row[live] = [score(z[rows, f], outcome[rows], length[rows]) for f in live]
        return row

    exact = slow(y)
    np.testing.assert_allclose(found.value, exact, rtol=1e-8, atol=1e-11)
    assert (found.error == 0).all()
    null = np.array([slow(column) for column in shuffled.T])
    np.testing.assert_allclose(found.max_shuffled, null.max(axis=1), rtol=1e-8)
    assert found.shuffled_best.tolist() == null.argmax(axis=1).tolist()
    above = exact > found.neutral
    at_least = (null[:, None, live] >= exact[None, :, None] * (1 - 1e-9)).sum(axis=(0, 2))
    assert found.at_least.tolist() == np.where(above, at_least, 0).tolist()
    for k, times in enumerate(drawn.T):
        row = slow(y, np.repeat(np.arange(N), times))
        np.testing.assert_allclose(
            found.resampled[k], np.sort(row)[::-1][:20], rtol=1e-8, atol=1e-11
        )
        np.testing.assert_allclose(
            row[found.resampled_best[k]], found.resampled[k], rtol=1e-8, atol=1e-11
        )


def test_all_scores_are_tested_and_survive_the_disk(tmp_path):
    assert [f.__name__ for f in TEXTBOOK] == list(SCORES)
    moments = collected(made(False))
    scores = moments.scores()
    stats = replace(moments.finish(4), others=scores, residual=2.5)
    np.savez(tmp_path / "x.npz", **to_arrays(stats))
    with np.load(tmp_path / "x.npz") as arrays:
        kept = from_arrays(arrays)
    assert (kept.layer, kept.n, kept.residual) == (4, N, 2.5)
    np.testing.assert_array_equal(kept.r, stats.r)
    again = kept.others
    assert again.keys() == scores.keys()
    for name, scored in scores.items():
        assert again[name].neutral == scored.neutral
        np.testing.assert_array_equal(again[name].value, scored.value)
        np.testing.assert_array_equal(again[name].resampled_best, scored.resampled_best)


def test_point_biserial_correlation_is_r():
    z, y, *_ = data = made(False)
    r = collected(data).finish(0).r
    want = [sps.pointbiserialr(y, column).statistic if np.ptp(column) else 0 for column in z.T]
    np.testing.assert_allclose(r, want, atol=1e-12)


def test_without_length_or_variance_a_score_is_plain():
    """Answers of one token: nothing is held fixed. What is seen on one side only is finite."""
    z, y, shuffled, _, drawn = made(False)
    z[:, 0], z[:, 3] = y, np.where(y > 0, z[:, 3], 0)
    z[:, 4] = z[:, 3] / 2
    scores = collected((z, y, shuffled, np.ones(N), drawn))
    partly, tables = scores.finish(0).r, scores.scores()
    np.testing.assert_allclose(tables["partial"].value, partly, atol=1e-12)
    ratio = tables["square_ratio"].value
    assert ratio[2] == 0.5 and ratio[[3, 4]].round(8).tolist() == [1, 1] and ratio[3] > ratio[4]
    assert np.isfinite(tables["fisher_ratio"].value).all()
    assert tables["fisher_ratio"].value.argmax() == 0


def test_equal_scores_keep_the_order_of_features():
    places, values = best(np.array([0.1, 0.7, 0.7, 0.2]))
    assert (places.tolist(), values.tolist()) == ([1, 2, 3, 0], [0.7, 0.7, 0.2, 0.1])


@pytest.mark.night
def test_no_score_passes_its_ceiling_by_chance_more_often_than_it_says():
    """Outcomes independent of everything: the best feature of a layer is above the 95 % ceiling of
    at most 5 % of layers (99 shuffles: exactly 5 % but for ties)."""
    layers, rng = 150, np.random.default_rng(11)
    passed = dict.fromkeys([*SCORES, *BINNED], 0)
    for seed in range(layers):
        z = np.maximum(rng.normal(size=(60, 15)) - rng.uniform(0, 1.5, 15), 0)
        y = (rng.random(60) < 0.5).astype(float)
        shuffled, none = shuffles(y, 99, seed), np.zeros((60, 0), np.int64)
        moments, bins = FeatureMoments(15, 99, 0), FeatureBins(15, 99, 0)
        moments.update(z, y, shuffled, rng.integers(1, 9, 60), none)
        bins.update(z, y, shuffled, none)
        for name, scored in (moments.scores() | bins.scores()).items():
            passed[name] += bool(scored.value.max() > ceiling(scored.max_shuffled, 0.95))
    # 5 % and three standard errors of 150 layers.
    assert max(passed.values()) <= 0.104 * layers, passed
    assert min(passed.values()) > 0, passed
