"""Features of wrong answers, and of either, against plain loops over samples and shuffles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from corrsteer.errors import ConfigError
from corrsteer.models.local import Local
from corrsteer.records import RIGHT
from corrsteer.run.fitted import check_selector
from corrsteer.run.results import features_table
from corrsteer.selectors.correlation import Correlation
from corrsteer.selectors.fisher import Fisher
from corrsteer.selectors.mean_difference import MeanDifference
from corrsteer.selectors.partial_correlation import PartialCorrelation
from corrsteer.selectors.protocol import selector_name
from corrsteer.selectors.random import Random
from corrsteer.selectors.square_ratio import SquareRatio
from corrsteer.stages.plan import steering_plan, strengthened
from corrsteer.stats.moments import FeatureMoments
from corrsteer.stats.relabelled import resamples, shuffles
from corrsteer.steering import coefficients as c
from corrsteer.steering.controls import KINDS, control_plans
from corrsteer.steering.operators import Add, Clamp, Fill

N, WIDTH, SHUFFLES, RESAMPLES, MODEL = 60, 14, 30, 20, 5
RNG = np.random.default_rng(3)
Y = (RNG.random(N) < 0.4).astype(float)
Z = np.maximum(0, RNG.normal(size=(N, WIDTH)))
Z[:, 3] += 0.8 * (1 - Y)  # of wrong answers, the strongest
Z[:, 7] += 0.5 * Y
LENGTHS = RNG.integers(1, 9, N).astype(float)
ROWS = RNG.normal(size=(WIDTH, MODEL)).astype(np.float32)


def collected(y, layer=0):
    moments = FeatureMoments(WIDTH, SHUFFLES, RESAMPLES)
    drawn = resamples(N, RESAMPLES, 0)
    moments.update(Z, y, shuffles(y, SHUFFLES, 0), LENGTHS, drawn)
    return replace(moments.finish(layer), others=moments.scores())


S = replace(collected(Y), mirror=collected(1 - Y))


def rs(y, z=Z):
    return np.array([np.corrcoef(column, y)[0, 1] for column in z.T])


def sided(r, sign):
    return {"positive": r, "negative": -r, "both": np.abs(r)}[sign]


@pytest.mark.parametrize("sign", ["positive", "negative", "both"])
def test_order_ceiling_and_stability_are_those_of_a_plain_loop(sign):
    r, shuffled = rs(Y), shuffles(Y, SHUFFLES, 0)
    active = np.where(r > 0, (Z[Y >= RIGHT] > 0).sum(0), (Z[Y < RIGHT] > 0).sum(0))
    fits = (sided(r, sign) > 0) & (active >= 2)
    order = [f for f in np.argsort(-sided(r, sign)) if fits[f]]
    ranked = Correlation(sign=sign).rank([S])
    assert [f.feature for f in ranked] == order
    np.testing.assert_allclose([f.r for f in ranked], r[order], rtol=1e-9)
    others = [rs(y) for y in shuffled.T]
    bar = np.quantile([sided(other, sign).max() for other in others], 0.95, method="weibull")
    for f in ranked:
        assert f.sign == np.sign(f.r) and f.ceiling == pytest.approx(f.sign * bar, rel=1e-9)
        assert f.is_noise == (abs(f.r) <= bar) and f.strength == pytest.approx(abs(f.r))
        assert f.coefficient == pytest.approx(
            Z[Y >= RIGHT, f.feature].mean() if f.r > 0 else -Z[Y < RIGHT, f.feature].mean()
        )
    wins = np.zeros(WIDTH)
    for weights in resamples(N, RESAMPLES, 0).T:
        rows = np.repeat(np.arange(N), weights)
        by = sided(rs(Y[rows], Z[rows]), sign)
        wins[max(np.flatnonzero(fits), key=lambda f, by=by: by[f])] += 1
    np.testing.assert_allclose([f.stability for f in ranked], wins[order] / RESAMPLES)
    best, signs = Correlation(sign=sign).shuffled(S)
    for other, feature, found in zip(others, best, signs, strict=True):
        assert feature == sided(other, sign).argmax()
        want = {"positive": 1, "negative": -1}.get(sign, np.sign(other[feature]))
        assert found == want


@pytest.mark.parametrize(
    "selector", [PartialCorrelation, MeanDifference, Fisher, SquareRatio], ids=lambda s: s.score
)
def test_every_score_ranks_the_lowest_first_and_both_by_the_distance_from_neutral(selector):
    table = S.others[selector.statistic]
    negative = selector(sign="negative", top_k=3).rank([S])
    assert [f.feature for f in negative] == np.argsort(table.value)[:3].tolist()
    np.testing.assert_allclose([f.by for f in negative], np.sort(table.value)[:3], atol=1e-9)
    assert all(f.ceiling < table.neutral and f.by < table.neutral for f in negative)
    both = selector(sign="both", top_k=5).rank([S])
    far = np.abs(table.value - table.neutral)
    assert [f.feature for f in both] == np.argsort(-far)[:5].tolist()
    one_sided = {f.feature: f.q for f in (*negative, *selector().rank([S]))}
    assert all(f.q == min(1, 2 * one_sided.get(f.feature, f.q / 2)) for f in both)


@pytest.mark.parametrize(
    ("coefficient", "want"),
    [
        (c.MeanRight(), -Z[Y < RIGHT, 3].mean()),
        (c.MeanActive(), -Z[(Y < RIGHT) & (Z[:, 3] > 0), 3].mean()),
        (c.MeanDifference(), Z[Y >= RIGHT, 3].mean() - Z[Y < RIGHT, 3].mean()),
        (c.FixedNorm(2.0), -2 / np.linalg.norm(ROWS[3])),
        (c.TotalNorm(2.0, "r"), -2 / np.linalg.norm(ROWS[3])),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_feature_of_wrong_answers_is_lowered(coefficient, want):
    chosen = strengthened(Correlation(sign="negative", top_k=1).rank([S]), coefficient)
    assert [f.feature for f in chosen] == [3]
    lengths = coefficient.lengths(chosen, dict)
    (entry,) = steering_plan(chosen, lambda _, some: ROWS[some], lengths=lengths).entries
    assert entry.coefficient == pytest.approx(want) and want < 0
    np.testing.assert_allclose(entry.vector, want * ROWS[3], rtol=1e-5)


def test_its_random_control_is_lowered_and_its_shuffled_one_as_shuffled_outcomes_say():
    plan = steering_plan(Correlation(sign="both", top_k=1).rank([S]), lambda _, some: ROWS[some])
    (own,) = plan.entries
    assert own.coefficient < 0
    best, signs = Correlation(sign="both").shuffled(S)
    assert {*signs.tolist()} == {1, -1}
    s = replace(S, shuffled_best=best, shuffled_sign=signs)
    draws = {**dict.fromkeys(KINDS, 0), "random": 4, "shuffled": 9}
    made = control_plans(plan, [s], lambda _, some: ROWS[list(some)], draws, 0)
    assert len(made) == 13
    for arm, control in made.items():
        (entry,) = control.entries
        kind, n = arm.split("_")
        sign = -1 if kind == "random" else signs[int(n) - 1]
        if kind == "shuffled":
            assert entry.feature == best[int(n) - 1]
        assert entry.norm == pytest.approx(own.norm, rel=1e-5)
        direction = ROWS[entry.feature] / np.linalg.norm(ROWS[entry.feature])
        np.testing.assert_allclose(entry.vector, sign * own.norm * direction, rtol=1e-4)
        assert np.sign(entry.coefficient) == sign


def test_the_run_says_which_features_it_looked_for():
    assert selector_name(Correlation()) == "Correlation"
    assert selector_name(Fisher(sign="negative")) == "Fisher, negative features"
    ranked = Correlation(sign="both").rank([S])
    assert features_table(ranked, (), "r")["sign"].tolist() == [f.sign for f in ranked]
    assert "sign" not in features_table(Correlation().rank([S]), (), "r")


def test_what_has_no_sign_or_cannot_lower_is_refused():
    with pytest.raises(ConfigError, match=r"selector.sign=down is unknown.*positive, negative"):
        Correlation(sign="down")
    with pytest.raises(ConfigError, match=r"random number has no sign.*selector.sign=positive"):
        Random(sign="negative")
    with pytest.raises(ConfigError, match=r"operator Fill would raise them: type operator=add"):
        check_selector(Correlation(sign="both"), Fill(), Local())
    with pytest.raises(ConfigError, match=r"operator Clamp would raise them"):
        check_selector(Correlation(sign="negative"), Clamp(5.0), Local())
    for level in (None, 0.0, -1.0):
        check_selector(Correlation(sign="negative"), Clamp(level), Local())
    check_selector(Correlation(sign="both"), Add(), Local())
    check_selector(Correlation(), Fill(), Local())
    assert "wrong" in Correlation(sign="negative").criterion
