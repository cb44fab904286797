"""Ranking by scores other than r, on hand-made statistics."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from corrsteer.errors import ConfigError
from corrsteer.records import Scored
from corrsteer.run.results import features_table
from corrsteer.selectors.auroc import AUROC
from corrsteer.selectors.correlation import Correlation
from corrsteer.selectors.fisher import Fisher
from corrsteer.selectors.mean_difference import MeanDifference
from corrsteer.selectors.mutual_information import MutualInformation
from corrsteer.selectors.partial_correlation import PartialCorrelation
from corrsteer.selectors.protocol import statistic
from corrsteer.selectors.random import Random
from corrsteer.selectors.square_ratio import SquareRatio
from corrsteer.stats.bins import BINNED
from corrsteer.stats.scores import SCORES
from tests.selectors.test_correlation_selector import layer_stats, ranking

BY_SCORE = [
    AUROC, Fisher, MeanDifference, MutualInformation, PartialCorrelation, SquareRatio,
]  # fmt: skip


def scored(value, neutral=0.5, **changes):
    value = np.array(value)
    table = Scored(
        value=value,
        neutral=neutral,
        at_least=np.zeros(len(value), dtype=np.int64),
        max_shuffled=np.linspace(0.5, 0.7, 99),
        shuffled_best=np.arange(99) % len(value),
        resampled_best=np.array([[1, 0, 2]] * 3 + [[2, 1, 0]]),
        resampled=np.array([[0.9, 0.8, 0.7]] * 4),
        error=np.zeros(len(value)),
    )
    return replace(table, **changes)


def stats_with(layer=0, name="auroc", r=(0.3, -0.2, 0.1), **changes):
    table = scored([0.6, 0.8, 0.5], **changes)
    return replace(layer_stats(layer, r), others={name: table})


@pytest.mark.parametrize("selector", BY_SCORE)
def test_every_selector_asks_for_a_score_that_is_collected(selector):
    assert statistic(selector()) in {*SCORES, *BINNED}
    assert selector.null and selector.score not in ("", "r")
    first = selector().rank([stats_with(name=selector.statistic)])[0]
    assert (first.feature, first.by, first.score, first.r) == (1, 0.8, 0.8, -0.2)
    assert statistic(Correlation()) == ""


def test_best_score_first_and_only_above_neutral():
    features = AUROC().rank([stats_with(3), stats_with(1)])
    assert ranking(features) == [(1, 1, 1), (1, 2, 0), (3, 1, 1), (3, 2, 0)]


def test_ceiling_and_stability_are_those_of_the_score():
    best, second = AUROC(ceiling_level=0.9).rank([stats_with()])
    assert (
        best.ceiling
        == second.ceiling
        == np.quantile(np.linspace(0.5, 0.7, 99), 0.9, method="weibull")
    )
    assert (best.is_noise, second.is_noise) == (False, True)
    assert (best.stability, second.stability) == (1.0, 0.0)  # feature 2 is not eligible
    assert ranking(AUROC(reject_noise=True).rank([stats_with()])) == [(0, 1, 1)]
    assert "noise ceiling" in AUROC(reject_noise=True).criterion


def test_q_is_that_of_shuffled_scores_of_the_layer_over_all_layers():
    rng = np.random.default_rng(0)
    stats = []
    p = []
    for layer in (0, 1):
        value = rng.random(3)
        at_least = rng.integers(0, 90, 3)
        stats.append(
            replace(
                layer_stats(layer, [0.1] * 3),
                others={"auroc": scored(value, at_least=at_least)},
            )
        )
        p += np.where(value > 0.5, (1 + at_least) / (1 + 99 * 3), 1).tolist()
    want = multipletests(p, method="fdr_bh")[1]
    found = np.concatenate([*AUROC().q(stats).values()])
    np.testing.assert_allclose(found, want)


def test_chance_draws_live_features_and_knows_no_ceiling():
    s = replace(layer_stats(2, [0.1] * 50), freq=np.array([0.0] * 10 + [0.5] * 40))
    one, again, other = (Random(seed=seed, top_k=99).rank([s]) for seed in (0, 0, 1))
    assert ranking(one) == ranking(again) != ranking(other)
    assert {f.feature for f in one} == set(range(10, 50))
    assert [f.by for f in one] == sorted((f.by for f in one), reverse=True)
    assert all(0 < f.by <= 1 and not f.is_noise for f in one)
    assert all(map(math.isnan, (one[0].ceiling, one[0].stability, one[0].q)))
    firsts = [Random(seed=n).rank([s])[0].feature for n in range(400)]
    counts = np.bincount(firsts, minlength=50)[10:]
    assert counts.min() > 0 and counts.max() < 25  # 10 each on average
    with pytest.raises(ConfigError, match=r"no noise ceiling.*selector.reject_noise=false"):
        Random(reject_noise=True)
    with pytest.raises(ConfigError, match=r"selector.seed=-1"):
        Random(seed=-1)


def test_the_table_of_features_names_the_score():
    ranked = AUROC().rank([stats_with()])
    table = features_table(ranked, ranked[:1], AUROC.score)
    assert table["AUROC"].tolist() == [0.8, 0.6] and table["r"].tolist() == [-0.2, 0.3]
    assert table.columns.tolist()[:5] == ["layer", "rank", "feature", "AUROC", "r"]
    plain = Correlation().rank([stats_with()])
    columns = features_table(plain, (), "r").columns.tolist()
    assert columns[:4] == ["layer", "rank", "feature", "r"] and "by" not in columns
