"""The null by drawing, and what may be said of a gain beside it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from corrsteer.stats.claims import Claim, beats_all, decide, least_draws
from corrsteer.stats.draws import band, chunk_end, counted, monte_carlo_p
from corrsteer.stats.intervals import better_p, holm, mcnemar_exact


@pytest.mark.parametrize(
    ("good", "stop", "p"),
    [
        ("." * 39, 10, 1 / 40),
        ("." * 19, 10, 1 / 20),
        ("." * 38 + "x", 10, 2 / 40),
        (".", None, 1 / 2),
        ("x", None, 1.0),
        ("x" * 10, 10, 10 / 10),
        (".x" * 10, 10, 10 / 20),
        (".x" * 10 + "." * 19, 10, 10 / 20),  # what was made after the end is not looked at
        (".x" * 9, 10, 10 / 19),
        (".x" * 10 + "." * 19, None, 11 / 40),
    ],
)
def test_the_p_value_is_that_of_besag_and_clifford(good: str, stop: int | None, p: float) -> None:
    assert monte_carlo_p([c == "x" for c in good], stop) == pytest.approx(p)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 12), st.data())
def test_what_is_drawn_after_the_end_changes_nothing(good, stop, data) -> None:
    n = counted(good, stop)
    assert n == len(good) or sum(good[:n]) == stop and good[n - 1]
    if sum(good) >= stop:
        more = data.draw(st.lists(st.booleans(), max_size=20))
        assert monte_carlo_p(good[:n] + more, stop) == monte_carlo_p(good, stop)
    assert 0 < monte_carlo_p(good, stop) <= 1


@settings(deadline=None)
@given(st.integers(0, 500), st.none() | st.integers(1, 20))
def test_chunks_reach_the_end_and_the_first_can_end_it(asked, stop) -> None:
    done, chunks = 0, []
    while done < asked:
        end = chunk_end(done, asked, stop)
        assert done < end <= asked
        chunks.append(end)
        done = end
    assert len(chunks) <= 6
    if chunks and stop is not None:
        assert chunks[0] == min(asked, stop)


def simulated(rng: np.random.Generator, chains: int, draws: int) -> np.ndarray:
    """[chains, 1 + draws] gains in answers, exchangeable, with ties: the plan's first."""
    centre = rng.normal(size=(chains, 1)) * 3  # what all vectors of that length do in this chain
    return np.round(centre + 4 * rng.normal(size=(chains, 1 + draws))).astype(int)


def p_values(gains: np.ndarray, stop: int | None) -> np.ndarray:
    return np.array([monte_carlo_p(list(row[1:] >= row[0]), stop) for row in gains])


@pytest.mark.parametrize("draws", [19, 39])
@pytest.mark.parametrize("stop", [10, None])
@pytest.mark.parametrize("chains", [1_500, pytest.param(20_000, marks=pytest.mark.night)])
def test_the_null_is_exact_whatever_vectors_of_that_length_do(draws, stop, chains) -> None:
    """Where the plan is one more draw, p is at most any level that often."""
    p = p_values(simulated(np.random.default_rng(0), chains, draws), stop)
    for level in (0.05, 0.1, 0.3, 0.5, 0.8):
        over = binomtest(int((p <= level).sum()), chains, level, alternative="greater")
        assert over.pvalue > 0.001, level
    assert (p <= 0.05).mean() > 0.02  # and not for want of ever being small


@pytest.mark.parametrize("chains", [1_500, pytest.param(20_000, marks=pytest.mark.night)])
def test_ending_early_changes_no_verdict_that_all_draws_would_give(chains: int) -> None:
    """With ten as good of 39 no p-value of at most 5 % is left to be had, so at that level early
    and full drawing say the same; and a plan that is nothing special costs few draws."""
    rng = np.random.default_rng(1)
    gains = simulated(rng, chains, 39)
    gains[::3, 0] += 9  # some plans are something special
    early, full = p_values(gains, 10), p_values(gains, None)
    assert ((early <= 0.05) == (full <= 0.05)).all()
    good = gains[:, 1:] >= gains[:, :1]
    made = np.array([counted(list(row), 10) for row in good])
    assert made[full > 0.5].max() < 39 and made[full > 0.9].mean() < 13


def test_a_plan_worse_than_all_draws_costs_ten() -> None:
    assert counted([True] * 39, 10) == 10


def test_a_band_needs_draws() -> None:
    assert band([0.1] * 9) is None
    assert band(list(range(101))) == (5.0, 95.0)


# -- what may be said --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gain", "p", "null", "claim"),
    [
        (0.1, 0.001, 0.025, Claim.RAISES),
        (0.1, 0.001, 0.05, Claim.RAISES),
        (0.1, 0.001, 0.075, Claim.NO_BETTER),
        (0.1, 0.001, None, Claim.UNTESTED),
        (0.1, 0.05, 0.025, Claim.UNDECIDED),
        (-0.1, 0.001, 1.0, Claim.LOWERS),
        (-0.1, 0.001, None, Claim.LOWERS),
        (-0.1, 0.2, 1.0, Claim.UNDECIDED),
        (0.0, 1.0, 0.025, Claim.UNDECIDED),
    ],
)
def test_claims(gain: float, p: float, null: float | None, claim: Claim) -> None:
    assert decide(gain, p, null) is claim


def test_too_few_draws_say_nothing() -> None:
    """Two draws, both worse: p is 1/3, and could not have been smaller."""
    assert decide(0.1, 0.001, 1 / 3, draws=2) is Claim.UNTESTED
    assert decide(0.1, 0.001, 1 / 20, draws=19) is Claim.RAISES
    assert decide(0.1, 0.001, 3 / 20, draws=19) is Claim.NO_BETTER


def test_beating_all_needs_a_claim_and_every_other_control_below() -> None:
    assert not beats_all(Claim.RAISES, [])  # random features alone
    assert beats_all(Claim.RAISES, [0.001, 0.02, 0.01])
    assert not beats_all(Claim.RAISES, [0.001, 0.03, 0.03])  # times 2 is more than 5 %
    assert not beats_all(Claim.RAISES, [0.001, 0.6])
    for claim in set(Claim) - {Claim.RAISES}:
        assert not beats_all(claim, [0.001])


@pytest.mark.parametrize("questions", [1, 2, 7, 10])
def test_least_draws_can_be_significant_after_correction(questions: int) -> None:
    n = least_draws(questions)
    rest = [1.0] * (questions - 1)
    assert holm([1 / (1 + n), *rest])[0] <= 0.05 + 1e-9 < holm([1 / n, *rest])[0]


# -- error rates of the whole decision ---------------------------------------------------------


def chains(rng: np.random.Generator, n_chains: int, effect: float, n: int = 400, draws: int = 39):
    """Per chain: right answers without steering and of the plan and its draws. Each vector turns
    answers in a direction of its own, as any vector of that length does; the plan's is one more,
    plus ``effect``."""
    for _ in range(n_chains):
        rate = rng.uniform(0.02, 0.4)
        up = np.clip(rng.normal(0.5, 0.25, size=1 + draws), 0.02, 0.98)
        share = rate * np.stack([up, 1 - up], axis=1)
        share[0] += [effect, 0]
        flips = [rng.multinomial(n, [*s, max(0.0, 1 - s.sum())])[:2] for s in share]
        yield np.array(flips)


def said(flips: np.ndarray) -> tuple[Claim, bool]:
    """The claim, and whether the plan is also said to beat two other controls of its kind."""
    gains = flips[:, 0] - flips[:, 1]
    fixed, broken = map(int, flips[0])
    null = monte_carlo_p(list(gains[1:-2] >= gains[0]), 10)
    claim = decide(float(gains[0]), mcnemar_exact(fixed, broken), null, draws=len(gains) - 3)
    others = [better_p(fixed + int(b), broken + int(a)) for a, b in flips[-2:]]
    return claim, beats_all(claim, others)


@pytest.mark.parametrize("n_chains", [300, pytest.param(4_000, marks=pytest.mark.night)])
def test_nothing_is_claimed_of_chains_without_an_effect_more_often_than_promised(n_chains) -> None:
    found = [said(flips) for flips in chains(np.random.default_rng(2), n_chains, 0.0, draws=41)]
    raises = sum(claim is Claim.RAISES for claim, _ in found)
    better = sum(all_ for _, all_ in found)
    assert binomtest(raises, n_chains, 0.05, alternative="greater").pvalue > 0.01
    assert better <= raises
    naive = sum(claim in (Claim.RAISES, Claim.NO_BETTER) for claim, _ in found)
    assert naive > 0.2 * n_chains  # what McNemar's test alone would have called a success


@pytest.mark.parametrize("n_chains", [200, pytest.param(2_000, marks=pytest.mark.night)])
def test_a_table_of_seven_without_an_effect_has_a_false_claim_in_at_most_five_percent(n_chains):
    """Both p-values corrected over the seven: with fewer draws than ``least_draws`` nothing could
    be claimed at all."""
    rng, false, draws = np.random.default_rng(3), 0, least_draws(7)
    for _ in range(n_chains // 4):
        rows = []
        for flips in chains(rng, 7, 0.0, draws=draws):
            gains = flips[:, 0] - flips[:, 1]
            null = monte_carlo_p(list(gains[1:] >= gains[0]), 10)
            rows.append((float(gains[0]), mcnemar_exact(*map(int, flips[0])), null))
        p, null_p = holm([row[1] for row in rows]), holm([row[2] for row in rows])
        claims = [decide(row[0], a, b) for row, a, b in zip(rows, p, null_p, strict=True)]
        false += Claim.RAISES in claims
    assert binomtest(false, n_chains // 4, 0.05, alternative="greater").pvalue > 0.01


def test_an_effect_that_stands_out_is_found() -> None:
    found = [said(flips)[0] for flips in chains(np.random.default_rng(4), 100, 0.35, draws=41)]
    assert np.mean([claim is Claim.RAISES for claim in found]) > 0.8
