"""Which layers validation keeps: variant P, greedy, and one coefficient per layer."""

from __future__ import annotations

import hashlib
from itertools import chain, combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from corrsteer.errors import ConfigError
from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.methods.optimised import Optimised
from corrsteer.methods.search import priced
from corrsteer.methods.study import Candidate, Trial
from corrsteer.methods.variants import Asked, Greedy, Verified, choice, greedy, settled
from corrsteer.records import RIGHT, Score
from corrsteer.report.notes import nothing_steers
from corrsteer.report.record import ABSTAINS
from corrsteer.run.fitted import checked
from corrsteer.stats.flips import FlipTable
from corrsteer.steering.arms import Arm, steered
from tests.report.made_up import made_up
from tests.stages.made import asked, asking_of, bench_of, counted, emptied


def salted(salt):
    """Outcomes of another world: which layers help is another matter in each."""

    def score(example, text):
        digest = hashlib.sha256(f"{salt}{example.id}{text}".encode()).digest()
        return Score(float(digest[0] & 1), text)

    return score


@pytest.fixture
def world(tiny_llama, tiny_saes, tmp_path):
    return lambda salt: bench_of(
        tiny_llama, tiny_saes, tmp_path / "cache", asking=asking_of(salted(salt))
    )


def right(frame):
    return int((frame["score"] >= RIGHT).sum())


# -- variant P -----------------------------------------------------------------------------------

ALL_HELP, ALL_TOGETHER, SOME, NONE = 2, 1, 4, 0  # worlds


@pytest.mark.parametrize(
    ("salt", "kept", "used"),
    [
        (ALL_HELP, (0, 1, 2), (0, 1, 2)),
        (ALL_TOGETHER, (1, 2), (0, 1, 2)),
        (SOME, (1,), (1,)),
    ],
)
def test_p_keeps_what_a_plain_loop_over_single_layers_keeps(
    salt, kept, used, world, tmp_path, monkeypatch
):
    bench = world(salt)
    plan = CorrSteer().fit(bench).plan
    generated = counted(monkeypatch, "generate")
    fitted = Verified(CorrSteer(), 1.0).fit(bench)
    together = len(kept) in (1, 3)  # then it was asked about already
    assert len(generated) == 4 * (1 if together else 2)  # so often is each batch's prompt read
    alone = emptied(bench, tmp_path / "alone")
    base = right(asked(alone, split="validation")["baseline"])
    loop = [
        e.layer
        for e in plan.entries
        if right(
            asked(alone, steered(plan.with_entries((e,))), split="validation")["steered"]
        ) > base
    ]  # fmt: skip
    assert tuple(fitted.choice.kept) == tuple(loop) == kept
    assert tuple(e.layer for e in fitted.plan.entries) == tuple(fitted.choice.used) == used
    assert tuple(f.layer for f in fitted.chosen) == used and fitted.whole.key() == plan.key()
    if used == (0, 1, 2):
        assert fitted.plan.key() == plan.key()  # P with every layer is A
    table = fitted.tables["layers"]
    assert table.loc[table["kept"], "layer"].tolist() == list(kept)
    assert table.loc[table["used"], "layer"].tolist() == list(used)
    made = fitted.choice
    assert made.interaction == pytest.approx(made.joint - made.singles)
    assert made.singles == pytest.approx(table.loc[table["kept"], "gain"].sum())


def test_where_no_layer_is_kept_nothing_steers_and_the_run_goes_on(world):
    bench = world(NONE)
    fitted = checked(Verified(CorrSteer(), 1.0).fit(bench), Verified(CorrSteer(), 1.0), bench)
    assert fitted.choice.kept == fitted.choice.used == []
    assert fitted.plan.coef == 0 and fitted.plan.does_nothing
    assert fitted.choice.joint == fitted.choice.singles == fitted.choice.interaction == 0
    assert Greedy(CorrSteer(), 1.0).fit(bench).choice.used == []
    # A search may find a dial at which they help.
    plain = Verified(CorrSteer(), 1.0).plain(bench, "max").plan
    assert len(plain.entries) == 3 and plain.coef == 1
    # Whoever turns the layers that were kept draws as many others beside them.
    some = Verified(CorrSteer(), 1.0).plain(world(SOME), "max")
    assert len(some.plan.entries) == 1 and len(some.whole.entries) == 3
    said = nothing_steers(made_up(variant="P", choice=fitted.choice.model_dump()))
    assert said.startswith("Nothing is steered: CorrSteer-P") and "keeps no layer" in said


@pytest.mark.parametrize(
    ("kept", "alone", "every", "used"),
    [
        ((), 0, 9, ()),  # nothing helps alone: all together are not asked
        ((1, 3), 5, 4, (1, 3)),
        ((1, 3), 4, 4, (1, 3)),  # of two that do alike, the one with fewer layers
        ((1, 3), 4, 5, (1, 2, 3)),
        ((1, 3), 0, -1, ()),
        ((1, 3), -2, 1, (1, 2, 3)),
        ((1, 3), -2, 0, ()),
        ((1, 2, 3), 4, 4, (1, 2, 3)),
    ],
)
def test_kept_layers_fall_back_to_all_or_to_nothing(kept, alone, every, used):
    net = {(1, 2, 3): every, kept: alone}
    assert settled(kept, (1, 2, 3), net)[0] == used


def flips(fixed, broken):
    return FlipTable(((40 - broken, broken, 0), (fixed, 40 - fixed, 0), (0, 0, 0)))


def test_by_mcnemar_those_are_kept_that_benjamini_and_hochberg_keep():
    rng = np.random.default_rng(0)
    sizes = set()
    for level in (0.05, 0.2):
        for _ in range(40):
            alone = {n: flips(*rng.integers(0, 14, size=2)) for n in range(6)}
            p = {n: 1.0 for n in alone}
            for n, f in alone.items():
                if f.fixed + f.broken:
                    p[n] = binomtest(f.fixed, f.fixed + f.broken, alternative="greater").pvalue
            ordered = sorted(p.values())
            # The largest p that is at most its rank's share of the level, and all below it.
            under = [v for rank, v in enumerate(ordered, 1) if v <= level * rank / len(p)]
            kept = tuple(n for n in alone if under and p[n] <= max(under))
            assert Verified(CorrSteer(), 1.0, "mcnemar", level).kept(alone) == kept
            sizes.add(len(kept))
    assert len(sizes) > 2


# -- greedy --------------------------------------------------------------------------------------

EVERY = (1, 2, 5, 6)
SETS = list(chain.from_iterable(combinations(EVERY, k) for k in range(1, 5)))


@settings(max_examples=200)
@given(st.lists(st.integers(-5, 9), min_size=len(SETS), max_size=len(SETS)))
def test_greedy_never_loses_and_stops_where_no_layer_helps(nets):
    net = dict(zip(SETS, nets, strict=True))
    order, path = greedy(EVERY, lambda sets: {some: net[some] for some in sets})
    assert path == sorted(set(path)) and all(value > 0 for value in path)
    for k in range(len(order) + 1):
        into = {n: net[tuple(sorted([*order[:k], n]))] for n in EVERY if n not in order[:k]}
        if k < len(order):
            assert path[k] == into[order[k]] == max(into.values())
        else:
            assert all(value <= (path[-1] if path else 0) for value in into.values())


def test_greedy_asks_what_it_says(world):
    fitted = Greedy(CorrSteer(), 1.0).fit(world(SOME))
    made = fitted.choice
    assert made.kept == [1, 0] and made.used == [0, 1]
    assert made.unsteered < made.path[0] < made.path[1]
    now = asked(world(SOME), fitted.arm, split="validation")["steered"]
    assert made.path[1] == pytest.approx((now["score"] >= RIGHT).mean())
    assert made.joint == pytest.approx(made.path[1] - made.unsteered)


# -- one coefficient per layer -------------------------------------------------------------------


def optimised(**changes):
    given = {"trials": 8, "batch": 8, "coef": [0, 4], "start": 1.0, "layers": "scale"}
    return Optimised(**{"method": CorrSteer(), **given, "pooling": ["max"], "widen": 0, **changes})


def test_the_trial_that_is_worth_most_is_chosen(world, monkeypatch):
    bench = world(ALL_HELP)
    fitted = optimised(price=0.05).fit(bench)
    trials, chosen = fitted.tables["trials"], fitted.search.chosen
    plan, base = CorrSteer().fit(bench).plan, asked(bench, split="validation")["baseline"]
    was = (base["score"] >= RIGHT).to_numpy()
    worth, arms = [], []
    for t in trials.itertuples():
        scales = {n: getattr(t, f"layer_{n}") for n in (0, 1, 2)}
        candidate = Candidate(t.coef, "max", scales).applied(plan)
        arms.append(Arm(str(t.number), "steered", candidate))
    for now in asked(bench, *arms, split="validation").values():
        good = (now["score"] >= RIGHT).to_numpy()
        stray = (base["parsed"] != now["parsed"]).to_numpy(bool) & (good == was)
        worth.append(good.mean() - 0.05 * ((was & ~good).sum() / was.sum() + stray.mean()))
    assert chosen.number == int(np.argmax(worth)) and len(worth) == 8
    assert fitted.search.price == 0.05 and chosen.number > 0
    assert [a.layer for a in fitted.choice.alone] == [e.layer for e in fitted.plan.entries]
    assert fitted.choice.joint == pytest.approx(chosen.accuracy - fitted.choice.unsteered)
    generated = counted(monkeypatch, "generate")
    assert optimised(price=0.05).fit(bench).plan.key() == fitted.plan.key() and generated == []
    none = optimised(price=50.0).fit(bench)  # nothing is worth that
    assert none.search.chosen.number == 0 and none.plan.does_nothing and none.choice is None
    said = nothing_steers(made_up(variant="optimised", search=none.search.model_dump()))
    assert said.startswith("Nothing is steered") and "lower strategy.price" in said
    assert nothing_steers(made_up(search=none.search.model_dump() | {"price": None})) == ""


def test_a_report_says_that_an_operator_abstained():
    said = nothing_steers(made_up(operator=f"Mera{ABSTAINS}"))
    assert "no threshold of Mera leaves more answers right" in said and "it abstains" in said
    assert nothing_steers(made_up(operator="Mera")) == ""


def test_a_price_is_paid_for_broken_and_for_stray_answers():
    base = pd.DataFrame({"score": [1.0, 1.0, 0.0, 0.0, 0.0]})
    worth = priced(base, 0.5)
    assert worth((0.6, 0, 0)) == 0.6
    assert worth((0.6, 1, 0)) == pytest.approx(0.6 - 0.5 / 2)
    assert worth((0.6, 0, 2)) == pytest.approx(0.6 - 0.5 * 2 / 5)


def test_the_range_is_widened_while_its_end_is_chosen(world, monkeypatch):
    ranges = []

    def study(self, bench, plans, worker, price):
        ranges.append(self.coef)
        base = asked(bench, split="validation")["baseline"]
        high = self.coef[1]
        dial = high if high < 16 else high / 2
        few = [
            Trial(n, Candidate(c, "max", {}), a, 0)
            for n, (c, a) in enumerate([(0, 0.1), (1, 0.2), (dial, 0.5)])
        ]
        return few, base

    monkeypatch.setattr(Optimised, "_study", study)
    bench = world(SOME)
    assert optimised(widen=3, layers="none").fit(bench).plan.coef == 8
    assert ranges == [[0, 4], [0, 8], [0, 16]]
    ranges.clear()
    assert optimised(widen=1, layers="none").fit(bench).plan.coef == 8
    assert ranges == [[0, 4], [0, 8]]


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: Verified(CorrSteer(), 1.0, "gian"), ["strategy.keep=gian", "gain"]),
        (lambda: Verified(CorrSteer(), 1.0, level=1.0), ["strategy.level=1.0", "0.05"]),
        (lambda: Greedy(3, 1.0), ["strategy.method"]),
        (lambda: optimised(price=-1.0), ["strategy.price=-1.0", "at least 0"]),
        (lambda: optimised(widen=-1), ["strategy.widen=-1", "at least 0"]),
        (lambda: optimised(trials=1), ["strategy.trials=1", "type strategy.trials=64"]),
        (lambda: optimised(start=5.0), ["coef=5.0", "strategy.coef=[0,4]"]),
    ],
)
def test_a_wrong_setting_is_one_line(make, parts):
    with pytest.raises(ConfigError) as caught:
        make()
    line = str(caught.value)
    assert "\n" not in line and [part for part in parts if part not in line] == []


def test_a_choice_of_layers_adds_up(world):
    """The interaction of all layers, counted answer by answer."""
    bench = world(SOME)
    plan = CorrSteer().fit(bench).plan
    made = choice(Asked(bench, plan), (2, 0), (0, 2), "so")
    arms = {
        k: steered(plan.with_entries(tuple(e for e in plan.entries if e.layer in k)))
        for k in [(0,), (2,), (0, 2)]
    }
    base = right(asked(bench, split="validation")["baseline"])
    gain = {
        k: (right(asked(bench, arm, split="validation")["steered"]) - base) / 60
        for k, arm in arms.items()
    }
    assert made.joint == pytest.approx(gain[0, 2]) and made.kept == [2, 0] and made.whole is None
    assert made.singles == pytest.approx(gain[0,] + gain[2,])
    assert made.interaction == pytest.approx(gain[0, 2] - gain[0,] - gain[2,])
