"""The answer of an experiment: supported, refuted or undecided, from paired answers."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from corrsteer.report.study import _partial, added, answered, at_the_end, compared, markdown
from corrsteer.report.study_arms import arms, asked_arms, at_equal_norm, lacking_as_long
from corrsteer.report.study_collapse import Excess, excess, said
from corrsteer.report.study_rules import REFUTED, SUPPORTED, UNDECIDED, Asked, Partial
from corrsteer.report.sweep_page import write_sweep_report
from corrsteer.report.terminal import told
from corrsteer.stats.intervals import detectable_gain, holm, mcnemar_exact
from corrsteer.stats.partial import partial_correlation
from tests.report.fabricated_run import fabricate_run

ASKED = Asked("some do better", "A", ("P",), ("subset",))


def frame(right, start=0):
    ids = [f"q{n}" for n in range(start, start + len(right))]
    return pd.DataFrame({"id": ids, "score": np.asarray(right, float), "invalid": False})


def test_rows_are_mcnemars_and_holms():
    rng = np.random.default_rng(0)
    right = {name: rng.random(200) < rate for name, rate in [("A", 0.5), ("P", 0.65), ("S", 0.5)]}
    answers = {name: {(0,): frame(some)} for name, some in right.items()}
    rows = compared(answers, "A", {name: some.mean() for name, some in right.items()})
    p = [
        mcnemar_exact(int((right[n] & ~right["A"]).sum()), int((~right[n] & right["A"]).sum()))
        for n in ("P", "S")
    ]
    assert [row.name for row in rows] == ["P", "S"]
    assert [row.p for row in rows] == pytest.approx(holm(p), abs=1e-9)
    assert [row.gain.gain for row in rows] == pytest.approx(
        [right[n].mean() - right["A"].mean() for n in ("P", "S")]
    )


def test_what_could_be_shown_shrinks_with_the_methods_that_are_compared():
    first, now = frame([0] * 60 + [1] * 340), frame([0] * 40 + [1] * 360)
    some = {name: {0: now[::-1]} for name in ("P", "S", "greedy")}
    rows = compared({"A": {0: first}, **some}, "A", dict.fromkeys(some, 0.5))
    # 20 of 400 answers differ, whatever the order of the rows.
    assert [row.smallest for row in rows] == [detectable_gain(400, 0.05, level=0.05 / 3)] * 3


def table_of(tmp_path, jobs):
    """``jobs``: (method, what was typed, setting, chosen, model, selector) in order; seed 0."""
    rows, results = [], {}
    for n, (method, typed, setting, chosen, model, selector) in enumerate(jobs):
        (tmp_path / str(n)).mkdir()
        (tmp_path / str(n) / "status.json").write_text(
            json.dumps({"state": "done", "overrides": typed.split()})
        )
        about = {"task": "t", "method_name": method, "model": model, "selector": selector}
        results[n] = SimpleNamespace(**about)
        rows.append({"job": n, "seed": 0, "splits_seed": None, "setting": setting})
        rows[-1]["chosen"] = chosen
    return pd.DataFrame(rows), results


def numbers(found):
    return {
        name: [int(job.home.name) for jobs in some.values() for job in jobs]
        for name, some in found.items()
    }


def test_methods_are_compared_under_one_model_and_selector(tmp_path):
    jobs = [
        ("A", "", "1", True, "tiny", "r"),
        ("S", "", "2", True, "tiny", "AUROC"),
        ("P", "", "3", True, "other", "r"),
        ("S", "", "4", True, "tiny", "r"),
    ]
    table, results = table_of(tmp_path, jobs)
    assert numbers(arms(tmp_path, table, results, [])) == {"A": [0], "S": [3]}


def test_arms_are_called_what_was_typed_and_keep_their_dials(tmp_path):
    jobs = [
        ("A", "collect.token_source=prompt coef=1", "1", False, "tiny", "r"),
        ("A", "collect.token_source=prompt coef=2", "1", True, "tiny", "r"),
        ("A", "+collect.token_source=all coef=1", "2", True, "tiny", "AUROC"),
        ("A", "collect.token_source=all coef=1 k=2", "3", True, "tiny", "r"),  # another setting
    ]
    by = ["collect.token_source"]
    table, results = table_of(tmp_path, jobs)
    assert numbers(arms(tmp_path, table, results, by)) == {"prompt": [0, 1], "all": [2]}
    dials = arms(tmp_path, table.assign(setting="1")[:2], results, ["coef"])
    assert numbers(dials) == {"coef 1": [0], "coef 2": [1]}


def test_arms_are_compared_where_both_are_as_long_as_the_better_one():
    def job(norm, validation, chosen=False):
        return SimpleNamespace(norm=norm, validation=validation, chosen=chosen)

    low, high = [job(50.0, 0.5, True), job(100.0, 0.4)], [job(50.0, 0.6), job(100.4, 0.7, True)]
    found = at_equal_norm(
        {0: high, 1: [job(None, 0.9, True)], 2: high}, {0: low, 1: low, 2: low[:1]}
    )
    assert {seed: (a.norm, b.norm) for seed, (a, b) in found.items()} == {0: (100.4, 100.0)}
    (pair,) = at_equal_norm({0: low}, {0: high}).values()
    assert [one.norm for one in pair] == [100.0, 100.4]


def test_an_arm_lacks_the_dial_of_the_better_one_where_dials_mean_the_same_norm():
    def job(coef, validation, chosen=False, norm=10.0, turns=True):
        record = SimpleNamespace(coef=coef)
        about = {"validation": validation, "chosen": chosen, "turns": turns}
        return SimpleNamespace(record=record, norm=coef * norm, **about)

    short, long = [job(1.0, 0.6, True), job(2.0, 0.5)], [job(1.0, 0.5), job(4.0, 0.9, True)]
    assert lacking_as_long({0: short}, {0: long}) == [(short[0], long[1])]
    assert lacking_as_long({0: long}, {0: short}) == [(short[0], long[1])]
    assert lacking_as_long({0: long}, {1: short}) == lacking_as_long({0: short}, {0: short}) == []
    unsteered = [job(0.0, 1.0, True), job(1.0, 0.5)]
    other = [job(1.0, 0.4, norm=7.0), job(4.0, 0.9, True, norm=7.0)]
    still = [job(1.0, 0.6, True, turns=False)]
    for some in ((short, unsteered), (short, other), (still, long)):
        assert lacking_as_long({0: some[0]}, {0: some[1]}) == []


def test_a_dial_at_the_end_of_its_range_is_named():
    def jobs(*dials, chosen, turns=True):
        return [
            SimpleNamespace(record=SimpleNamespace(coef=d), chosen=d == chosen, turns=turns)
            for d in dials
        ]

    inside, one = jobs(1.0, 2.0, 4.0, chosen=2.0), jobs(1.0, chosen=1.0)
    assert at_the_end({"A": {0: inside}, "B": {0: one}}) == ""
    ends = {"A": {0: inside}, "B": {0: inside, 1: jobs(1.0, 2.0, chosen=2.0)}}
    ends["C"] = {0: jobs(1.0, 4.0, 2.0, chosen=1.0)}
    ends["D"] = {0: jobs(0.0, 1.0, chosen=0.0)}  # the unsteered model: nothing lies below
    ends["E"] = {0: jobs(1.0, 2.0, chosen=1.0, turns=False)}  # it has no dial to add to
    assert at_the_end(ends).endswith(": B (2), C (1).")


def test_the_dials_that_were_added_are_named():
    def jobs(**left):
        return [
            SimpleNamespace(record=SimpleNamespace(coef=float(dial[1:])), left=times)
            for dial, times in left.items()
        ]

    assert added({"A": {0: jobs(c1=3, c2=3)}}) == added({"A": {0: jobs(c1=0)}}) == added({}) == ""
    found = {"A": {0: jobs(c1=3, c2=3), 1: jobs(c2=3, c8=1, c4=2)}, "B": {0: jobs(c1=3, c8=1)}}
    assert added(found).endswith(": A (4, 8), B (8).")


def test_only_seeds_that_both_have_are_compared():
    answers = {
        "A": {(0,): frame([0, 0, 1]), (1,): frame([0, 1], 9)},
        "P": {(0,): frame([1, 0, 1]), (2,): frame([1, 1], 20)},
    }
    (row,) = compared(answers, "A", {"P": 0.5})
    assert row.gain.n == 3 and row.gain.gain == pytest.approx(1 / 3)


def answer(gain, n=400, control_p=0.001, flips=100, name="P"):
    """``gain`` more of ``flips`` answers were fixed than broken."""
    fixed = (flips + gain) // 2
    one = frame([0] * fixed + [1] * (n - fixed))
    now = frame([1] * fixed + [0] * (flips - fixed) + [1] * (n - flips))
    rows = compared({"A": {0: one}, name: {0: now}}, "A", {name: 0.5})
    controls = {} if control_p is None else {"subset": control_p}
    return answered(ASKED, [replace(row, controls=controls) for row in rows])


@pytest.mark.parametrize(
    ("gain", "control_p", "expected"),
    [
        (40, 0.001, SUPPORTED),
        (40, 0.2, UNDECIDED),
        (40, None, UNDECIDED),  # nothing was drawn to beat
        (10, 0.001, UNDECIDED),
        (-10, 0.001, UNDECIDED),
        (-40, 0.001, REFUTED),
        (-40, None, REFUTED),
    ],
)
def test_what_decides(gain, control_p, expected):
    made = answer(gain, control_p=control_p)
    assert made.answer == expected
    assert made.sentence.startswith(f"Some do better: {expected} (")
    if abs(gain) == 10:
        assert "smallest gain the data could have shown: 7." in made.sentence
    if expected == UNDECIDED and gain == 40:
        assert "not shown to beat" in made.sentence
    assert made.sentence in markdown(made) and "| P |  | 50.0 |" in markdown(made)


def test_without_the_subject_it_is_undecided():
    made = answer(40, name="other")
    assert made.answer == UNDECIDED
    assert "no job of both P and A is done (compared with A: other)" in made.sentence


# -- each study's rule ---------------------------------------------------------------------------


def row(name, gain, equal=None, flips=60, n=400, **controls):
    """An arm with ``gain`` more of ``flips`` answers fixed than broken against the reference."""

    def pair(more):
        fixed = (flips + more) // 2
        one = frame([0] * fixed + [1] * (n - fixed))
        return one, frame([1] * fixed + [0] * (flips - fixed) + [1] * (n - flips))

    one, now = pair(gain)
    (made,) = compared({"A": {0: one}, name: {0: now}}, "A", {name: 0.5})
    if equal is not None:
        one, now = pair(equal)
        (at,) = compared({"A": {0: one}, name: {0: now}}, "A", {name: 0.5})
        made = replace(made, equal=at.gain, equal_p=at.p)
    return replace(made, controls=controls)


def decided(rule, *rows, subject=(), control=(), own=None, partial=None, **held):
    made = answered(Asked("so it is", "A", subject, control, rule), rows, own, partial, **held)
    assert made.sentence.startswith(f"So it is: {made.answer}")
    return made.answer


DEALT = {"dealt": 0.001, "dosed": 0.001}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("g", -40), row("h", -30)], SUPPORTED),
        ([row("g", -40), row("h", -4)], UNDECIDED),  # one is not shown to be worse
        ([row("g", -40), row("h", 40, **DEALT)], REFUTED),
        ([row("g", 40, dealt=0.001)], UNDECIDED),  # no equal dose was asked
        ([row("g", 40, dealt=0.001, dosed=0.2)], UNDECIDED),
        ([], UNDECIDED),
    ],
)
def test_gates_are_worse_if_all_are_and_better_beside_their_controls(rows, expected):
    assert decided("gates", *rows, control=("dealt", "dosed")) == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("auroc", -10, n=4000), row("random", -40, n=4000)], SUPPORTED),
        ([row("auroc", 4), row("random", -40)], UNDECIDED),  # two points more is possible
        ([row("auroc", 0, n=4000), row("random", -4, n=4000)], UNDECIDED),  # chance does as well
        ([row("auroc", 0, n=4000)], UNDECIDED),
        ([row("auroc", 40), row("random", -40)], REFUTED),
        ([row("auroc", 40, equal=-2), row("random", -40)], UNDECIDED),  # it pushes harder
        ([row("auroc", 40, equal=40), row("random", -40)], REFUTED),
        ([row("random", -40)], UNDECIDED),
    ],
)
def test_a_selector_is_enough_if_no_other_gains_and_chance_is_worse(rows, expected):
    assert decided("selectors", *rows, control=("random",)) == expected


def test_a_source_is_better_only_if_it_is_so_at_equal_norm():
    for equal, expected in ((None, SUPPORTED), (40, SUPPORTED), (4, UNDECIDED), (-40, UNDECIDED)):
        one = row("P", 40, equal, subset=0.001)
        assert decided("better", one, subject=("P",), control=("subset",)) == expected
    assert decided("better", row("P", -40, -40), subject=("P",)) == REFUTED


@pytest.mark.parametrize(
    ("rows", "own", "expected"),
    [
        ([row("one", -40), row("two", 0)], 0.001, SUPPORTED),
        ([row("one", -40)], 0.2, UNDECIDED),
        ([row("one", -40), row("other", -4)], 0.001, UNDECIDED),
        ([row("one", -40), row("other", 40)], 0.001, REFUTED),
        ([row("two", -40)], 0.001, UNDECIDED),  # no arm of one layer is done
    ],
)
def test_all_layers_beat_one_if_they_beat_each_and_random_features(rows, own, expected):
    made = decided(
        "depth", *rows, subject=("one", "other"), control=("random",), own={"random": own}
    )
    assert made == expected


def test_filling_helps_if_it_is_no_worse_and_activity_predicts_the_gain():
    for gain, low, expected in (
        (4, 0.1, SUPPORTED),
        (4, -0.1, UNDECIDED),
        (-40, 0.1, REFUTED),
        (-10, 0.1, UNDECIDED),
    ):
        one = row("fill", gain, flips=40, n=1000)
        partial = Partial(0.5, (low, 0.9), 30)
        assert decided("filling", one, subject=("fill",), partial=partial) == expected
    assert decided("filling", one, subject=("fill",)) == UNDECIDED


DEPTH = {"subject": ("one",), "control": ("random",), "own": {"random": 0.001}}
FILL = {"subject": ("P",), "partial": Partial(0.5, (0.1, 0.9), 30)}
CLAIMS = [  # a rule, its rows, what else it reads, its answer, and the arms that must do no better
    ("gates", [row("g", -40), row("h", -30)], {}, SUPPORTED, "Agh"),
    ("gates", [row("g", 40, **DEALT), row("h", -30)], {"control": tuple(DEALT)}, REFUTED, "A"),
    (
        *("selectors", [row("g", -10, n=4000), row("h", -40, n=4000)]),
        *({"control": ("h",)}, SUPPORTED, "Agh"),
    ),
    ("selectors", [row("g", 40), row("h", -40)], {"control": ("h",)}, REFUTED, "A"),
    ("depth", [row("one", -40), row("h", 0)], DEPTH, SUPPORTED, ["A", "one"]),
    ("depth", [row("one", 40), row("h", 0)], DEPTH, REFUTED, "A"),
    ("better", [row("P", 40), row("h", -40)], {"subject": ("P",)}, SUPPORTED, "A"),
    ("better", [row("P", -40), row("h", -40)], {"subject": ("P",)}, REFUTED, "AP"),
    ("filling", [row("P", 4, flips=40, n=1000), row("h", 0)], FILL, SUPPORTED, "A"),
    ("filling", [row("P", -40), row("h", 0)], FILL, REFUTED, "AP"),
]


@pytest.mark.parametrize(("rule", "rows", "how", "answer", "losers"), CLAIMS)
def test_what_a_dial_at_its_end_holds_back_decides_nothing(rule, rows, how, answer, losers):
    assert decided(rule, *rows, **how) == answer
    for name in ("A", *(one.name for one in rows)):
        expected = UNDECIDED if name in losers else answer
        assert decided(rule, *rows, **how, at_ends=[name]) == expected, name


@pytest.mark.parametrize(("rule", "rows", "how", "answer", "losers"), CLAIMS)
def test_nothing_is_decided_while_an_arm_is_missing(rule, rows, how, answer, losers):
    assert decided(rule, *rows, **how, missing=["m", "n"]) == UNDECIDED
    asked = Asked("so", "A", how.get("subject", ()), how.get("control", ()), rule)
    rest = how.get("own"), how.get("partial")
    assert "no job of m, n is done" in answered(asked, rows, *rest, ["m", "n"]).sentence


def test_the_arms_that_were_asked_for_are_those_of_the_experiment_or_typed(tmp_path):
    def asked(by, params, *typed):
        hydra = {"sweeper": {"params": params}, "overrides": {"task": list(typed)}}
        (tmp_path / "multirun.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
        return asked_arms(tmp_path, by)

    params = {"arm": "always,probe, mera", "coef": "range(1,3)"}
    assert asked(["arm"], params, "task=bbq") == ["always", "probe", "mera"]
    assert asked(["arm"], params, "arm=always,fill", "coef=2") == ["always", "fill"]
    assert asked(["coef"], params, "arm=fill") == ["coef 1", "coef 2"]
    assert asked(["arm", "coef"], params, "+arm=a,b") == ["a 1", "a 2", "b 1", "b 2"]
    assert asked([], params) == asked(["selector"], params) == asked(["arm"], None) == []
    assert asked_arms(tmp_path / "none", ["arm"]) == []


def test_answers_that_fall_apart_are_counted_against_the_unsteered_ones():
    arm = {"baseline": "0100000000", "steered": "1111000000", "direction_1": "0100000000"}
    made = pd.DataFrame(
        {"id": f"q{n}", "arm": name, "invalid": bool(int(x)), "degenerate": None}
        for name, bits in arm.items()
        for n, x in enumerate(bits)
    )
    made.loc[(made["arm"] == "steered") & (made["id"] == "q9"), "degenerate"] = "loop"
    assert excess([made], "steered").share == pytest.approx(0.4)
    assert excess([made, made], "direction").share == 0
    assert excess([made], "random") is None
    # Copies of a question over seeds, and directions that do the same, tell nothing new.
    twin = made[made["arm"] == "direction_1"].assign(arm="direction_2")
    for kind in ("steered", "direction"):
        assert excess([made, made, made], kind) == excess([made], kind)
        assert excess([pd.concat([made, twin])], kind) == excess([made], kind)
    other = made.assign(id=made["id"] + "x")
    assert excess([made, other], "steered").ci[0] > excess([made], "steered").ci[0]


def test_a_correlation_over_arms_counts_no_copy():
    """Neither other seeds of a job, nor what every arm is at dial 0; a closed gate adds nothing."""

    def job(dial, gain, more, norm):
        layers = [SimpleNamespace(l0_before=1.0, l0_after=1.0 + more)]
        effects = SimpleNamespace(activity=SimpleNamespace(layers=layers))
        record = SimpleNamespace(coef=dial, gain=gain, side_effects=effects)
        return SimpleNamespace(record=record, norm=norm, length=50.0 * dial)

    zero = job(0.0, 0.0, 0.0, 0.0)
    one = [zero, job(1.0, 0.1, 3.0, 10.0), job(2.0, 0.3, 4.0, None)]
    other = [zero, job(1.0, 0.2, 1.0, 30.0), job(2.0, 0.0, 2.0, 0.0)]
    found = _partial({"a": {0: one}, "b": {0: other}})
    x, y, given = np.array([(0, 0, 0), (0.1, 3, 10), (0.3, 4, 100), (0.2, 1, 30), (0.0, 2, 0)]).T
    r, ci = partial_correlation(x, y, given)
    assert found == Partial(r, ci, 5)
    assert _partial({"a": {0: one, 1: one}, "b": {0: other, 1: other}}) == found


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ({1: 0.0, 2: 0.0, 3: 0.3, 4: 0.6}, SUPPORTED),
        ({1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0, 8: 0.9}, REFUTED),
        ({1: 0.0, 2: 0.0, 3: 0.0}, UNDECIDED),  # twice the best was not tried
        ({2: 0.0, 4: 0.05}, UNDECIDED),
        ({0: 0.0, 1: 0.3, 2: 0.0}, UNDECIDED),  # below the best
    ],
)
def test_steering_is_unstable_if_answers_fall_apart_near_the_best_dial(at, expected):
    some = {dial: Excess(x, (x - 0.02, x + 0.02)) for dial, x in at.items()}
    made = said("So it is", 2.0, some, {}, "")
    assert made["ci"][0] < made["number"] < made["ci"][1]
    unsteered = {0.0: Excess(0.0, (-0.02, 0.02))}
    assert said("", 0.0, unsteered | some, some, "")["answer"] == UNDECIDED  # nothing helps
    assert made["answer"] == expected and f"So it is: {expected} (" in made["sentence"]
    missing = said("So it is", 2.0, some, {}, "", ["coef 2.5"])
    assert missing["answer"] == UNDECIDED and "no job of coef 2.5 is done" in missing["sentence"]


@pytest.mark.parametrize("at", [{2: 0.0, 3: 0.3, 4: 0.6}, {2: 0.0, 3: 0.0, 4: 0.0}])
def test_a_best_dial_that_is_the_smallest_tried_tells_nothing_of_dials_near_it(at):
    some = {dial: Excess(x, (x - 0.02, x + 0.02)) for dial, x in at.items()}
    held = said("So it is", 2.0, some, {}, "")
    assert held["answer"] == UNDECIDED and held["held"] in held["sentence"]
    assert held["held"] == "the best dial lies at an end of its range"
    below = {1.0: Excess(0.0, (-0.02, 0.02))}
    assert said("", 2.0, below | some, {}, "")["answer"] != UNDECIDED


# -- what they say where there is nothing to say -------------------------------------------------


def nothing(rule, names, rng, n=80, **asked):
    """The answer on outcomes that are independent of everything, controls among them."""
    answers = {name: {0: frame(rng.random(n) < 0.6)} for name in ("A", *names)}
    rows = [
        replace(made, controls=dict.fromkeys(("dealt", "dosed", "subset"), 0.0))
        for made in compared(answers, "A", dict.fromkeys(answers, 0.5))
    ]
    return answered(Asked("c", "A", rule=rule, **asked), rows).answer


@pytest.mark.night
@pytest.mark.long
def test_without_an_effect_studies_are_undecided_at_least_95_times_in_100():
    """Although every control is beaten, which would not be so either."""
    rng, found = np.random.default_rng(1), []
    for _ in range(200):
        found += [
            nothing("better", ["P", "greedy"], rng, subject=("P",), control=("subset",)),
            nothing("gates", ["probe", "prompt"], rng, control=("dealt", "dosed")),
            nothing("selectors", ["auroc", "random"], rng, control=("random",)),
        ]
    for first in range(3):
        assert found[first::3].count(UNDECIDED) >= 190
    assert len(set(found)) > 1


@pytest.mark.long
def test_a_sweep_with_a_claim_says_so_on_page_terminal_and_table(tmp_path):
    for n, variant in enumerate(("A", "P")):
        fabricate_run(tmp_path / str(n), coef=1.0 + n, n_test=60, transfer=())
        home = tmp_path / str(n)
        config = yaml.safe_load((home / "config.yaml").read_text())
        asked = {"claim": "<b>some</b> do better", "subject": "CorrSteer-P"}
        asked |= {"reference": "CorrSteer-A", "control": "subset"}
        (home / "config.yaml").write_text(yaml.safe_dump({**config, "study": asked}))
        metrics = (home / "metrics.json").read_text()
        (home / "metrics.json").write_text(
            metrics.replace('"variant": "A"', f'"variant": "{variant}"')
        )
    page = write_sweep_report(tmp_path).read_text()
    assert "&lt;b&gt;some&lt;/b&gt; do better: " in page and "Against CorrSteer-A" in page
    assert told(pd.read_csv(tmp_path / "summary.csv"))[0].startswith("<b>some</b> do better: ")
    assert "| CorrSteer-P |" in (tmp_path / "verdict.md").read_text()
    made = json.loads((tmp_path / "study.json").read_text())
    assert made["answer"] in (SUPPORTED, REFUTED, UNDECIDED) and made["claim"] == asked["claim"]
    (one,) = made["rows"]
    assert (made["number"], made["interval"]) == (one["gain"]["gain"], one["gain"]["ci"])
    assert (one["name"], made["reference"]["name"]) == ("CorrSteer-P", "CorrSteer-A")

    # The same jobs as two of the three arms that were asked for.
    asked |= {"by": ["arm"], "rule": "gates", "reference": "a"}
    for n, arm in enumerate("ag"):
        home = tmp_path / str(n)
        config = yaml.safe_load((home / "config.yaml").read_text())
        (home / "config.yaml").write_text(yaml.safe_dump({**config, "study": asked}))
        status = json.loads((home / "status.json").read_text())
        (home / "status.json").write_text(json.dumps({**status, "overrides": [f"arm={arm}"]}))
    sweeper = {"sweeper": {"params": {"arm": "a,g,h"}}, "overrides": {"task": []}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump({"hydra": sweeper}))
    write_sweep_report(tmp_path)
    made = json.loads((tmp_path / "study.json").read_text())
    assert made["answer"] == UNDECIDED and "no job of h is done" in made["sentence"]
