"""Logistic regression and AUROC, against slow textbook forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from corrsteer.stats.logistic import PENALTIES, auroc, fit, minimised


def made(n=60, d=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.arange(1, d + 1) + 3
    return x, (x[:, 0] - 3 + rng.logistic(size=n)) > 0


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(1)
    score, true = rng.integers(0, 6, 50).astype(float), rng.random(50) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in score[true] for b in score[~true]]
    assert auroc(score, true) == pytest.approx(np.mean(pairs))
    assert math.isnan(auroc(score, np.ones(50, bool)))


def test_what_is_minimised_has_no_slope():
    """At the least loss the gradient is nought: sum (p - y) z + penalty w, and sum (p - y)."""
    x, true = made()
    for penalty in (0.5, 20.0):
        w, b = minimised(x, true, penalty)
        error = 1 / (1 + np.exp(-(x @ w + b))) - true
        assert np.abs(error @ x + penalty * w).max() < 0.02 and abs(error.sum()) < 0.02


def test_a_fit_is_the_same_in_the_span_of_few_samples():
    """More dimensions than samples: the ridge fit of the same penalty, in the original space."""
    x, true = made(n=20, d=30)
    found = fit(x, true, 0)
    z = (x - x.mean(0)) / x.std(0)
    w, b = minimised(z, true, found.penalty)
    np.testing.assert_allclose(x @ found.row + found.offset, z @ w + b, atol=0.02)
    assert found.penalty in PENALTIES


def test_what_knows_is_told_from_what_does_not():
    x, true = made(n=400)
    assert fit(x, true, 0).auroc > 0.65
    shuffled = np.random.default_rng(2).permutation(true)
    assert abs(fit(x, shuffled, 0).auroc - 0.5) < 0.1
    assert np.abs(fit(x, shuffled, 0).row).max() < np.abs(fit(x, true, 0).row).max()
