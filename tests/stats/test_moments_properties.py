"""Any batches, any order, any merge tree: the same statistics as one pass and as SciPy."""

from __future__ import annotations

import functools
import warnings
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from corrsteer.stats.moments import FeatureMoments
from corrsteer.stats.relabelled import resamples, shuffles
from corrsteer.stats.scores import NOT_KEPT

pytestmark = pytest.mark.long

P, R = 3, 4


def column(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Activations as they come, and as they come at worst."""
    if kind == "dead":
        return np.zeros(n)
    if kind == "constant":
        return np.full(n, rng.random() * 10.0 ** rng.integers(-3, 5))
    if kind == "sparse":
        return np.where(rng.random(n) < 0.1, rng.gamma(2, size=n), 0)
    if kind == "offset":  # mean / std up to 1e4
        return np.abs(10.0 ** rng.uniform(0, 4) + rng.normal(size=n))
    return rng.gamma(1, 10.0 ** rng.integers(-6, 6), size=n)


KINDS = ("dead", "constant", "sparse", "offset", "gamma")


@st.composite
def samples(draw):
    """(z [N, D], y [N], shuffled [N, P], drawn [N, R]) with outcomes that vary."""
    n = draw(st.integers(3, 80))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    z = np.column_stack([column(kind, n, rng) for kind in kinds])
    y = rng.random(n) if draw(st.booleans()) else (rng.random(n) < rng.random()).astype(float)
    y[:2] = 0, 1
    z = z.astype(draw(st.sampled_from([np.float32, np.float64])))
    return z, y, shuffles(y, P, seed=1), resamples(n, R, seed=1)


def one_pass(z, y, y_shuffled, drawn):
    moments = FeatureMoments(z.shape[1], P, R)
    moments.update(z, y, y_shuffled, drawn=drawn)
    return moments


def batched(z, y, y_shuffled, drawn, cuts):
    moments = FeatureMoments(z.shape[1], P, R)
    for rows in np.split(np.arange(len(y)), sorted(c % len(y) for c in cuts)):
        moments.update(z[rows], y[rows], y_shuffled[rows], drawn=drawn[rows])  # some are empty
    return moments


def assert_same(a, b, scale, tolerance=1e-9):
    assert (a.layer, a.n, a.n_right) == (b.layer, b.n, b.n_right)
    for f in fields(a)[3:]:
        if f.name in ("shuffled_best", "resampled_best", "shuffled_counts", "others", "residual"):
            continue  # which of two equal features is the best, rounding decides
        if f.name in NOT_KEPT:
            continue  # put together later
        unit = scale if f.name.startswith("mean") else 1.0
        error = np.abs(getattr(a, f.name) - getattr(b, f.name)) / unit
        assert error.max() <= tolerance, (f.name, error.max())


def scale_of(z):
    return np.maximum(np.abs(z).max(axis=0).astype(np.float64), 1e-300)


CUTS = st.lists(st.integers(0, 10_000), max_size=8)


@settings(max_examples=100, deadline=None)
@given(samples(), CUTS)
def test_scipy(data, cuts):
    z, y, y_shuffled, drawn = data
    s = batched(*data, cuts).finish(0)  # type: ignore[call-arg]
    exact = z.astype(np.float64)

    def r(x, outcome):
        return 0.0 if np.ptp(x) == 0 else sps.pearsonr(x, outcome).statistic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sps.NearConstantInputWarning)
        np.testing.assert_allclose(s.r, [r(x, y) for x in exact.T], atol=1e-10, rtol=0)
        for k in range(P):
            want = max(r(x, y_shuffled[:, k]) for x in exact.T)
            np.testing.assert_allclose(s.max_shuffled_r[k], want, atol=1e-10, rtol=0)
        for k in range(R):
            rows = np.repeat(np.arange(len(y)), drawn[:, k])
            ordered = sorted(
                (r(x[rows], y[rows]) if np.ptp(y[rows]) else 0.0 for x in exact.T), reverse=True
            )
            # Sums around the mean of all samples lose digits where the outcomes that were drawn
            # hardly differ.
            lost = max(1.0, (0.01 / (np.std(y[rows]) or 1.0)) ** 2)
            np.testing.assert_allclose(s.resampled_r[k], ordered, atol=1e-10 * lost, rtol=0)
    assert (s.r[np.ptp(exact, axis=0) == 0] == 0).all()


@settings(max_examples=100, deadline=None)
@given(samples(), CUTS, st.randoms(use_true_random=False))
def test_any_order_and_batching(data, cuts, random):
    order = list(range(len(data[1])))
    random.shuffle(order)
    shuffled = [array[order] for array in data]
    assert_same(batched(*shuffled, cuts).finish(0), one_pass(*data).finish(0), scale_of(data[0]))  # type: ignore[call-arg]


@settings(max_examples=100, deadline=None)
@given(samples(), st.integers(1, 6), CUTS, st.randoms(use_true_random=False))
def test_merged_shards(data, n_shards, cuts, random):
    """Shards of any size (empty ones too), merged along a random tree, then fed further."""
    n = len(data[1])
    held_back = n // 4
    shard = np.array([random.randrange(n_shards) for _ in range(n - held_back)])
    parts = []
    for i in range(n_shards):
        rows = np.flatnonzero(shard == i)
        mine = [array[rows] for array in data]
        parts.append(batched(*mine, cuts) if len(rows) else FeatureMoments(data[0].shape[1], P, R))  # type: ignore[call-arg]
    while len(parts) > 1:
        a = parts.pop(random.randrange(len(parts)))
        b = parts.pop(random.randrange(len(parts)))
        parts.append(a.merge(b))
    if held_back:
        z, y, y_shuffled, drawn = (array[-held_back:] for array in data)
        parts[0].update(z, y, y_shuffled, drawn=drawn)
    assert_same(parts[0].finish(0), one_pass(*data).finish(0), scale_of(data[0]))


@settings(max_examples=50, deadline=None)
@given(samples(), st.integers(1, 5))
def test_one_sample_per_shard(data, batch):
    """The extreme of Chan's update: every shard has zero variance of its own."""
    z, y = data[:2]
    parts = [one_pass(*(array[i : i + batch] for array in data)) for i in range(0, len(y), batch)]
    merged = functools.reduce(FeatureMoments.merge, parts)
    assert_same(merged.finish(0), one_pass(*data).finish(0), scale_of(z))


@settings(max_examples=60, deadline=None)
@given(samples())
def test_invariants(data):
    s = one_pass(*data).finish(0)
    assert (np.abs(s.r) <= 1).all() and (np.abs(s.max_shuffled_r) <= 1).all()
    n_wrong = s.n - s.n_right
    mix = (s.n_right * s.mean_right + n_wrong * s.mean_wrong) / s.n
    np.testing.assert_allclose(mix, s.mean, atol=1e-9 * scale_of(data[0]).max())
    assert (s.freq >= 0).all() and (s.freq <= 1).all()


@settings(max_examples=60, deadline=None)
@given(samples(), st.integers(-8, 8))
def test_scaling_activations_changes_no_correlation(data, exponent):
    z, *others = data
    a = one_pass(z, *others).finish(0)
    b = one_pass(z.astype(np.float64) * 2.0**exponent, *others).finish(0)
    np.testing.assert_array_equal(a.r != 0, b.r != 0)
    np.testing.assert_allclose(a.r, b.r, atol=1e-9)
    np.testing.assert_allclose(a.mean_right * 2.0**exponent, b.mean_right, rtol=1e-9, atol=1e-12)
