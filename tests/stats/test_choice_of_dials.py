"""The dial that validation chooses, and how sure that is, against the slow textbook form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from corrsteer.stats.choice import RESAMPLES, ahead, choose, search_shares


def answers(n: int, *right: int) -> np.ndarray:
    """Nested: of N questions each candidate answers the first ``right`` right."""
    return np.array([[float(k < count) for k in range(n)] for count in right])


def by_hand(x, sizes):
    """The rule, one candidate after the other."""
    means = [sum(row) / len(row) for row in x]
    best = min(range(len(x)), key=lambda j: (-means[j], abs(sizes[j]), j))
    near = []
    for j, row in enumerate(x):
        d = [a - b for a, b in zip(x[best], row, strict=True)]
        mean = sum(d) / len(d)
        variance = sum((v - mean) ** 2 for v in d) / len(d)
        if mean <= 1e-9 + 1 / len(d) + math.sqrt(variance / max(len(d) - 1, 1)):
            near.append(j)
    return best, min(near, key=lambda j: (abs(sizes[j]), -means[j], j))


@pytest.mark.parametrize(
    ("x", "sizes", "best", "chosen"),
    [
        (answers(26, 12, 14), [1, 2], 1, 0),  # 46.2 against 53.8 %: two questions
        (answers(26, 11, 14), [1, 2], 1, 1),  # three, and all of them one way
        # Three again, but 13 answers differ: the standard error is 3.6 questions.
        (np.hstack([answers(5, 5, 0), answers(8, 0, 8), np.ones((2, 13))]), [1, 2], 1, 0),
        (answers(500, 250, 300), [1, 2], 1, 1),
        (answers(500, 300, 250), [1, 2], 0, 0),
        (answers(100, 50, 50, 50), [2, 1, -0.5], 2, 2),  # equal answers
        (answers(100, 50, 50), [-1, 1], 0, 0),
        (answers(100, 50, 50, 40), [2, 2, 0], 0, 0),
        (answers(400, 200, 201, 202, 203), [1, 2, 4, 8], 3, 1),  # within: 2 of 3 questions
        (answers(1, 0, 1), [1, 2], 1, 0),  # one question
    ],
)
def test_the_smallest_dial_within_one_standard_error(x, sizes, best, chosen):
    found = choose(x, sizes)
    assert by_hand(x.tolist(), sizes) == (best, chosen)
    assert (found.best, found.chosen) == (best, chosen)
    assert sum(found.shares) == pytest.approx(1)
    assert found.behind[best] == found.errors[best] == 0
    assert found.behind[chosen] == pytest.approx(x[best].mean() - x[chosen].mean())


@pytest.mark.long
def test_it_is_the_rule_on_any_answers():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        j, n = rng.integers(1, 6), rng.integers(2, 40)
        x = (rng.random((j, n)) < rng.uniform(0.3, 0.7)).astype(float)
        sizes = rng.choice([0, 0.5, -0.5, 1, 2, 4], size=j).tolist()
        found = choose(x, sizes)
        assert (found.best, found.chosen) == by_hand(x.tolist(), sizes)
        seen.add(found.best == found.chosen)
        d = x[found.best] - x[found.chosen]
        assert found.errors[found.chosen] == pytest.approx(d.std() / np.sqrt(n - 1))
    assert seen == {True, False}


def test_shares_are_those_of_the_rule_on_resampled_questions():
    rng = np.random.default_rng(1)
    x = (rng.random((3, 40)) < np.array([[0.5], [0.55], [0.6]])).astype(float)
    sizes = [1, 2, 4]
    counts = np.zeros(3)
    for _ in range(1500):
        counts[by_hand(x[:, rng.integers(40, size=40)].tolist(), sizes)[1]] += 1
    found = choose(x, sizes)
    assert RESAMPLES >= 1000
    assert found.shares == pytest.approx(counts / 1500, abs=0.06)  # 3 standard errors of each
    assert min(found.shares) > 0.02
    assert choose(x, sizes) == found and choose(x, sizes, seed=1).shares != found.shares


def test_a_smaller_dial_of_another_plan_is_not_preferred():
    x = answers(400, 201, 201, 203)
    assert choose(x, [1, 2, 4]).chosen == 0
    assert choose(x, [1, 2, 4], ["A", "B", "B"]).chosen == 1
    assert choose(x, [1, 2, 4], ["A", "A", "B"]).chosen == 2


def test_shares_of_a_search_are_those_of_its_rule():
    """Breiman's rule, one resample after the other, with the search's own function."""
    from corrsteer.methods.study import Candidate, Trial
    from corrsteer.methods.study import choose as chosen_by_search

    rng = np.random.default_rng(2)
    base = (rng.random(60) < 0.5).astype(float)
    right = (rng.random((3, 60)) < np.array([[0.7], [0.66], [0.6]])).astype(float)
    right[1] = np.maximum(right[1], base * (rng.random(60) < 0.8))
    right[2] = np.maximum(right[2], base)
    counts = np.zeros(3)
    for _ in range(1500):
        rows = rng.integers(60, size=60)
        trials = [
            Trial(k, Candidate(1.0, "max", {}), r[rows].mean(), int((base * (1 - r))[rows].sum()))
            for k, r in enumerate(right)
        ]
        front = sorted(trials, key=lambda t: -t.accuracy)  # of any order, the best one first
        counts[chosen_by_search(front, 60).number] += 1
    assert sorted(counts)[-2] > 50  # no foregone conclusion
    assert search_shares(right, base) == pytest.approx(counts / 1500, abs=0.06)


def test_how_often_it_is_ahead():
    base, better = answers(26, 12, 14)
    # Ahead unless neither of the two questions is drawn.
    assert ahead(better, base) == pytest.approx(1 - (24 / 26) ** 26, abs=0.03)
    assert ahead(base, base) == 0 == ahead(base, better)
    assert ahead(*answers(500, 400, 100)) == 1
