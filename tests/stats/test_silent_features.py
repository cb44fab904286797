"""Features that were never active: nothing is kept of them, and no number changes by that."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from corrsteer.stats.moments import FeatureMoments
from corrsteer.stats.relabelled import resamples, shuffles
from corrsteer.stats.scores import SCORES, Table, to_arrays

N, WIDTH, P, R = 60, 64, 9, 7


def sparse(active):
    """Some features wake up late, in the second part or the third; most never do."""
    rng = np.random.default_rng(2)
    z = np.zeros((N, WIDTH), np.float32)
    for n, feature in enumerate(active):
        awake = slice(20 * (n % 3), N)
        z[awake, feature] = np.maximum(rng.normal(size=N), 0)[awake]
    y = (rng.random(N) < 0.5).astype(float)
    return z, y, shuffles(y, P, 1), rng.integers(1, 9, N).astype(float), resamples(N, R, 1)


def collected(data, cuts, every):
    """``every``: with sums of all features from the first batch on, as of those that are active."""
    parts = []
    for rows in np.split(np.arange(N), cuts):
        parts.append(FeatureMoments(WIDTH, P, R))
        if every:
            parts[-1]._hold(np.arange(WIDTH))
        for some in np.array_split(rows, 2):
            parts[-1].update(*(x[some] for x in data))
    return functools.reduce(FeatureMoments.merge, parts)


@pytest.mark.parametrize("cuts", [(), (25, 45)])
@pytest.mark.parametrize(
    "active", [(), (0, 1, 2), (63, 7), range(3, 40), range(WIDTH)], ids=lambda some: len(some)
)
def test_no_number_is_another_than_with_sums_of_all_features(active, cuts):
    one, other = (collected(sparse(active), cuts, every) for every in (False, True))
    assert one.features.tolist() == sorted(active) and len(other.features) == WIDTH
    one, other = (
        to_arrays(replace(m.finish(3), others=m.scores()))
        for m in (FeatureMoments.from_arrays(one.to_arrays()), other)
    )
    assert {f"{name}.value" for name in SCORES} <= set(one) == set(other)
    for name, found in one.items():
        np.testing.assert_allclose(found, other[name], rtol=1e-12, atol=1e-15, err_msg=name)


def test_columns_of_active_features_say_as_much_as_all():
    z, *rest = sparse((0, 9, 60))
    one, other = (FeatureMoments(WIDTH, P, R) for _ in range(2))
    for some in np.array_split(np.arange(N), 3):
        shown = np.flatnonzero(z[some].any(0))
        with_rest = [x[some] for x in rest]
        one.update(z[some], *with_rest)
        other.update(z[some][:, shown], *with_rest, features=shown)
    for name, array in one.to_arrays().items():
        np.testing.assert_array_equal(array, other.to_arrays()[name], err_msg=name)


def test_memory_is_that_of_the_features_that_were_active():
    one, all_held = (collected(sparse((5, 9, 60)), (), every) for every in (False, True))
    sizes = [sum(x.nbytes for x in m.to_arrays().values()) for m in (one, all_held)]
    assert sizes[0] < sizes[1] / 5


def test_silent_features_count_where_a_score_is_hardly_above_neutral():
    """By so little that neutral ones score as high, rounding aside."""
    value, row = np.array([0.5 + 1e-12, 0.9, 0.5]), np.array([0.4, 0.95, 0.5])
    few, many = Table(value, 0.5, silent=4), Table(np.append(value, [0.5] * 4), 0.5)
    few.add_shuffled(row[None])
    many.add_shuffled(np.append(row, [0.5] * 4)[None])
    assert few.done().at_least.tolist() == [6, 1, 0] == many.done().at_least[:3].tolist()
