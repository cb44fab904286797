"""Several plans of one table against their draws: error rates by simulation, and power."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from corrsteer.stats.joint import Drawn, best_of, joint_p


def alone(gain: float, draws: list[float]) -> float:
    return (1 + sum(draw >= gain for draw in draws)) / (1 + len(draws))


def plan(gain: float, draws: list[float], n: int = 2000) -> Drawn:
    return Drawn(gain, draws, n, alone(gain, draws))


def table(rng: np.random.Generator, effects: list[float]) -> list[Drawn]:
    """A plan per effect: gains of random plans with a long tail of harm, as they have."""
    plans = []
    for effect in effects:
        scale = rng.uniform(0.005, 0.05)
        gains = scale * rng.normal(size=40)
        gains -= np.where(rng.random(40) < 0.3, 10 * scale * rng.random(40), 0)
        plans.append(plan(float(gains[0] + effect * scale), gains[1:].tolist()))
    return plans


def test_one_plan_has_its_own_p() -> None:
    draws = [0.01 * k for k in range(39)]
    for gain in (-0.1, 0.2, 0.37, 0.5):
        assert joint_p([plan(gain, draws)]) == [alone(gain, draws)]
    assert joint_p([]) == []


@pytest.mark.long
def test_a_table_without_an_effect_has_a_false_alarm_in_at_most_5_percent() -> None:
    rng = np.random.default_rng(0)
    alarms = [min(joint_p(table(rng, [0.0] * 7))) <= 0.05 for _ in range(1500)]
    assert 0.02 < np.mean(alarms) < 0.05 + 3 * (0.05 * 0.95 / 1500) ** 0.5


def test_effects_elsewhere_cause_no_false_alarm_and_are_found() -> None:
    """Where Holm's multiplication could never be below 7/40."""
    rng = np.random.default_rng(1)
    p = np.array([joint_p(table(rng, [0.0] * 5 + [6.0] * 2)) for _ in range(400)])
    assert (p[:, :5].min(axis=1) <= 0.05).mean() < 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
    assert (p[:, 5:] <= 0.05).mean() > 0.8


def test_corrected_p_values_are_no_smaller_and_keep_their_order() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        plans = table(rng, rng.normal(0, 4, size=5).tolist())
        p = joint_p(plans)
        assert all(a >= b.p for a, b in zip(p, plans, strict=True))
        assert joint_p(plans[::-1]) == pytest.approx(p[::-1])


def test_draws_that_ended_early_are_used_again() -> None:
    good = plan(0.5, [0.01 * k for k in range(39)])
    ended = Drawn(0.0, [0.1] * 10, 2000, 1.0)
    first, second = joint_p([good, ended])
    assert first == 1 / 40 and second == 1.0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_best_of_several_draws_is_the_mean_over_all_resamples(n: int) -> None:
    draws = [-0.2, 0.01, 0.03, 0.3]
    every = [max(some) for some in itertools.product(draws, repeat=n)]
    assert best_of(draws, n) == pytest.approx(np.mean(every))
    assert best_of(draws, 1000) == pytest.approx(0.3)
