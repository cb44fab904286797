"""Ranking by correlation on hand-made statistics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from corrsteer.errors import ConfigError
from corrsteer.records import R_BINS, LayerStats, r_bin
from corrsteer.selectors.correlation import Correlation, q_values


def layer_stats(layer, r, active_right=None, n_right=10, resampled=(((0, 0.0),),)):
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
        shuffled_counts=np.zeros(R_BINS + 1, dtype=int),
        resampled_best=np.array([[f for f, _ in row] for row in resampled]),
        resampled_r=np.array([[value for _, value in row] for row in resampled]),
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


def test_q_agrees_with_statsmodels():
    """Over the features of both layers that vary; p by counting the shuffled ones one by one."""
    rng = np.random.default_rng(0)
    stats, shuffled = [], []
    for layer in (0, 3):
        r, noise = rng.normal(0, 0.25, size=40).clip(-1, 1), rng.normal(0, 0.12, size=(101, 40))
        if layer == 0:
            r[:10] = noise[:, :10] = 0
        shuffled.append(noise[:, r != 0])
        counts = np.bincount(r_bin(noise[noise > 0]), minlength=R_BINS + 1)
        stats.append(replace(layer_stats(layer, r), shuffled_counts=counts))
    shuffled = np.concatenate(shuffled, axis=1)
    tested = [(s.layer, f) for s in stats for f in range(40) if s.r[f] != 0]
    r = np.array([next(s for s in stats if s.layer == n).r[f] for n, f in tested])
    p = [(1 + (shuffled >= x).sum()) / (1 + shuffled.size) if x > 0 else 1 for x in r]  # type: ignore[attr-defined]
    q = multipletests(p, method="fdr_bh")[1]
    assert len(tested) == 70 and min(q) < 0.05 < max(q)
    found = q_values(stats)
    np.testing.assert_allclose([found[n][f] for n, f in tested], q, rtol=1e-2)
    assert (found[0][:10] == 1).all()
    best = Correlation().rank(stats)[0]
    assert best.q == found[0][best.feature]


def test_q_is_the_expected_number_of_false_ones_among_those_found():
    """100 shuffles of 4 features give 20 correlations of 0.5: 0.2 a shuffle, for 3 that are found
    above 0.4; both counts have the observation itself added."""
    counts = np.bincount(r_bin(np.full(20, 0.5)), minlength=R_BINS + 1)
    s = replace(layer_stats(0, [0.6, 0.5, 0.4, -0.9]), shuffled_counts=counts)
    s = replace(s, max_shuffled_r=np.full(100, 0.5))
    assert q_values([s])[0] == pytest.approx([4 / 401, 28 / 401, 28 / 401, 1])


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


def test_stability_is_the_share_of_resamples_that_a_feature_wins():
    """Feature 0 is active on one right answer and 4 correlates negatively over all samples. In the
    fifth resample no eligible feature is kept, in the sixth none correlates."""
    rows = [
        [(1, 0.9), (2, 0.8), (3, 0.1)],
        [(0, 0.9), (2, 0.8), (1, 0.7)],
        [(0, 0.9), (4, 0.8), (1, 0.7)],
        [(2, 0.5), (1, 0.5), (0, 0.5)],
        [(0, 0.9), (4, 0.8), (0, 0.7)],
        [(1, 0.0), (2, 0.0), (3, 0.0)],
        [(4, 0.6), (1, 0.5), (2, -0.1)],
        [(4, 0.6), (1, -0.2), (2, -0.3)],
    ]
    r = [0.5, 0.3, 0.2, 0.1, -0.4]
    s = layer_stats(0, r, active_right=[1, 5, 5, 5, 5], resampled=rows)
    found = {f.feature: f.stability for f in Correlation().rank([s])}
    assert found == {1: 3 / 8, 2: 2 / 8, 3: 0}
    assert {type(share) for share in found.values()} == {float}
    (only,) = Correlation(reject_noise=True, ceiling_level=0.25).rank([s])
    assert (only.feature, only.stability) == (1, 3 / 8)


def test_without_resamples_nothing_is_stable():
    s = replace(layer_stats(0, [0.5]), resampled_best=np.zeros((0, 1), int))
    (found,) = Correlation().rank([replace(s, resampled_r=np.zeros((0, 1)))])
    assert found.stability == 0


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
        {"classes": "semantic"},
        {"classes": 3},
    ],
)
def test_refuses_in_one_line(setting):
    (name, value), *_ = setting.items()
    with pytest.raises(ConfigError, match=rf"selector\.{name}={value}: must .*type ") as caught:
        Correlation(**setting)
    assert "\n" not in str(caught.value)
