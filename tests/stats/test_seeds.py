"""Several seeds of one experiment: by seed, and by sample."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from corrsteer.stats.intervals import difference_ci, mcnemar_exact
from corrsteer.stats.seeds import gain_by_sample, over_seeds, sign_flip_p


def arm(right: dict[str, bool | None]) -> pd.DataFrame:
    """None: invalid, whatever its score says."""
    return pd.DataFrame(
        {
            "id": list(right),
            "score": [1.0 if r is None else float(r) for r in right.values()],
            "invalid": [r is None for r in right.values()],
        }
    )


def test_over_seeds():
    values = [0.1, 0.4, 0.2, 0.25]
    mean, sd = over_seeds(values)
    assert mean == pytest.approx(np.mean(values)) and sd == pytest.approx(np.std(values, ddof=1))
    assert over_seeds([0.3]) == (0.3, None)
    assert over_seeds([0.3, 0.3]) == (pytest.approx(0.3), pytest.approx(0))


def test_three_seeds_by_hand():
    """a is fixed in two of three seeds, b broken in its only one, c gains and loses, d is read."""
    pairs = [
        (arm({"a": False, "b": True, "c": False}), arm({"c": True, "b": False, "a": True})),
        (arm({"a": False, "c": True}), arm({"a": True, "c": None})),
        (arm({"a": True, "d": None}), arm({"d": True, "a": True})),
    ]
    found = gain_by_sample(pairs)
    gains = [2 / 3, -1, 0, 1]
    assert (found.n, found.repeated) == (4, 2)
    assert found.gain == pytest.approx(np.mean(gains))
    assert found.ci == pytest.approx(difference_ci(gains))
    # The signs of 2/3, 1 and 1 give sums of +-2/3, +-4/3 and +-8/3: none is nearer to 0 than 2/3.
    assert found.p == pytest.approx(1)
    assert found == gain_by_sample(pairs[::-1])


def test_one_seed_is_mcnemars_test():
    right = {f"q{i}": i % 3 == 0 for i in range(300)}
    after = {f"q{i}": (i % 3 == 0) != (i % 7 == 0) for i in range(300)}
    found = gain_by_sample([(arm(right), arm(after))])
    fixed = sum(after[q] and not right[q] for q in right)
    broken = sum(right[q] and not after[q] for q in right)
    assert (found.n, found.repeated) == (300, 0)
    assert found.gain == pytest.approx((fixed - broken) / 300)
    assert found.p == pytest.approx(mcnemar_exact(fixed, broken), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_p_agrees_with_scipy_and_with_all_signs(seed):
    """Gains of up to three seeds, in sixths."""
    gains = np.random.default_rng(seed).choice([-6, -3, -2, 0, 0, 2, 3, 4, 6], size=11)
    want = sps.permutation_test(
        (gains,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    ).pvalue
    sums = np.array([np.dot(signs, gains) for signs in product([-1, 1], repeat=11)])
    assert sign_flip_p(gains) == pytest.approx(np.mean(abs(sums) >= abs(gains.sum())), abs=1e-12)
    assert sign_flip_p(gains) == pytest.approx(min(want, 1), abs=1e-12)
    assert sign_flip_p(-gains) == pytest.approx(sign_flip_p(gains), abs=1e-12)


def test_p_of_many_samples_agrees_with_drawn_signs():
    rng = np.random.default_rng(0)
    gains = rng.choice([-6, -3, 0, 2, 3, 6], p=[0.05, 0.05, 0.75, 0.05, 0.05, 0.05], size=900)
    drawn = sps.permutation_test(
        (gains,), np.mean, permutation_type="samples", n_resamples=5_000, vectorized=True,
        batch=1_000, rng=np.random.default_rng(1),
    ).pvalue  # fmt: skip
    p = sign_flip_p(gains)
    assert 1e-3 < p < 0.5
    assert drawn == pytest.approx(p, abs=4 * np.sqrt(p / 5_000))


def test_p_without_change_is_one_and_never_zero():
    assert sign_flip_p(np.zeros(50, dtype=int)) == 1
    assert sign_flip_p(np.array([3, -3])) == 1
    assert sign_flip_p(np.ones(2_000, dtype=int)) == 1e-12


def test_arms_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="1 ids are in only one"):
        gain_by_sample([(arm({"a": True}), arm({"a": True, "b": True}))])
