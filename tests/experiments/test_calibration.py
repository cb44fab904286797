"""The calibration on answers made by hand: chains without an effect, and with one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from corrsteer.stats.claims import Claim
from corrsteer.stats.intervals import holm
from corrsteer.stats.joint import joint_p
from experiments.calibration import measure
from experiments.calibration.chains import OTHERS, TABLE, Pool, chains, covered, false_tables, said

pytestmark = pytest.mark.long

DRAWS = 39


def pool_of(
    n: int, plans: int, bias: float = 0.0, seed: int = 0, chosen: int = 1 + DRAWS, most: float = 0.3
) -> Pool:
    """Each plan turns 2 to 30 % of the answers, in a direction of its own; those that were chosen
    turn up to ``most``, and ``bias`` more of them up."""
    rng = np.random.default_rng(seed)
    base = rng.random(n) < 0.6

    def plan(extra: float, most: float = 0.3) -> np.ndarray:
        rate, up = rng.uniform(0.02, most), np.clip(rng.normal(0.5, 0.3), 0, 1)
        changed = rng.random(n) < np.where(base, rate * (1 - up), rate * up + extra)
        return base ^ changed

    drawn = np.stack([plan(0.0) for _ in range(plans)])
    return Pool(base, drawn, np.stack([plan(bias, most) for _ in range(chosen)]))


@pytest.mark.parametrize("n_chains", [200, pytest.param(3_000, marks=pytest.mark.night)])
def test_without_an_effect_little_is_claimed_where_the_old_rule_claimed_much(n_chains) -> None:
    counts = dict.fromkeys(("raises", "beats all", "McNemar and best of 5 draws"), 0)
    pools = 10  # one pool's plans are the same in all of its chains
    for seed in range(pools):
        pool = pool_of(300, 1 + DRAWS + OTHERS + 20, seed=seed)
        rng = np.random.default_rng(seed)
        found = said(list(chains(pool, n_chains // pools, DRAWS, rng)))
        for what in counts:
            counts[what] += found[what]
    assert binomtest(counts["raises"], n_chains, 0.05, alternative="greater").pvalue > 0.01
    assert counts["beats all"] <= counts["raises"] < counts["McNemar and best of 5 draws"]
    assert counts["McNemar and best of 5 draws"] > 0.08 * n_chains


def test_a_planted_effect_is_found_and_its_size_is_what_was_planted() -> None:
    pool = pool_of(400, 60)
    rng = np.random.default_rng(0)
    (one,) = chains(pool, 1, DRAWS, np.random.default_rng(5))
    (more,) = chains(pool, 1, DRAWS, np.random.default_rng(5), planted=0.1)
    assert more.gain - one.gain == pytest.approx(0.1)
    assert (one.draws == more.draws).all()
    found = [c.claim for c in chains(pool, 60, DRAWS, rng, planted=0.35)]
    assert np.mean([claim is Claim.RAISES for claim in found]) > 0.8


def test_what_was_chosen_on_shuffled_outcomes_takes_the_plans_place() -> None:
    pool = pool_of(300, 60, bias=0.5)
    found = list(chains(pool, 20, DRAWS, np.random.default_rng(0), chosen=True))
    assert len(found) == len(pool.chosen) and min(c.gain for c in found) > 0.1
    # Others of them are its draws, and random features the others.
    assert all(len(c.shuffled) == DRAWS and c.drawn_shuffled.p > c.drawn.p for c in found[:5])


@pytest.mark.night
def test_a_selection_that_favours_strong_features_needs_its_own_null() -> None:
    """Random features, which flip less, would call many of its plans a gain."""
    chains_of, counts = 200, dict.fromkeys(("raises", "random features alone"), 0)
    for seed in range(4):
        pool = pool_of(300, 60, seed=seed, chosen=chains_of // 4, most=0.6)
        found = list(chains(pool, 0, DRAWS, np.random.default_rng(seed), chosen=True))
        assert len(found) == chains_of // 4
        for what, count in said(found).items():
            counts[what] = counts.get(what, 0) + count
    naive = counts["random features alone"]
    assert binomtest(naive, chains_of, 0.05, alternative="greater").pvalue < 1e-4
    assert binomtest(counts["raises"], chains_of, 0.05, alternative="greater").pvalue > 0.01


def test_intervals_hold_the_pools_values() -> None:
    held = covered(pool_of(2_000, 40), 150, 100, np.random.default_rng(0))
    assert sorted(held) == ["SER", "accuracy", "difference", "gain"]
    for name, (count, of) in held.items():
        assert binomtest(count, of, 0.95, alternative="less").pvalue > 0.01, name


def test_the_table_states_what_was_promised_beside_what_was_found(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "pool", lambda words: pool_of(120, 50))
    for name, size in (("CHAINS", 10), ("TABLES", 2), ("SAMPLES", 20)):
        monkeypatch.setattr(measure, name, size)
    rows = measure.main([])
    assert (tmp_path / "outputs/calibration/calibration.html").stat().st_size > 1_000
    assert list(rows.columns) == measure.COLUMNS
    assert ((rows["low"] <= rows["rate"]) & (rows["rate"] <= rows["high"])).all()
    random = rows[rows["data"] == "a random plan"].set_index("what")
    assert random["promised"].to_dict()["raises"] == 0.05
    assert np.isnan(random["promised"].to_dict()["McNemar alone"])
    assert "7 random plans in a table" in set(rows["data"])


def test_a_table_is_corrected_as_a_sweeps_is(monkeypatch) -> None:
    """39 draws, as a run has: Holm alone could claim nothing of seven."""
    rng = np.random.default_rng(0)
    rows = list(chains(pool_of(400, 60), TABLE, DRAWS, rng, planted=0.35))
    assert min(holm([c.null_p for c in rows])) > 0.05
    assert min(joint_p([c.drawn for c in rows])) <= 0.05
    monkeypatch.setattr("experiments.calibration.chains.chains", lambda *_, **__: iter(rows))
    assert false_tables(pool_of(400, 60), 1, rng) == 1
