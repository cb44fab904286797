"""The random control: alive, not the chosen one, uniform, reproducible."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from corrsteer.errors import DataError
from corrsteer.records import LayerStats, RankedFeature
from corrsteer.steering.plan import PlanEntry
from corrsteer.steering.random_features import random_features


def layer_stats(layer, freq):
    freq = np.array(freq, dtype=float)
    zero = np.zeros(len(freq))
    return LayerStats(  # type: ignore[call-arg]
        *(layer, 10, 5, *[zero] * 6, freq, zero, zero, np.zeros(1), np.zeros(1, int)),
        *(np.zeros(1, int), np.zeros((1, 8), int), np.zeros((1, 8))),
    )


def chosen(layer, feature):
    return RankedFeature(
        layer, 1, feature, 0.5, 0.3, 1.0, 0.5, 0.5, 0.5, 1.0, 1.0, 0.0, 0.5, 0.01, 1.0
    )


FREQ = [0.5, 0.0, 0.1, 0.9, 0.0, 0.01, 0.2, 0.3]  # features 1 and 4 are dead
STATS = [layer_stats(2, FREQ), layer_stats(0, FREQ), layer_stats(1, FREQ)]


def test_uniform_over_the_other_live_features():
    picks = [random_features(STATS, [chosen(1, 3)], draw, seed=0)[1][0] for draw in range(1_000)]
    values, counts = np.unique(picks, return_counts=True)
    assert values.tolist() == [0, 2, 5, 6, 7]
    assert chisquare(counts).pvalue > 0.001


@pytest.mark.long
@pytest.mark.parametrize("vary", ["draws", "layers", "seeds"])
def test_draws_layers_and_seeds_are_independent(vary):
    both = [chosen(0, 3), chosen(1, 3)]
    table = np.zeros((8, 8))
    for i in range(1_000):
        here = random_features(STATS, both, draw=i, seed=0)
        other = {
            "draws": lambda i=i: random_features(STATS, both, draw=i + 1_000, seed=0)[0],
            "layers": lambda here=here: here[1],
            "seeds": lambda i=i: random_features(STATS, both, draw=i, seed=1)[0],
        }[vary]()
        table[here[0][0], other[0]] += 1
    live = [0, 2, 5, 6, 7]
    assert table[np.ix_(live, live)].sum() == 1_000
    assert chi2_contingency(table[np.ix_(live, live)]).pvalue > 0.001


def test_the_next_draw_is_not_the_next_seed():
    here = [random_features(STATS, [chosen(1, 3)], draw=i + 1, seed=0) for i in range(40)]
    assert here != [random_features(STATS, [chosen(1, 3)], draw=i, seed=1) for i in range(40)]


def test_only_the_chosen_layers_and_the_same_whatever_the_others():
    alone = random_features(STATS, [chosen(1, 3)], draw=4, seed=7)
    together = random_features(STATS[::-1], [chosen(2, 0), chosen(1, 3)], draw=4, seed=7)
    assert list(alone) == [1] and list(together) == [1, 2]
    assert alone[1] == together[1]
    assert [type(feature) for feature in alone[1]] == [int]
    assert together == random_features(STATS, [chosen(1, 3), chosen(2, 0)], draw=4, seed=7)


def test_as_many_as_the_plan_has_and_no_two_alike():
    """The first is that of a plan of one."""
    entry = plan_entry([3, 6])
    draws = [random_features(STATS, [entry], draw, seed=0)[1] for draw in range(1_000)]
    alone = [random_features(STATS, [plan_entry([3])], draw, seed=0)[1] for draw in range(5)]
    assert {len(set(drawn)) for drawn in draws} == {2}
    pairs, counts = np.unique(np.sort(draws, axis=1), axis=0, return_counts=True)
    assert pairs.tolist() == [[0, 2], [0, 5], [0, 7], [2, 5], [2, 7], [5, 7]]
    assert chisquare(counts).pvalue > 0.001
    assert all(len(drawn) == 1 for drawn in alone)
    with pytest.raises(
        DataError, match=r"only 2 besides the chosen \[0, 2, 3, 5\] .* no random control of 4;"
    ):
        random_features(STATS, [plan_entry([0, 2, 3, 5])], draw=0, seed=0)


def plan_entry(features: list[int]) -> PlanEntry:
    several = [{"feature": n, "r": 0.5, "coefficient": 1.0} for n in features]
    about = {"features": several} if len(features) > 1 else {}
    return PlanEntry(1, features[0], 0.5, 1.0, np.ones(4, np.float32), about=about)


def test_a_layer_without_another_live_feature():
    stats = [layer_stats(3, [0.0, 0.4, 0.0])]
    with pytest.raises(DataError, match=r"layer 3: no feature besides the chosen \[1\]") as caught:
        random_features(stats, [chosen(3, 1)], draw=0, seed=0)
    assert "\n" not in str(caught.value)
