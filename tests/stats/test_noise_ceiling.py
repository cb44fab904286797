"""On data without any relation, the best feature of a layer passes its ceiling in 5 % of runs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from corrsteer.selectors.correlation import Correlation
from corrsteer.stats.moments import FeatureMoments
from corrsteer.stats.relabelled import shuffles

DATASETS, N, WIDTH, SHUFFLES = 500, 60, 40, 99


def stats_of(seed: int, effect: float):
    rng = np.random.default_rng([seed, 1])
    y = (rng.random(N) < 0.6).astype(float)
    z = np.maximum(rng.normal(size=(N, WIDTH)) - 0.7, 0)
    z[:, 0] += effect * y
    moments = FeatureMoments(WIDTH, SHUFFLES, 0)
    moments.update(z, y, shuffles(y, SHUFFLES, seed))
    return moments.finish(0)


@pytest.mark.long
def test_family_wise_error_is_about_five_percent():
    runs = [stats_of(seed, effect=0.0) for seed in range(DATASETS)]
    passed = sum(s.r.max() > s.ceiling() for s in runs)
    assert binomtest(passed, DATASETS, 0.05).pvalue > 0.01, passed
    # A single feature's 5 % point, uncorrected for the choice among 40, would pass nearly always.
    assert np.mean([s.r.max() > 1.645 / np.sqrt(N) for s in runs]) > 0.5


def test_the_ranked_best_feature_is_labelled_noise_or_not():
    best = [Correlation().rank([stats_of(seed, effect=0.0)])[0] for seed in range(100)]
    assert sum(not f.is_noise for f in best) <= 12  # 99.9 % point of binomial(100, 0.05)
    for seed in range(20):
        found = Correlation().rank([stats_of(seed, effect=3.0)])[0]
        assert found.feature == 0 and not found.is_noise
