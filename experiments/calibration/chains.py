"""Chains without an effect, and with one that was planted: what is said of them, and how often.

A chain is a plan, its draws and a set of questions. All are taken from a pool of answers that were
made once: whether each of N questions is answered right without steering, under each of many plans
of random features, and under each of many plans that a selection on shuffled outcomes chose. The
plan of a chain is one of these at random, so there is nothing to find, and its draws are others of
both kinds; its questions are drawn from the pool with replacement, so the truth is the pool's.
Pure functions of arrays of right and wrong answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from corrsteer.stats.claims import Claim, beats_all, decide
from corrsteer.stats.draws import counted, monte_carlo_p
from corrsteer.stats.intervals import (
    better_p,
    difference_ci,
    holm,
    mcnemar_exact,
    proportion_ci,
    ser_ci,
)
from corrsteer.stats.joint import Drawn, joint_p, joint_second
from corrsteer.steering.controls import DRAWS

STOP, OTHERS, OLD_DRAWS, TABLE = 10, 2, 5, 7
"""Draws as good that end drawing; other controls of a chain; draws of the rule that was given up;
questions of a table."""
PROMISED = 0.05


@dataclass(frozen=True)
class Pool:
    """``base`` [N], ``drawn`` [R, N], ``chosen`` [S, N]: right answers without steering, of plans
    of random features, and of plans that a selection on shuffled outcomes chose."""

    base: np.ndarray
    drawn: np.ndarray
    chosen: np.ndarray


@dataclass(frozen=True)
class Chain:
    """Right answers to the same n questions: ``base`` and ``plan`` [n]; ``draws`` of random
    features, ``shuffled``, those of a selection on shuffled outcomes, and ``others`` [k, n]."""

    base: np.ndarray
    plan: np.ndarray
    draws: np.ndarray
    shuffled: np.ndarray
    others: np.ndarray

    @property
    def gain(self) -> float:
        return float(self.plan.mean() - self.base.mean())

    @property
    def mcnemar_p(self) -> float:
        return mcnemar_exact(*flips(self.base, self.plan))

    @property
    def null_p(self) -> float:
        return max(self.drawn.p, self.drawn_shuffled.p)

    @property
    def drawn(self) -> Drawn:
        return self._drawn(self.draws)

    @property
    def drawn_shuffled(self) -> Drawn:
        return self._drawn(self.shuffled)

    def _drawn(self, draws: np.ndarray) -> Drawn:
        """The draws that a run would have made: it stops at :data:`STOP` as good ones."""
        good = list(draws.sum(1) >= self.plan.sum())
        gains = draws[: counted(good, STOP)].mean(1) - self.base.mean()
        return Drawn(self.gain, gains.tolist(), len(self.base), monte_carlo_p(good, STOP))

    @property
    def random_alone(self) -> Claim:
        """What a run would say that had random features only."""
        return decide(self.gain, self.mcnemar_p, self.drawn.p, draws=len(self.draws))

    @property
    def claim(self) -> Claim:
        return decide(self.gain, self.mcnemar_p, self.null_p, draws=len(self.draws))

    @property
    def beats_all(self) -> bool:
        return beats_all(self.claim, [better_p(*flips(other, self.plan)) for other in self.others])


def flips(before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    return int((after & ~before).sum()), int((before & ~after).sum())


def chains(
    pool: Pool,
    n_chains: int,
    draws: int,
    rng: np.random.Generator,
    *,
    chosen: bool = False,
    planted: float = 0.0,
) -> Iterator[Chain]:
    """``chosen``: the plans are those that a selection on shuffled outcomes chose, each in one
    chain, however many chains are asked for: few plans in many chains would look like many.
    ``planted``: a share of the questions that the plan turns right besides, as a feature would
    that is the outcome."""
    n = len(pool.base)
    for number in range(len(pool.chosen) if chosen else n_chains):
        rows = rng.integers(n, size=n)
        order = rng.permutation(len(pool.drawn))[: 1 + draws + OTHERS]
        assert len(order) == 1 + draws + OTHERS, "too few plans in the pool for so many draws"
        taken = pool.drawn[order][:, rows]
        shuffled = rng.permutation(
            np.setdiff1d(range(len(pool.chosen)), [number] if chosen else [])
        )
        assert len(shuffled) >= draws, "too few plans in the pool that were chosen"
        plan = pool.chosen[number][rows] if chosen else taken[0]
        if planted:
            wrong = np.flatnonzero(~plan)
            plan = plan.copy()
            plan[rng.permutation(wrong)[: round(planted * n)]] = True
        shuffled = pool.chosen[shuffled[:draws]][:, rows]
        yield Chain(pool.base[rows], plan, taken[1 : 1 + draws], shuffled, taken[1 + draws :])


def said(found: list[Chain]) -> dict[str, int]:
    """How many of the chains each thing was said of."""
    old = [c for c in found if c.gain > 0 and c.mcnemar_p < PROMISED]
    return {
        "raises": sum(c.claim is Claim.RAISES for c in found),
        "beats all": sum(c.beats_all for c in found),
        "random features alone": sum(c.random_alone is Claim.RAISES for c in found),
        "McNemar alone": len(old),
        f"McNemar and best of {OLD_DRAWS} draws": sum(
            c.plan.sum() > c.draws[:OLD_DRAWS].sum(1).max() for c in old
        ),
    }


def false_tables(pool: Pool, tables: int, rng: np.random.Generator, *, chosen: bool = False) -> int:
    """Of so many tables of seven questions without an effect, how many claim one somewhere, with
    p-values corrected over the seven as a sweep's are."""
    wrong = 0
    for _ in range(tables):
        some = pool
        if chosen:  # the first seven of a pool are its plans in turn
            some = replace(pool, chosen=pool.chosen[rng.permutation(len(pool.chosen))])
        rows = list(islice(chains(some, TABLE, DRAWS, rng, chosen=chosen), TABLE))
        first, second = [c.drawn for c in rows], [c.drawn_shuffled for c in rows]
        p = holm([c.mcnemar_p for c in rows])
        null = map(max, joint_p(first), joint_second(first, second))
        claims = [decide(c.gain, a, b) for c, a, b in zip(rows, p, null, strict=True)]
        wrong += Claim.RAISES in claims
    return wrong


def covered(
    pool: Pool, samples: int, n: int, rng: np.random.Generator
) -> dict[str, tuple[int, int]]:
    """Of ``samples`` of n questions, how many intervals hold the pool's value, and of how many:
    where nothing flips, SER has none."""
    held: dict[str, list[bool]] = {"accuracy": [], "gain": [], "difference": [], "SER": []}
    for _ in range(samples):
        rows = rng.integers(len(pool.base), size=n)
        one, other = pool.drawn[rng.permutation(len(pool.drawn))[:2]]
        changes = {"gain": (pool.base, one), "difference": (other, one)}
        for name, (before, after) in changes.items():
            change = after.astype(float) - before
            low, high = difference_ci(change[rows])
            held[name].append(low <= float(change.mean()) <= high)
        low, high = proportion_ci(int(one[rows].sum()), n)
        held["accuracy"].append(low <= float(one.mean()) <= high)
        fixed, broken = flips(pool.base, one)
        if interval := ser_ci(*flips(pool.base[rows], one[rows])):
            held["SER"].append(interval[0] <= broken / (fixed + broken) <= interval[1])
    return {name: (sum(hits), len(hits)) for name, hits in held.items() if hits}
