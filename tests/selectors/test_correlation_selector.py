"""Ranking by correlation on hand-made statistics."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as sps

from corrsteer.errors import ConfigError
from corrsteer.records import LayerStats
from corrsteer.selectors.correlation import Correlation, q_values


def layer_stats(layer, r, active_right=None, n_right=10):
    """Distinct values in every other field, so that a mix-up shows."""
    r = np.array(r, dtype=float)
    active_right = np.full(len(r), n_right) if active_right is None else np.array(active_right)
    index = np.arange(len(r))
    return LayerStats(
        layer=layer,
        n=25,
        n_right=n_right,
        r=r,
        r_length=400.0 + index,
        r_adjusted=500.0 + index,
        mean=100.0 + index,
        mean_right=200.0 + index,
        mean_wrong=300.0 + index,
        freq=0.1 + index / 100,
        freq_right=active_right / n_right,
        freq_wrong=0.3 + index / 100,
        max_shuffled_r=np.linspace(0, 1, 101) + layer,
        shuffled_best=np.zeros(101, dtype=int),
        shuffled_mean=np.zeros(101),
    )


def ranking(features):
    return [(f.layer, f.rank, f.feature) for f in features]


def test_best_first_layers_ascending():
    stats = [layer_stats(5, [0.1, 0.3, 0.2]), layer_stats(2, [0.5, -0.9, 0.6])]
    assert ranking(Correlation(top_k=2).rank(stats)) == [(2, 1, 2), (2, 2, 0), (5, 1, 1), (5, 2, 2)]


def test_fields_are_the_features_own():
    f = Correlation(ceiling_level=0.9).rank([layer_stats(0, [0.1, 0.4], [10, 7])])[0]
    assert (f.feature, f.r) == (1, 0.4)
    assert f.coefficient == f.mean_right == 201 and f.mean_wrong == 301
    assert (f.freq, f.freq_right, f.freq_wrong) == (0.11, 0.7, 0.31)
    assert (f.r_length, f.r_adjusted) == (401, 501)
    # 0.9 * (101 + 1) = 91.8: between the 91st and 92nd of the shuffles 0.00, 0.01, ... 1.00
    assert f.ceiling == pytest.approx(0.908) and f.is_noise
    assert {type(getattr(f, name)) for name in ("r", "ceiling", "coefficient", "freq")} == {float}
    assert type(f.feature) is int and type(f.rank) is int


def test_ties_go_to_the_lower_feature():
    assert ranking(Correlation(top_k=3).rank([layer_stats(0, [0.2, 0.5, 0.2, 0.5, 0.2])])) == [
        (0, 1, 1),
        (0, 2, 3),
        (0, 3, 0),
    ]


def test_only_positive_correlations():
    stats = [layer_stats(0, [-0.5, 0.0, 0.1]), layer_stats(1, [-0.5, 0.0, -0.1])]
    assert ranking(Correlation().rank(stats)) == [(0, 1, 2)]


@pytest.mark.parametrize(("least", "expected"), [(1, [1, 2, 3]), (2, [2, 3]), (3, [3]), (4, [])])
@pytest.mark.parametrize("n_right", [3, 7, 49])
def test_active_on_enough_right_samples(least, expected, n_right):
    """Counts survive the way through frequencies: 49 * (1 / 49) is below 1 in floats."""
    stats = [layer_stats(0, [0.9, 0.8, 0.7, 0.6], active_right=[0, 1, 2, 3], n_right=n_right)]
    assert [f.feature for f in Correlation(min_active_right=least).rank(stats)] == expected


def test_features_below_the_ceiling_can_be_left_out():
    """The ceiling of layer 0 is 0.969: 0.95 of 102 ranks among 0.00, 0.01, ... 1.00."""
    stats = [layer_stats(0, [0.95, 0.97, 0.99]), layer_stats(-1, [0.2, -0.5])]
    assert stats[0].ceiling() == pytest.approx(0.959)
    assert ranking(Correlation().rank(stats))[-3:] == [(0, 1, 2), (0, 2, 1), (0, 3, 0)]
    kept = Correlation(reject_noise=True).rank(stats)
    assert ranking(kept) == [(-1, 1, 0), (0, 1, 2), (0, 2, 1)]
    assert not any(f.is_noise for f in kept)


def test_q_agrees_with_the_textbook():
    """Benjamini and Hochberg's steps by hand, over the features of both layers that vary."""
    rng = np.random.default_rng(0)
    stats = [layer_stats(n, rng.normal(0, 0.25, size=40).clip(-1, 1)) for n in (0, 3)]
    stats[0].r[:10] = 0
    tested = [(s.layer, f) for s in stats for f in range(40) if s.r[f] != 0]
    r = np.array([next(s for s in stats if s.layer == n).r[f] for n, f in tested])
    p = sps.t.sf(r * np.sqrt(23 / (1 - r**2)), 23)
    order = np.argsort(p)
    q = np.empty(70)
    smallest = 1.0
    for rank in range(70, 0, -1):
        smallest = min(smallest, p[order[rank - 1]] * 70 / rank)
        q[order[rank - 1]] = smallest
    found = q_values(stats)
    np.testing.assert_allclose([found[n][f] for n, f in tested], q, rtol=1e-12)
    assert (found[0][:10] == 1).all()
    best = Correlation().rank(stats)[0]
    assert best.q == found[0][best.feature]


def test_q_of_features_that_never_vary_is_one():
    assert (q_values([layer_stats(0, [0.0, 0.0])])[0] == 1).all()
    assert q_values([]) == {}


def test_agrees_with_a_plain_sort():
    rng = np.random.default_rng(0)
    r = rng.choice(np.linspace(-0.3, 0.6, 40), size=500)
    active = rng.integers(0, 5, size=500)
    want = sorted((f for f in range(500) if r[f] > 0 and active[f] >= 2), key=lambda f: (-r[f], f))
    got = Correlation(top_k=50).rank([layer_stats(0, r, active)])
    assert [f.feature for f in got] == want[:50]
    assert [f.rank for f in got] == list(range(1, 51))


@pytest.mark.parametrize(
    "setting",
    [
        {"top_k": 0},
        {"top_k": 2.5},
        {"top_k": True},
        {"min_active_right": 0},
        {"min_active_right": "2"},
        {"ceiling_level": 0.0},
        {"ceiling_level": 1.0},
        {"ceiling_level": "high"},
    ],
)
def test_refuses_in_one_line(setting):
    (name, value), *_ = setting.items()
    with pytest.raises(ConfigError, match=rf"selector\.{name}={value}: must .*type ") as caught:
        Correlation(**setting)
    assert "\n" not in str(caught.value)
