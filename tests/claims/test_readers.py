"""How answers are read from runs, on made-up ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import linregress

from corrsteer.claims.concepts import shares
from corrsteer.claims.dial import reversal_p, usable
from corrsteer.claims.reading import detectable, of_mean
from corrsteer.claims.record import Table
from experiments.memory.measure import answered, peak, slope

TABLE = Table(columns=[], rows=[])


def curve(rates, n=400, seed=0):
    """[dials, questions]: right answers at these rates, the same questions being easy for all."""
    easy = np.random.default_rng(seed).random(n)
    noise = np.random.default_rng(seed + 1).random((len(rates), n))
    return (0.5 * easy + 0.5 * noise < np.array(rates)[:, None]).astype(float)


def test_a_curve_that_falls_is_found_and_one_that_rises_is_not():
    assert reversal_p(curve([0.4, 0.5, 0.6, 0.7]), draws=200) > 0.5
    assert reversal_p(curve([0.4, 0.6, 0.45, 0.7]), draws=200) < 0.02
    assert reversal_p(curve([0.7, 0.6, 0.5, 0.4]), draws=200) < 0.02


@pytest.mark.long
def test_a_flat_curve_is_seldom_called_a_reversal():
    p = [reversal_p(curve([0.5] * 5, n=100, seed=3 * s), draws=60) for s in range(80)]
    assert sum(x <= 0.05 for x in p) <= 9  # of 80; more than 9 has a chance of 1 in 100


@pytest.mark.parametrize(
    ("good", "expected"),
    [
        ([1, 1, 1, 1, 1], (-1, 3)),
        ([0, 1, 1, 1, 0], (0, 2)),
        ([1, 0, 1, 0, 1], (1, 1)),
    ],
)
def test_the_usable_range_is_the_largest_around_zero(good, expected):
    dials = [-1, 0, 1, 2, 3]
    shifted = [dial - 1 for dial in dials]  # so that 0 is in the middle
    low, high = usable(shifted, [bool(g) for g in good])
    assert (low + 1, high + 1) == expected


def test_features_are_set_beside_those_of_their_layer_and_frequency():
    chosen = pd.DataFrame(
        {"layer": [0, 1], "feature": [7, 7], "freq": [0.5, 0.01], "class": ["semantic", "unclear"]}
    )
    # In layer 0 the five nearest in frequency are structural, in layer 1 one of two is semantic.
    drawn = pd.DataFrame({
        "layer": [0] * 8 + [1] * 3,
        "feature": [*range(8), 7, 8, 9],
        "freq": [0.5, 0.6, 0.4, 0.55, 0.45, 0.01, 0.02, 0.5, 0.01, 0.02, 0.5],
        "class": ["structural"] * 5 + ["semantic"] * 3 + ["semantic", "semantic", "structural"],
    })  # fmt: skip
    found = shares(chosen, drawn)
    assert found.loc["chosen"].tolist() == [0.5, 0.0, 0.5]
    assert found.loc["random"].tolist() == [0.25, 0.75, 0.0]


@pytest.mark.parametrize(
    ("values", "least", "answer"),
    [
        ([0.05, 0.06, 0.07], 0.0, "supported"),
        ([-0.05, -0.06, -0.07], 0.0, "refuted"),
        ([0.05, -0.06, 0.07], 0.0, "undecided"),
        ([0.05, 0.06, 0.07], 0.1, "refuted"),
        ([0.5], 0.0, "undecided"),
        ([0.0, 0.0], 0.0, "undecided"),
    ],
)
def test_what_a_mean_decides(values, least, answer):
    found = of_mean("x", values, "points", "s", TABLE, least)
    assert found.answer == answer and found.number.value == pytest.approx(np.mean(values))


def test_the_smallest_mean_is_found_four_times_in_five():
    """So many samples as large as it, with this spread, by the t test itself."""
    rng, n = np.random.default_rng(0), 8
    least = detectable(np.tile([-1.0, 1.0], n // 2))
    x = rng.normal(least, np.sqrt(n / (n - 1)), (4000, n))
    t = x.mean(axis=1) / (x.std(axis=1, ddof=1) / np.sqrt(n))
    assert (abs(t) > 2.365).mean() == pytest.approx(0.8, abs=0.06)


def points(per_sample, noise=0.0, stored=1e5):
    rng = np.random.default_rng(0)
    return [
        {"samples": n, "shots": shots, "peak": 5e8 + per_sample * n + noise * rng.normal(),
         "tokens": 40.0, "stored": stored}
        for shots in (0, 4) for n in (250, 500, 1000, 2000, 3000)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("per_sample", "noise", "answer"),
    [(0.0, 1e5, "supported"), (1e5, 1e5, "refuted"), (0.0, 1e9, "undecided")],
)
def test_what_memory_decides(per_sample, noise, answer):
    made = answered(points(per_sample, noise))
    assert made["answer"] == answer
    assert len(made["table"]["rows"]) == 2


def test_the_slope_is_least_squares():
    some = points(3.0, 1e3)[:5]
    value, low, high = slope(some)
    expected = linregress([p["samples"] for p in some], [p["peak"] for p in some])
    assert value == pytest.approx(expected.slope) and low < value < high


@pytest.mark.night
@pytest.mark.long
def test_a_point_is_measured():
    point = peak(8, 1, [])
    assert point["peak"] > 1e8 and 30 < point["tokens"] < 300
    assert point["stored"] == point["tokens"] * 6 * 128 * 4  # layers, width, bytes
