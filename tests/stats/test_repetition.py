"""Repeated n-grams of hand-made answers."""

from __future__ import annotations

import pytest

from corrsteer.stats.repetition import repeated_ngrams


@pytest.mark.parametrize(
    ("tokens", "n", "expected"),
    [
        ([1, 2, 3, 4, 5, 6], 4, 0.0),
        ([7] * 10, 4, 1 - 1 / 7),
        ([1, 2, 3, 4, 1, 2, 3, 4], 4, 1 - 4 / 5),  # 1234 2341 3412 4123 1234
        ([1, 2, 1, 2, 1], 2, 1 - 2 / 4),
        ([1, 1, 2, 2, 1], 1, 1 - 2 / 5),
        ([1, 2, 3, 4, 5], 4, 0.0),
        ([1, 2, 3, 4], 4, None),
        ([], 4, None),
        ([1], 1, None),
    ],
)
def test_by_hand(tokens, n, expected):
    found = repeated_ngrams(tokens, n)
    assert found == (None if expected is None else pytest.approx(expected))


def test_four_by_default():
    tokens = [1, 2, 3, 4, 1, 2, 3, 4]
    assert repeated_ngrams(tokens) == repeated_ngrams(tokens, 4) == pytest.approx(0.2)
