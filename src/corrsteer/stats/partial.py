"""Partial correlation of two numbers given a third. Cost: microseconds."""

from __future__ import annotations

import numpy as np

FEWEST = 5
"""With fewer values there is no interval."""


def partial_correlation(
    x: np.ndarray, y: np.ndarray, given: np.ndarray
) -> tuple[float, tuple[float, float]] | None:
    """Of ``x`` and ``y`` [N], ``given`` [N] taken out of both by least squares, and its 95 %
    interval by Fisher's z with N - 4 degrees of freedom. None for fewer than ``FEWEST`` values, or
    where one is a straight line of ``given``."""
    if len(x) < FEWEST:
        return None
    design = np.stack([np.ones(len(x)), given], axis=1).astype(np.float64)
    rest = []
    for values in (x, y):
        left = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
        if np.linalg.norm(left) <= 1e-9 * max(float(np.linalg.norm(values)), 1e-300):
            return None
        rest.append(left / np.linalg.norm(left))
    r = float(np.clip(rest[0] @ rest[1], -1.0, 1.0))
    z, half = np.arctanh(np.clip(r, -0.999999, 0.999999)), 1.959964 / np.sqrt(len(x) - 4)
    return r, (float(np.tanh(z - half)), float(np.tanh(z + half)))
