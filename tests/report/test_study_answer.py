"""The answer of an experiment: supported, refuted or undecided, from paired answers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from corrsteer.report.study import REFUTED, SUPPORTED, UNDECIDED, answered, compared, markdown
from corrsteer.report.sweep_page import _methods, write_sweep_report
from corrsteer.report.terminal import told
from corrsteer.stats.intervals import detectable_gain, holm, mcnemar_exact
from tests.report.fabricated_run import fabricate_run

ASKED = {"claim": "some do better", "subject": "P", "reference": "A", "control": "subset"}


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


def test_methods_are_compared_under_one_model_and_selector():
    def done(job, method, model="tiny", selector="Correlation"):
        record = SimpleNamespace(task="t", method_name=method, model=model, selector=selector)
        return SimpleNamespace(job=job, seeds={"seed": 0}, record=record)

    # CorrSteer-A failed under the second model, and P under the first.
    jobs = [done(3, "P", "other"), done(2, "S", selector="AUROC"), done(1, "A"), done(4, "S")]
    found = _methods([SimpleNamespace(chosen=[job]) for job in jobs])
    assert {name: [job for job, _ in some.values()] for name, some in found.items()} == {
        "A": [1],
        "S": [4],
    }


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
    return answered(ASKED, compared({"A": {0: one}, name: {0: now}}, "A", {name: 0.5}), control_p)


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
    assert made.sentence in markdown(made) and "| P | 50.0 |" in markdown(made)


def test_without_the_subject_it_is_undecided():
    made = answer(40, name="other")
    assert made.answer == UNDECIDED
    assert "no job of both P and A is done (compared with A: other)" in made.sentence


@pytest.mark.night
@pytest.mark.long
def test_without_an_effect_it_is_undecided_at_least_95_times_in_100():
    rng, found = np.random.default_rng(1), []
    for _ in range(200):
        answers = {name: {0: frame(rng.random(80) < 0.6)} for name in ("A", "P", "greedy")}
        rows = compared(answers, "A", dict.fromkeys(answers, 0.5))
        found.append(answered(ASKED, rows, 0.0).answer)
    assert found.count(UNDECIDED) >= 190 and len(set(found)) > 1


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
