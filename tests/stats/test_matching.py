"""Equal accuracy, and the ratio of two prices: properties, and how often they are wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corrsteer.stats.intervals import paired_ci
from corrsteer.stats.matching import (
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    Equivalence,
    PriceRatio,
    Units,
    equivalence,
    nearest,
    on_front,
    price_ratio,
    questions_to_match,
    together,
    units_to_decide,
    verdict,
)


def differences(up, down, n):
    return np.array([1.0] * up + [-1.0] * down + [0.0] * (n - up - down))


def of(paid, per=None, counts=True):
    paid = np.asarray(paid, float)
    return Units(paid, np.ones(len(paid)) if per is None else np.asarray(per, float), counts)


# -- which setting is compared -------------------------------------------------------------------


@given(
    st.lists(st.sampled_from([0.5, 0.55, 0.6, 0.7]), min_size=1, max_size=6),
    st.sampled_from([0.5, 0.575, 0.62, 0.9]),
)
@settings(deadline=None, max_examples=50)
def test_the_nearest_is_as_near_as_any_and_the_smallest_dial_of_equals(accuracies, target):
    sizes = [float(n) for n in range(len(accuracies), 0, -1)]
    best = nearest(accuracies, target, sizes)
    away = [abs(a - target) for a in accuracies]
    assert away[best] == pytest.approx(min(away), abs=1e-9)
    ties = [i for i, d in enumerate(away) if d == pytest.approx(min(away), abs=1e-9)]
    assert sizes[best] == min(sizes[i] for i in ties)


# -- equal accuracy ------------------------------------------------------------------------------


def test_equal_is_what_the_90_percent_score_interval_says():
    for up, down, n in [(5, 5, 2000), (30, 30, 2000), (60, 20, 2000), (1, 0, 50), (20, 60, 2000)]:
        made = equivalence(differences(up, down, n))
        low, high = paired_ci(up, down, n, 0.9)
        assert made.ci == pytest.approx((low, high), abs=1e-9)
        assert (made.answer == SUPPORTED) == (low > -0.02 and high < 0.02)
    assert equivalence(differences(5, 5, 2000)).answer == SUPPORTED
    few = equivalence(differences(1, 0, 60))
    assert few.answer == UNDECIDED and few.questions >= 60
    behind = equivalence(differences(10, 210, 2000))
    assert behind.answer == REFUTED and not behind.ahead
    assert equivalence(differences(210, 10, 2000)).ahead


@pytest.mark.parametrize("up", [60, 66, 74])
def test_so_many_questions_as_are_said_show_that_a_small_difference_is_one(up):
    seen = equivalence(differences(up, 60, 800))  # 0, 0.75 and 1.75 points, all within 2
    assert seen.answer == UNDECIDED
    more = 1.1 * seen.questions / 800
    counts = [round(more * k) for k in (up, 60, 800)]
    assert equivalence(differences(*counts)).answer == SUPPORTED
    if up == 74:  # no more than it takes
        fewer = [round(0.8 * more * k) for k in (up, 60, 800)]
        assert equivalence(differences(*fewer)).answer == UNDECIDED


def test_a_difference_that_seems_to_be_the_margin_is_decided_by_no_number_of_questions():
    assert equivalence(differences(80, 60, 1000)).questions is None
    assert equivalence(differences(60, 80, 1000)).questions is None


@given(st.integers(0, 40), st.integers(0, 40))
@settings(deadline=None, max_examples=30)
def test_whoever_is_subject_both_are_as_equal(up, down):
    one, other = (equivalence(differences(*pair, 400)) for pair in ((up, down), (down, up)))
    assert one.answer == other.answer and one.difference == -other.difference
    assert one.ci[0] == pytest.approx(-other.ci[1], abs=1e-9)


def test_a_difference_of_the_margin_is_called_equal_at_most_so_often():
    rng, n, wrong, found = np.random.default_rng(0), 1500, 0, 0
    for _ in range(200):
        down, up = rng.multinomial(n, [0.06, 0.04, 0.9])[:2]  # 2 points behind
        wrong += equivalence(differences(up, down, n)).answer == SUPPORTED
    need = questions_to_match(0.1)
    for _ in range(200):
        up, down = rng.multinomial(need, [0.05, 0.05, 0.9])[:2]
        found += equivalence(differences(up, down, need)).answer == SUPPORTED
    assert wrong / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
    assert found / 200 == pytest.approx(0.8, abs=0.07)  # as many questions as are said


# -- prices --------------------------------------------------------------------------------------


def test_a_ratio_is_that_of_sums_and_turns_over_with_the_methods():
    rng = np.random.default_rng(1)
    a, b = (of(rng.random(300) < rate, rng.random(300) < 0.3) for rate in (0.4, 0.1))
    one, other = price_ratio(a, b, seed=3), price_ratio(b, a, seed=3)
    assert one.ratio == pytest.approx(a.paid.sum() / a.per.sum() / (b.paid.sum() / b.per.sum()))
    assert one.ratio == pytest.approx(1 / other.ratio)
    assert one.ci == pytest.approx((1 / other.ci[1], 1 / other.ci[0]), rel=0.05)
    assert one.answer == SUPPORTED and other.answer == REFUTED
    assert price_ratio(a, b, seed=3) == one


def test_the_interval_is_that_of_a_plain_loop_over_resamples():
    rng = np.random.default_rng(2)
    kl = [of(rng.gamma(1, size, 80), rng.integers(5, 20, 80), False) for size in (3.0, 1.0)]
    ratios = []
    for _ in range(2000):
        pick = rng.integers(80, size=80)
        prices = [u.paid[pick].sum() / u.per[pick].sum() for u in kl]
        ratios.append(prices[0] / prices[1])
    expected = np.quantile(ratios, [0.025, 0.975])
    assert price_ratio(*kl, seed=0).ci == pytest.approx(expected, rel=0.08)


def test_what_cannot_be_divided_is_undecided():
    nothing = price_ratio(of([0, 0, 0]), of([0, 0, 0]), seed=0)
    assert nothing.ratio is None and nothing.answer == UNDECIDED and nothing.units is None
    assert nothing.ci[0] < 0.05 and nothing.ci[1] > 20  # three units say nothing of a ratio
    free = [price_ratio(of([1] * n), of([0] * n), seed=0) for n in (2, 200)]
    assert [made.ratio for made in free] == [np.inf, np.inf]
    assert [made.answer for made in free] == [UNDECIDED, SUPPORTED]
    assert price_ratio(of([0] * 200), of([1] * 200), seed=0).answer == REFUTED
    unmeasured = price_ratio(of([0.0, 0.0], counts=False), of([1.0, 2.0], counts=False), seed=0)
    assert unmeasured.ratio is None and unmeasured.answer == UNDECIDED


def test_equal_prices_are_called_half_at_most_so_often_and_intervals_cover():
    rng, wrong, covered = np.random.default_rng(4), 0, 0
    for seed in range(200):
        shared = rng.random((3, 150))
        a, b = (of((shared[0] < 0.1) | (own < 0.1)) for own in shared[1:])
        made = price_ratio(a, b, seed, draws=400)
        wrong += made.answer == SUPPORTED
        covered += made.ci[0] <= 1 <= made.ci[1]
    assert wrong / 200 <= 0.05
    assert covered / 200 >= 0.93


def test_more_units_decide_as_is_said():
    assert units_to_decide(100, 4.0, (0.5, 32.0)) == 225  # log 8 over log 4, squared
    assert units_to_decide(100, 1.0, (0.25, 4.0)) == 400
    rng = np.random.default_rng(5)
    made = price_ratio(of(rng.random(100) < 0.12), of(rng.random(100) < 0.05), seed=0)
    assert made.answer == UNDECIDED and made.units > 100


# -- both together -------------------------------------------------------------------------------


def equal(answer, ahead=False, at_most=False):
    return Equivalence(100, 0.0, (-0.01, 0.01), answer, ahead, None, at_most)


def price(answer):
    return PriceRatio(100, 1.0, 2.0, 2.0, (1.1, 3.0), answer, None)


@pytest.mark.parametrize(
    ("accuracy", "prices", "said"),
    [
        (equal(SUPPORTED), [SUPPORTED, SUPPORTED], SUPPORTED),
        (equal(SUPPORTED), [SUPPORTED, UNDECIDED], UNDECIDED),
        (equal(SUPPORTED), [SUPPORTED, REFUTED], REFUTED),
        (equal(SUPPORTED), [], UNDECIDED),
        (equal(REFUTED), [SUPPORTED], REFUTED),
        (equal(REFUTED, True), [SUPPORTED], UNDECIDED),  # not at equal accuracy
        (equal(UNDECIDED), [REFUTED], UNDECIDED),
        # Behind by over the margin, or equal: one part of the claim is false in either case.
        (equal(UNDECIDED, at_most=True), [SUPPORTED, REFUTED], REFUTED),
        (equal(UNDECIDED, at_most=True), [SUPPORTED], UNDECIDED),
    ],
)
def test_the_claim_needs_equal_accuracy_and_every_price(accuracy, prices, said):
    assert verdict(accuracy, [price(p) for p in prices]) == said
    assert together(3) == pytest.approx(1 - 0.05 / 3)


def test_at_most_equal_is_said_by_the_upper_bound_alone():
    changed = np.repeat([-1.0, 0.0, 1.0], [40, 940, 20])
    behind, ahead = (equivalence(sign * changed, 0.02) for sign in (1, -1))
    assert behind.answer == ahead.answer == UNDECIDED
    assert behind.at_most and not ahead.at_most


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8))
@settings(deadline=None, max_examples=50)
def test_a_front_has_no_point_that_another_beats(points):
    marked = on_front(*zip(*points, strict=True))
    assert any(marked)
    for (a, p), on in zip(points, marked, strict=True):
        beaten = any(x >= a and y <= p and (x > a or y < p) for x, y in points)
        assert on == (not beaten)
