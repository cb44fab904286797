"""Logistic regression with a ridge penalty, chosen by cross-validation, and the area under the ROC
curve. Cost: fits in at most as many dimensions as there are samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10000.0)
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Fit:
    """``sigmoid(x @ row + offset)`` is the probability of true. ``penalty``: of the standardised
    row's square, half of it. ``auroc``: of the folds that were left out; nan where one class is
    missing."""

    row: np.ndarray
    offset: float
    penalty: float
    auroc: float


def auroc(score: np.ndarray, true: np.ndarray) -> float:
    """The chance that a true sample has the higher score, ties half; nan without both classes."""
    from scipy.stats import rankdata

    n, n_true = len(true), int(np.sum(true))
    if n_true in (0, n):
        return float("nan")
    above = float(rankdata(score)[true].sum()) - n_true * (n_true + 1) / 2
    return above / (n_true * (n - n_true))


def fit(x: np.ndarray, true: np.ndarray, seed: int) -> Fit:
    """``x`` [N, D], ``true`` [N] bool with both values. The penalty with the least log loss on the
    folds that are left out, the largest of equals."""
    x = np.asarray(x, np.float64)
    mean, sd = x.mean(0), x.std(0)
    sd[sd == 0] = 1.0
    # A ridge fit lies in the span of the samples: as many dimensions as these are enough.
    basis = None
    z = (x - mean) / sd
    if z.shape[1] > len(z):
        left, values, basis = np.linalg.svd(z, full_matrices=False)
        z = left * values
    fold = np.random.default_rng(seed).permutation(len(z)) % FOLDS
    tried = []
    for penalty in sorted(PENALTIES, reverse=True):
        out = np.zeros(len(z))
        for n in range(FOLDS):
            w, b = minimised(z[fold != n], true[fold != n], penalty)
            out[fold == n] = z[fold == n] @ w + b
        tried.append((_log_loss(out, true), penalty, out))
    _, penalty, out = min(tried, key=lambda one: one[0])
    w, b = minimised(z, true, penalty)
    row = (w if basis is None else w @ basis) / sd
    return Fit(row, float(b - mean @ row), penalty, auroc(out, true))


def minimised(z: np.ndarray, true: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """The row and the offset with the least sum of log losses and half the penalty times the row's
    square."""
    from scipy.optimize import minimize

    sign = np.where(true, 1.0, -1.0)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (z @ w[:-1] + w[-1])
        # -d/dm log(1 + exp(-m)), without overflow
        slope = -sign * np.exp(-np.logaddexp(0, margin))
        gradient = np.append(slope @ z + penalty * w[:-1], slope.sum())
        return float(np.logaddexp(0, -margin).sum() + penalty / 2 * w[:-1] @ w[:-1]), gradient

    found: Any = minimize(loss, np.zeros(z.shape[1] + 1), jac=True, method="L-BFGS-B")
    return found.x[:-1], float(found.x[-1])


def _log_loss(logits: np.ndarray, true: np.ndarray) -> float:
    return float(np.logaddexp(0, np.where(true, -logits, logits)).mean())
