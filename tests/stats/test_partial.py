"""Partial correlation against its textbook formula of three correlations."""

from __future__ import annotations

import numpy as np
import pytest

from corrsteer.stats.partial import partial_correlation


def test_it_is_the_formula_of_three_correlations():
    rng = np.random.default_rng(0)
    z = rng.normal(size=40)
    x, y = z + rng.normal(size=40), 2 * z + rng.normal(size=40)
    r = np.corrcoef([x, y, z])
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    found, (low, high) = partial_correlation(x, y, z)
    assert found == pytest.approx(expected, abs=1e-12) and low < found < high
    assert np.arctanh(high) - np.arctanh(low) == pytest.approx(2 * 1.959964 / np.sqrt(36))


def test_there_is_none_of_few_values_or_of_a_line():
    x = np.arange(8.0)
    assert partial_correlation(x[:4], x[:4] ** 2, x[:4] ** 3) is None
    assert partial_correlation(x, x**2, x) is None
