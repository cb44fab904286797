"""What a tracker is sent of every layer, under the name of the score that ranks features."""

from __future__ import annotations

import pandas as pd

from corrsteer.trackers.sending import layer_rows

PLAIN = {
    "layer": [1, 1, 3], "rank": [1, 2, 1], "feature": [5, 6, 7], "r": [0.4, 0.3, -0.1],
    "ceiling": [0.2, 0.2, 0.3], "coefficient": [1.0, float("nan"), 3.0],
    "freq_right": [0.5, 0.5, 0.5], "freq_wrong": [0.1, 0.1, 0.1],
    "chosen": [False, True, True],
}  # fmt: skip


def test_by_r():
    first, second = layer_rows(pd.DataFrame(PLAIN), {1: 2.0}, -3.0)
    assert first == {
        "layer": 1, "by_layer/r": 0.3, "by_layer/ceiling": 0.2, "by_layer/coefficient": None,
        "by_layer/freq_right": 0.5, "by_layer/freq_wrong": 0.1, "by_layer/norm": 6.0,
    }  # fmt: skip
    assert second["by_layer/norm"] is None


def test_by_another_score():
    features = pd.DataFrame(PLAIN | {"mean difference": [7.0, 6.0, 5.0]})
    _, row = layer_rows(features, {}, 1.0, "mean difference")
    assert row["by_layer/mean_difference"] == 5.0 and row["by_layer/r"] == -0.1
    assert row["by_layer/mean_difference_ceiling"] == 0.3 and "by_layer/ceiling" not in row


def test_where_no_ceiling_is_known():
    features = pd.DataFrame(PLAIN | {"random number": 0.5, "ceiling": float("nan")})
    _, row = layer_rows(features, {}, 1.0, "random number")
    assert row["by_layer/random_number"] == 0.5 and row["by_layer/random_number_ceiling"] is None
