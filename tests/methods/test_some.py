"""Some layers of a plan, as long together as all of them."""

from __future__ import annotations

import numpy as np
import pytest

from corrsteer.errors import ConfigError
from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.methods.some import Some, of_some
from corrsteer.steering.plan import Plan, PlanEntry


def plan():
    norms, r = {1: 4.0, 3: 1.0, 5: 5.0}, {1: 0.2, 3: 0.9, 5: 0.5}
    return Plan(
        tuple(PlanEntry(n, n, r[n], 2.0, np.float32([norm, 0])) for n, norm in norms.items())
    )


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        ("all", [1, 3, 5]),
        ("depth_2", [1, 3]),
        ("r_1", [3]),
        ("r_2", [3, 5]),
        ("depth_9", [1, 3, 5]),
    ],
)
def test_the_first_of_an_order_steer_with_the_total_length_of_all(layers, kept):
    made = of_some(plan(), layers, 0)
    assert [e.layer for e in made.entries] == kept
    assert sum(e.norm for e in made.entries) == pytest.approx(10.0)
    shares = [e.norm / e.coefficient for e in made.entries]  # the directions are what they were
    assert shares == pytest.approx([e.norm / 2.0 for e in plan().entries if e.layer in kept])


def test_a_random_order_is_one_whatever_its_length():
    orders = set()
    for draw in range(1, 9):
        some = [
            {e.layer for e in of_some(plan(), f"random_{draw}_{n}", 7).entries} for n in (1, 2, 3)
        ]
        assert some[0] < some[1] < some[2] == {1, 3, 5}
        orders.add((*some[0], *(some[1] - some[0])))
    assert len(orders) > 2


@pytest.mark.parametrize("layers", ["", "3", "r_0", "random_2", "random_0_1", "depth", "alls"])
def test_other_words_are_refused(layers):
    with pytest.raises(ConfigError, match="strategy.layers=.*such as strategy.layers=r_2"):
        Some(CorrSteer(), 1.0, layers)
