"""Streaming moments against the textbook, SciPy and NumPy; and what they refuse."""

from __future__ import annotations

import functools
import itertools
import tracemalloc

import numpy as np
import pytest
from scipy import stats as sps

from corrsteer.errors import DegenerateOutcomesError, ModelError
from corrsteer.records import R_BINS, r_bin
from corrsteer.stats.moments import FeatureMoments, pearson
from corrsteer.stats.relabelled import resamples, shuffles

SEED = 3


def stream(z, y, y_shuffled, batch, drawn=None):
    drawn = np.zeros((len(y), 0)) if drawn is None else drawn
    moments = FeatureMoments(z.shape[1], y_shuffled.shape[1], drawn.shape[1])
    for i in range(0, len(y), batch):
        rows = slice(i, i + batch)
        moments.update(z[rows], y[rows], y_shuffled[rows], drawn=drawn[rows])
    return moments


def sparse_activations(n, width, rng, share=0.2):
    return np.maximum(rng.normal(size=(n, width)) + sps.norm.ppf(share), 0)


def test_four_samples_by_hand():
    z = np.array([[2.0, 0, 5], [4, 0, 5], [0, 3, 5], [0, 0, 5]])
    y = np.array([1.0, 1, 1, 0])
    s = stream(z, y, np.array([[1.0], [0], [1], [1]]), batch=2).finish(layer=7)
    assert (s.layer, s.n, s.n_right) == (7, 4, 3)
    np.testing.assert_allclose(s.mean, [1.5, 0.75, 5], rtol=1e-15)
    np.testing.assert_allclose(s.mean_right, [2, 1, 5], rtol=1e-15)
    np.testing.assert_allclose(s.mean_wrong, [0, 0, 5], rtol=1e-15)
    np.testing.assert_array_equal(s.freq, [0.5, 0.25, 1])
    np.testing.assert_allclose(s.freq_right, [2 / 3, 1 / 3, 1])
    np.testing.assert_array_equal(s.freq_wrong, [0, 0, 1])
    # r = sum(dz * dy) / sqrt(sum(dz^2) * sum(dy^2)) with dy = (1, 1, 1, -3) / 4
    np.testing.assert_allclose(s.r, [1.5 / np.sqrt(11 * 0.75), 0.75 / np.sqrt(6.75 * 0.75), 0])
    # shuffled: dy = (1, -3, 1, 1) / 4; feature 1 is the largest
    np.testing.assert_allclose(s.max_shuffled_r, [0.75 / np.sqrt(6.75 * 0.75)])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("fractional", [False, True])
def test_agrees_with_scipy(dtype, fractional):
    rng = np.random.default_rng(SEED)
    n, width, p = 300, 17, 5
    z = sparse_activations(n, width, rng).astype(dtype)
    y = rng.random(n) if fractional else (rng.random(n) < 0.6).astype(float)
    y_shuffled = shuffles(y, p, seed=1)
    s = stream(z, y, y_shuffled, batch=32).finish(0)
    exact = z.astype(np.float64)
    want = np.array([sps.pearsonr(column, y).statistic for column in exact.T])
    np.testing.assert_allclose(s.r, want, atol=1e-12, rtol=0)
    for k in range(p):
        want = max(sps.pearsonr(column, y_shuffled[:, k]).statistic for column in exact.T)
        assert s.max_shuffled_r[k] == pytest.approx(want, abs=1e-12)
    right = y >= 0.5
    for mean, freq, rows in [
        (s.mean, s.freq, slice(None)),
        (s.mean_right, s.freq_right, right),
        (s.mean_wrong, s.freq_wrong, ~right),
    ]:
        np.testing.assert_allclose(mean, exact[rows].mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(freq, (exact[rows] > 0).mean(axis=0), rtol=1e-15)


def literally(z, y, drawn):
    """[R, D] correlations of rows that are written out as often as they were drawn."""
    found = []
    for times in drawn.T:
        rows = np.repeat(np.arange(len(y)), times)
        with np.errstate(invalid="ignore"):
            r = [np.corrcoef(column[rows], y[rows])[0, 1] for column in z.T]
        found.append(np.where([np.ptp(column[rows]) > 0 for column in z.T], r, 0.0))
    return np.array(found)


@pytest.mark.parametrize("fractional", [False, True])
@pytest.mark.parametrize("cuts", [[120], [1, 40, 73, 120]])
def test_resamples_agree_with_rows_that_are_drawn_literally(fractional, cuts):
    """With a feature that is active once: where it is not drawn, it does not vary."""
    rng = np.random.default_rng(SEED)
    n, width, count = 120, 30, 12
    z = sparse_activations(n, width, rng).astype(np.float32)
    z[:, 7] = 0
    z[5, 7] = 3.7
    z[:, 8] = 0.3
    z[:, 9] += 1e4
    y = rng.random(n) if fractional else (rng.random(n) < 0.6).astype(float)
    drawn = resamples(n, count, seed=1)
    parts = []
    for rows in np.split(np.arange(n), cuts[:-1]):
        parts.append(stream(z[rows], y[rows], y[rows, None], batch=32, drawn=drawn[rows]))
    s = functools.reduce(FeatureMoments.merge, parts).finish(0)
    want = literally(z.astype(np.float64), y, drawn)
    assert (want[:, 7] == 0).any() and (want[:, 7] != 0).any() and (want[:, 8] == 0).all()
    assert s.resampled_best.shape == s.resampled_r.shape == (count, 20)
    assert s.resampled_best.dtype == np.int64
    np.testing.assert_array_equal(
        s.resampled_best, np.argsort(-want.round(9), axis=1, kind="stable")[:, :20]
    )
    found = np.take_along_axis(want, s.resampled_best, axis=1)
    np.testing.assert_allclose(s.resampled_r, found, atol=1e-10, rtol=0)


def test_fewer_features_than_are_kept_of_a_resample():
    rng = np.random.default_rng(SEED)
    z, y = rng.random((50, 3)), rng.random(50)
    drawn = resamples(50, 4, seed=1)
    s = stream(z, y, y[:, None], batch=8, drawn=drawn).finish(0)
    assert s.resampled_best.shape == (4, 3)
    np.testing.assert_allclose(
        s.resampled_r, -np.sort(-literally(z, y, drawn), axis=1), atol=1e-12, rtol=0
    )


def test_a_resample_without_variation_of_outcomes_correlates_with_nothing():
    """The third has none of the wrong answers, the fourth nothing at all."""
    rng = np.random.default_rng(SEED)
    z, y = rng.random((9, 4)), np.array([0.3, 0, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7])
    drawn = np.ones((9, 4), dtype=np.int64)
    drawn[:2, 2] = 0
    drawn[:, 3] = 0
    for batch in (1, 2, 9):
        s = stream(z, y, y[:, None], batch=batch, drawn=drawn).finish(0)
        np.testing.assert_allclose(s.resampled_r[0], -np.sort(-s.r), atol=1e-12)
        assert (s.resampled_r[2:] == 0).all()
        assert (s.resampled_best[2:] == np.arange(4)).all()


def test_without_resamples_there_are_none():
    rng = np.random.default_rng(SEED)
    z, y = rng.random((20, 3)), rng.random(20)
    assert stream(z, y, y[:, None], batch=8).finish(0).resampled_best.shape == (0, 3)


@pytest.mark.parametrize("cuts", [[300], [1, 40, 173, 300]])
def test_lengths_and_shuffled_choices_agree_with_the_textbook(cuts):
    rng = np.random.default_rng(SEED)
    n, width, p = 300, 17, 5
    z = sparse_activations(n, width, rng)
    lengths = rng.integers(1, 30, size=n).astype(float)
    z[:, 3] += 0.1 * lengths
    y = (rng.random(n) < 0.3 + 0.02 * lengths).astype(float)
    y_shuffled = shuffles(y, p, seed=1)
    parts = []
    for rows in np.split(np.arange(n), cuts[:-1]):
        parts.append(FeatureMoments(width, p, 0))
        parts[-1].update(z[rows], y[rows], y_shuffled[rows], lengths[rows])
    s = functools.reduce(FeatureMoments.merge, parts).finish(0)
    want = [sps.pearsonr(column, lengths).statistic for column in z.T]
    np.testing.assert_allclose(s.r_length, want, atol=1e-12, rtol=0)

    def rest(x):
        fit = sps.linregress(lengths, x)
        return x - fit.intercept - fit.slope * lengths

    want = [sps.pearsonr(rest(column), rest(y)).statistic for column in z.T]
    np.testing.assert_allclose(s.r_adjusted, want, atol=1e-12, rtol=0)
    assert s.r[3] > 0.3 > 0.1 > abs(s.r_adjusted[3])
    for k in range(p):
        r = [sps.pearsonr(column, y_shuffled[:, k]).statistic for column in z.T]
        best = int(np.argmax(r))
        assert s.shuffled_best[k] == best
    r = [sps.pearsonr(column, y_shuffled[:, k]).statistic for column in z.T for k in range(p)]
    want = np.histogram([x for x in r if x > 0], bins=R_BINS, range=(0, 1))[0]
    np.testing.assert_array_equal(s.shuffled_counts[:-1], want)
    assert s.shuffled_counts[-1] == 0  # r = 1


def test_bins_of_correlations():
    """Rounding does not part equal ones, on the edge of a bin or not."""
    edge = np.array([0.3, np.nextafter(0.3, 0), np.nextafter(0.3, 1)])
    assert (r_bin(edge) == 0.3 * R_BINS).all()
    assert r_bin(np.array([0.0, 0.5 / R_BINS, 1.0])).tolist() == [0, 0, R_BINS]


def test_shuffled_correlations_of_what_does_not_vary_are_not_counted():
    rng = np.random.default_rng(SEED)
    z, y = rng.random((40, 6)), rng.random(40)
    z[:, 2:5] = [0, 0.1, 7]
    one, other = (stream(x, y, shuffles(y, 9, seed=0), 16).finish(0) for x in (z, z[:, [0, 1, 5]]))
    np.testing.assert_array_equal(one.shuffled_counts, other.shuffled_counts)
    assert 0 < one.shuffled_counts.sum() < 27


def test_without_lengths_nothing_is_adjusted():
    rng = np.random.default_rng(SEED)
    y = rng.random(50)
    s = stream(rng.random((50, 4)), y, shuffles(y, 2, seed=0), batch=8).finish(0)
    assert (s.r_length == 0).all()
    np.testing.assert_array_equal(s.r_adjusted, s.r)


def test_what_only_mirrors_the_length_adjusts_to_zero():
    lengths = np.arange(20.0)
    y = (lengths > 9).astype(float)
    z = np.column_stack([lengths, y])
    moments = FeatureMoments(2, 1, 0)
    moments.update(z, y, y[:, None], lengths)
    s = moments.finish(0)
    assert s.r_adjusted[0] == 0 and s.r_adjusted[1] == pytest.approx(1)


@pytest.mark.parametrize("mean", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_mean_small_spread(mean, dtype):
    """Where plain sums of squares go wrong: 20,000 samples of unit spread about a large mean."""
    rng = np.random.default_rng(SEED)
    y = (rng.random(20_000) < 0.5).astype(float)
    z = (mean + rng.normal(size=(20_000, 3)) + 0.3 * y[:, None]).astype(dtype)
    s = stream(z, y, shuffles(y, 1, seed=0), batch=50).finish(0)
    want = [sps.pearsonr(column.astype(np.float64), y).statistic for column in z.T]
    np.testing.assert_allclose(s.r, want, atol=1e-10, rtol=0)


def test_first_batch_far_from_the_rest():
    """The worst case for a shift fixed at the first batch: one outlier, then small values."""
    rng = np.random.default_rng(SEED)
    y = (rng.random(5_000) < 0.5).astype(float)
    z = 1 + 1e-3 * rng.random((5_000, 2))
    z[0] = 1e4
    y_shuffled = shuffles(y, 1, seed=0)
    one_by_one = FeatureMoments(2, 1, 0)
    one_by_one.update(z[:1], y[:1], y_shuffled[:1])
    one_by_one.update(z[1:], y[1:], y_shuffled[1:])
    want = [sps.pearsonr(column, y).statistic for column in z.T]
    np.testing.assert_allclose(one_by_one.finish(0).r, want, atol=1e-10, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 12345.678, 1e-20, 1e8])
def test_a_constant_feature_has_r_exactly_zero(value):
    rng = np.random.default_rng(SEED)
    y = rng.random(997)
    z = np.column_stack([np.full(997, value), rng.random(997)])
    y_shuffled = shuffles(y, 3, seed=0)
    parts = [stream(z[i::3], y[i::3], y_shuffled[i::3], batch=7) for i in range(3)]
    for moments in (stream(z, y, y_shuffled, batch=13), parts[0].merge(parts[1]).merge(parts[2])):
        s = moments.finish(0)
        assert s.r[0] == 0.0
        assert s.r[1] != 0.0
        assert s.mean[0] == pytest.approx(value, rel=1e-15)


def test_rounding_in_the_last_bit_is_no_variation():
    rng = np.random.default_rng(SEED)
    y = rng.random(200)
    z = np.where(rng.random(200) < 0.5, 0.1, np.nextafter(0.1, 1))
    assert abs(sps.pearsonr((z - 0.1) * 1e17, y).statistic) > 0.01
    assert stream(z[:, None], y, y[:, None], batch=16).finish(0).r[0] == 0.0
    assert pearson(z, y) == 0.0


def test_a_constant_shuffle_has_r_exactly_zero():
    rng = np.random.default_rng(SEED)
    y = rng.random(100)
    same = np.full((100, 2), 0.3)
    same[::3, 1] = np.nextafter(0.3, 1)
    s = stream(rng.random((100, 4)), y, same, batch=9).finish(0)
    np.testing.assert_array_equal(s.max_shuffled_r, [0.0, 0.0])


def test_only_right_answers_with_varying_scores():
    rng = np.random.default_rng(SEED)
    z, y = rng.random((50, 2)), rng.uniform(0.5, 1, size=50)
    s = stream(z, y, shuffles(y, 2, seed=0), batch=8).finish(0)
    assert s.n_right == 50
    np.testing.assert_array_equal(s.mean_wrong, 0)
    np.testing.assert_array_equal(s.freq_wrong, 0)
    assert (s.r != 0).all()


def test_a_feature_silent_on_right_answers_has_coefficient_exactly_zero():
    y = np.array([1.0, 0, 1, 0, 1])
    z = np.array([[0.0], [0.7], [0], [0.1], [0]])
    s = stream(z, y, y[:, None], batch=2).finish(0)
    assert s.mean_right[0] == 0.0 and s.freq_right[0] == 0.0 and s.mean_wrong[0] > 0


@pytest.mark.parametrize(
    ("y", "counts"), [([1.0] * 6, "6 of 6"), ([0.0] * 6, "0 of 6"), ([0.3] * 6, "0 of 6")]
)
def test_degenerate_outcomes(y, counts):
    y = np.array(y)
    moments = stream(np.random.default_rng(0).random((6, 2)), y, y[:, None], batch=4)
    with pytest.raises(DegenerateOutcomesError, match=f"all 6 .*{counts} right.*limit=") as caught:
        moments.finish(0)
    assert "\n" not in str(caught.value)


def test_no_samples():
    with pytest.raises(DegenerateOutcomesError, match="0 of 0 right"):
        FeatureMoments(2, 1, 0).finish(0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_activations_that_are_not_finite(bad):
    z = np.array([[1.0, 2], [3, bad]])
    with pytest.raises(ModelError, match="not finite"):
        FeatureMoments(2, 1, 0).update(z, np.array([0.0, 1]), np.array([[0.0], [1]]))


@pytest.mark.parametrize(
    ("z", "y", "y_shuffled"),
    [
        (np.ones((2, 3)), np.ones(2), np.ones((2, 1))),
        (np.ones((2, 2)), np.ones(3), np.ones((2, 1))),
        (np.ones((2, 2)), np.ones(2), np.ones((2, 2))),
        (-np.ones((2, 2)), np.ones(2), np.ones((2, 1))),
        (np.ones((2, 2)), 2 * np.ones(2), np.ones((2, 1))),
        (np.ones((2, 2)), np.full(2, np.nan), np.ones((2, 1))),
    ],
)
def test_wrong_shapes_and_ranges_are_our_mistakes(z, y, y_shuffled):
    with pytest.raises(AssertionError):
        FeatureMoments(2, 1, 0).update(z, y, y_shuffled)


def test_saving_restores_the_state(tmp_path):
    rng = np.random.default_rng(SEED)
    z, y = rng.random((40, 3)), rng.random(40)
    y_shuffled = shuffles(y, 2, seed=0)
    drawn = resamples(40, 5, seed=0)
    first = stream(z[:20], y[:20], y_shuffled[:20], batch=7, drawn=drawn[:20])
    np.savez(tmp_path / "moments.npz", **first.to_arrays())
    with np.load(tmp_path / "moments.npz") as saved:
        restored = FeatureMoments.from_arrays(saved)
    for moments in (first, restored):
        moments.update(z[20:], y[20:], y_shuffled[20:], drawn=drawn[20:])
    for name, array in first.to_arrays().items():
        np.testing.assert_array_equal(array, restored.to_arrays()[name])
    np.testing.assert_array_equal(restored.finish(0).r, first.finish(0).r)


def test_saved_arrays_are_nobodys_state():
    rng = np.random.default_rng(SEED)
    z, y = rng.random((40, 3)), rng.random(40)
    drawn = resamples(40, 5, seed=0)
    first = stream(z, y, y[:, None], batch=7, drawn=drawn)
    saved = first.to_arrays()
    before = {name: array.copy() for name, array in saved.items()}
    FeatureMoments.from_arrays(saved).update(z, y, y[:, None], drawn=drawn)
    first.update(z, y, y[:, None], drawn=drawn)
    for name, array in saved.items():
        np.testing.assert_array_equal(array, before[name])


def test_r_stays_within_one():
    """Rounding puts some of these perfect correlations at 1 + 2e-16."""
    rng = np.random.default_rng(SEED)
    y = rng.random(11)
    z = y[:, None] * rng.random(200)
    s = stream(z, y, 1 - y[:, None], batch=4).finish(0)
    assert s.r.max() <= 1
    np.testing.assert_allclose(s.r, 1, atol=1e-12)
    assert s.max_shuffled_r[0] == pytest.approx(-1, abs=1e-12)


def test_merge_changes_neither_side_and_empty_is_neutral():
    rng = np.random.default_rng(SEED)
    z, y = rng.random((40, 3)), rng.random(40)
    y_shuffled = shuffles(y, 2, seed=0)
    drawn = resamples(40, 2, seed=0)
    a = stream(z[:10], y[:10], y_shuffled[:10], batch=5, drawn=drawn[:10])
    b = stream(z[10:], y[10:], y_shuffled[10:], batch=5, drawn=drawn[10:])
    before = a.to_arrays(), b.to_arrays()
    empty = FeatureMoments(3, 2, 2)
    a.merge(b).update(z, y, y_shuffled, drawn=drawn)
    for merged in (empty.merge(a), a.merge(empty)):
        np.testing.assert_array_equal(merged.finish(0).r, a.finish(0).r)
        merged.update(z, y, y_shuffled, drawn=drawn)
    for old, now in zip(before, (a.to_arrays(), b.to_arrays()), strict=True):
        for name in old:
            np.testing.assert_array_equal(old[name], now[name])
    for other in (FeatureMoments(3, 1, 2), FeatureMoments(3, 2, 1)):
        with pytest.raises(AssertionError, match="other features"):
            a.merge(other)


def test_state_does_not_grow_with_samples():
    rng = np.random.default_rng(SEED)
    z, y = rng.random((64, 500)), rng.random(64)
    y_shuffled, drawn = shuffles(y, 10, seed=0), resamples(64, 5, seed=0)
    moments = FeatureMoments(500, 10, 5)
    moments.update(z, y, y_shuffled, drawn=drawn)
    tracemalloc.start()
    moments.update(z, y, y_shuffled, drawn=drawn)
    after_one, _ = tracemalloc.get_traced_memory()
    for _ in range(100):
        moments.update(z, y, y_shuffled, drawn=drawn)
    after_many, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after_many - after_one < 10_000
    assert peak < 3 * (z.nbytes + moments.products.nbytes + moments.resampled.nbytes)


def test_resamples_are_counts_of_draws_fixed_by_the_seed():
    counts = resamples(50, 20, seed=5)
    assert counts.shape == (50, 20) and counts.dtype == np.int64
    assert (counts >= 0).all() and (counts.sum(axis=0) == 50).all()
    assert len(np.unique(counts, axis=1).T) == 20
    np.testing.assert_array_equal(counts, resamples(50, 20, seed=5))
    np.testing.assert_array_equal(counts[:, :7], resamples(50, 7, seed=5))
    assert (counts != resamples(50, 20, seed=6)).any()
    assert resamples(50, 0, seed=5).shape == (50, 0)


def test_resamples_are_multinomial():
    """All 27 ways to draw three times from three, by the counts they give, and two neighbours."""
    counts = resamples(3, 20_000, seed=SEED)
    kinds, number, seen = np.unique(counts, axis=1, return_inverse=True, return_counts=True)
    chances = [sps.multinomial(3, [1 / 3] * 3).pmf(kind) for kind in kinds.T]
    assert len(chances) == 10
    assert sps.chisquare(seen, 20_000 * np.array(chances)).pvalue > 0.001
    pairs = np.zeros((10, 10))
    np.add.at(pairs, (number[0::2], number[1::2]), 1)
    assert sps.chisquare(pairs.ravel(), 10_000 * np.outer(chances, chances).ravel()).pvalue > 0.001


def test_shuffles_are_permutations_fixed_by_the_seed():
    y = np.random.default_rng(SEED).random(50)
    columns = shuffles(y, 20, seed=5)
    assert columns.shape == (50, 20) and columns.dtype == np.float64
    np.testing.assert_array_equal(np.sort(columns, axis=0), np.tile(np.sort(y)[:, None], 20))
    assert len(np.unique(columns, axis=1).T) == 20
    np.testing.assert_array_equal(columns, shuffles(y, 20, seed=5))
    np.testing.assert_array_equal(columns[:, :7], shuffles(y, 7, seed=5))
    assert (columns != shuffles(y, 20, seed=6)).any()


def test_shuffles_are_uniform_and_independent():
    """Every pair (order in column k, order in column k + 1) of three outcomes is equally likely."""
    columns = shuffles(np.array([0.0, 0.5, 1.0]), 7_200, seed=SEED)
    orders = list(itertools.permutations((0.0, 0.5, 1.0)))
    number = np.array([orders.index(tuple(column)) for column in columns.T])
    pairs = np.zeros((6, 6))
    np.add.at(pairs, (number[0::2], number[1::2]), 1)
    assert sps.chisquare(pairs.ravel()).pvalue > 0.001


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_pearson_agrees_with_scipy(mean):
    rng = np.random.default_rng(SEED)
    lengths, y = mean + rng.normal(size=80), rng.random(80)
    got = pearson(lengths, y)
    assert type(got) is float
    assert got == pytest.approx(sps.pearsonr(lengths, y).statistic, abs=1e-12)


@pytest.mark.parametrize("constant", [0, 3, 0.1])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 50])
def test_pearson_of_a_constant_is_zero(constant, n):
    """The mean of three times 0.1 is not 0.1 in floats."""
    varying = np.random.default_rng(SEED).random(n)
    assert pearson(np.full(n, constant), varying) == 0.0
    assert pearson(varying, np.full(n, constant)) == 0.0


def test_pearson_stays_within_one():
    rng = np.random.default_rng(SEED)
    for _ in range(200):
        x = rng.random(5)
        assert 1 - 1e-12 <= pearson(x, 3 * x) <= 1 and -1 <= pearson(x, 1 - x) <= -1 + 1e-12
