"""A search from its command to its report, on the bundled model, and its refusals."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest

from corrsteer.config import resolved_yaml
from corrsteer.methods import protocol, search
from corrsteer.methods.protocol import Fitted
from corrsteer.methods.search import NOTE
from corrsteer.methods.study import Candidate
from corrsteer.records import RankedFeature
from corrsteer.report.run_page import write_run_report
from corrsteer.run import drawing, pipeline
from corrsteer.steering.arms import steered
from corrsteer.steering.plan import Plan, PlanEntry, load_plan
from corrsteer.store.runfolder import RunFolder
from tests.report.fabricated_run import HOSTILE, fabricate_run
from tests.test_config import composed, refusal

SMALL = [
    *("task=bbq", "search=pareto", "search.trials=12", "search.batch=5", "layers=[1,3]"),
    "search.coef=[0,12]",
    *("splits.selection=120", "splits.validation=60", "splits.test=80", "collect.shuffles=20"),
    *("backend.device=cpu", "controls=few", "side_effects=none", "controls.constrained=false"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("search")


ANSWERS: dict = {}


def asked(call):
    """(result, arms that were asked for: (split, name, plan), in order); answers in ANSWERS."""
    calls, real = [], drawing.answers  # type: ignore[attr-defined]

    def answers(bench, asking, split, arms, what=None, **how):
        arms = list(arms)
        calls.extend((split, arm.name, arm.intervention) for arm in arms)
        frames = real(bench, asking, split, arms, what, **how)
        ANSWERS.update({(split, name): frame for name, frame in frames.items()})
        return frames

    with pytest.MonkeyPatch.context() as patch:
        for module in (protocol, search, pipeline, drawing):
            patch.setattr(module, "answers", answers)
        return call(), calls


def job(place, name, *words):
    folder = place / name
    folder.mkdir()
    cfg = composed(*SMALL, f"cache={place / 'cache'}", *words)
    kept = RunFolder(folder)
    kept.start(list(words))
    kept.write_config(resolved_yaml(cfg))
    _, calls = asked(lambda: pipeline.run(cfg, folder))
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics, pd.read_csv(folder / "trials.csv"), calls


@pytest.fixture(scope="module")
def searched(place):
    ANSWERS.clear()
    made = job(place, "first")
    return *made, dict(ANSWERS)


def norms(plan):
    return {n: float(np.linalg.norm(v.astype(np.float64))) for n, v in plan.vectors().items()}


@pytest.mark.night
@pytest.mark.long
def test_the_metrics_say_what_the_trials_say(searched, place):
    metrics, trials, *_ = searched
    summary = metrics["search"]
    assert summary["trials"] == len(trials) == 12
    assert trials["number"].tolist() == list(range(12))
    front = trials[trials["on_front"]]
    by_accuracy = front.sort_values("accuracy", ascending=False)["number"].tolist()
    assert [t["number"] for t in summary["front"]] == by_accuracy
    for trial in front.itertuples():
        better = (trials["accuracy"] >= trial.accuracy) & (trials["broken"] <= trial.broken)
        beaten = better & (
            (trials["accuracy"] > trial.accuracy) | (trials["broken"] < trial.broken)
        )
        assert not beaten.any()
    best = trials["accuracy"].max()
    assert summary["standard_error"] == pytest.approx((best * (1 - best) / 60) ** 0.5)
    assert 0 < summary["sure"] <= 1 and (len(front) > 1 or summary["sure"] == 1)
    chosen = trials[trials["chosen"]].iloc[0]
    near = front[front["accuracy"] >= best - summary["standard_error"]]
    assert chosen["broken"] == near["broken"].min()
    assert summary["chosen"]["number"] == chosen["number"]
    assert metrics["coef"] == chosen["coef"]
    assert summary["note"] == NOTE
    assert summary["unsteered"]["accuracy"] == metrics["validation"]["baseline"]["accuracy"]
    assert summary["chosen"]["accuracy"] == metrics["validation"]["steered"]["accuracy"]


@pytest.mark.long
def test_fixed_broken_and_ser_are_counted_from_answers(searched):
    _, trials, _, answers = searched
    base = answers["validation", "baseline"].set_index("id")["score"] >= 0.5
    assert (trials["broken"] > 0).any() and (trials["fixed"] > 0).any()
    for t in trials.itertuples():
        right = answers["validation", f"trial_{t.number}"].set_index("id")["score"] >= 0.5
        fixed, broken = int((~base & right).sum()), int((base & ~right).sum())
        assert (t.accuracy, t.fixed, t.broken) == (right.mean(), fixed, broken)
        ser = broken / (fixed + broken) if fixed + broken else np.nan
        assert t.ser == pytest.approx(ser, nan_ok=True)
        assert t.broken_share == pytest.approx(broken / base.sum())


@pytest.mark.long
def test_the_test_split_is_asked_once_after_the_choice(searched):
    _, _, calls, _ = searched
    splits = [split for split, _, _ in calls]
    tries = [n for n, (_, arm, _) in enumerate(calls) if arm.startswith("trial_")]
    assert len(tries) == 12
    assert calls[tries[0]] == ("validation", "trial_0", None)  # it is answered already
    assert splits.index("test") > max(tries)
    test = [arm for split, arm, _ in calls if split == "test"]
    assert test == ["baseline", "steered", "random_1", "random_2"]


@pytest.mark.long
def test_the_plan_is_the_candidates_and_random_ones_are_as_long(searched, place):
    metrics, _, calls, _ = searched
    arms = {arm: plan for split, arm, plan in calls if split == "test"}
    chosen = metrics["search"]["chosen"]
    lengths = norms(arms["steered"])
    tried = {arm: plan for _, arm, plan in calls if arm.startswith("trial_")}
    plain = norms(tried["trial_1"])
    factors = {n: chosen["coef"] * chosen[f"layer_{n}"] for n in (1, 3)}
    expected = {n: plain[n] * f for n, f in factors.items() if f}
    assert lengths == pytest.approx(expected, rel=1e-5)
    assert lengths != pytest.approx(plain, rel=1e-2)
    for n in (1, 2):
        assert norms(arms[f"random_{n}"]) == pytest.approx(lengths, rel=1e-5)
    kept = load_plan(place / "first" / "plan")
    assert norms(kept) == lengths and kept.coef == metrics["coef"]


def test_a_layer_that_is_left_out_has_no_chosen_feature():
    feature = {f.name: 1 for f in fields(RankedFeature)}
    chosen = tuple(RankedFeature(**{**feature, "layer": n}) for n in (1, 3))
    plan = Plan(tuple(PlanEntry(n, 1, 1.0, 1.0, np.ones(4, np.float32)) for n in (1, 3)))
    fitted = Fitted(steered(plan), None, chosen, chosen)
    turned = fitted.with_plan(Candidate(2.0, "max", {1: 0, 3: 1}).applied(plan))
    assert [f.layer for f in turned.chosen] == [3] and len(turned.ranked) == 2
    assert list(turned.plan.vectors()) == [3]


@pytest.mark.long
def test_again_nothing_is_computed_and_all_is_the_same(searched, place, caplog):
    with caplog.at_level("INFO"):
        metrics, trials, calls = job(place, "again")
    assert not [r for r in caplog.messages if r.startswith("cache miss")]
    assert not [arm for _, arm, _ in calls if arm.startswith("trial_")]
    assert metrics == searched[0]
    pd.testing.assert_frame_equal(trials, searched[1])


@pytest.mark.night
@pytest.mark.long
def test_workers_leave_the_job_nothing_but_the_choice(place):
    words = ["search.trials=7", "search.batch=3", "search.workers=2", "search.layers=switch"]
    cfg = composed(*SMALL, f"cache={place / 'cache'}", *words)
    tried = []
    for index in (0, 1):
        _, calls = asked(lambda index=index: pipeline.search_worker(cfg, place, index))
        assert {split for split, _, _ in calls} == {"selection", "validation"}
        tried += [arm for _, arm, _ in calls if arm.startswith("trial_")]
    assert tried == [f"trial_{n}" for n in range(7)]
    metrics, trials, calls = job(place, "after_workers", *words)
    assert not [arm for _, arm, _ in calls if arm.startswith("trial_")]
    assert metrics["search"]["trials"] == len(trials) == 7
    assert set(trials["layer_1"]) <= {0, 1}


@pytest.mark.night
@pytest.mark.long
def test_where_nothing_helps_the_unsteered_model_is_chosen(place):
    words = ["search.coef=[0,1e-6]", "coef=0", "search.pooling=[max,mean]", "search.trials=5"]
    metrics, trials, calls = job(place, "nothing", *words)
    assert metrics["search"]["chosen"]["number"] == 0
    assert metrics["search"]["chosen"]["ser"] is None
    assert set(trials["pooling"]) == {"max", "mean"}
    assert metrics["gain"] == 0 and metrics["coef"] == 0
    plan = next(plan for split, arm, plan in calls if (split, arm) == ("test", "steered"))
    assert norms(plan) == {1: 0, 3: 0}


@pytest.mark.night
@pytest.mark.long
def test_a_pooling_that_wins_is_the_runs(place, monkeypatch):
    real = search.choose  # type: ignore[attr-defined]
    monkeypatch.setattr(search, "choose", lambda best, n: real([only_mean], n))
    only_mean = None

    def front(trials, norm):
        nonlocal only_mean
        only_mean = next(t for t in trials if t.candidate.pooling == "mean" and t.candidate.coef)
        return [only_mean]

    monkeypatch.setattr(search, "front", front)
    words = ["search.pooling=[max,mean]", "search.trials=3", "search.layers=none"]
    metrics, _, calls = job(place, "mean", *words)
    assert (metrics["pooling"], metrics["search"]["chosen"]["pooling"]) == ("mean", "mean")
    tried = {arm: plan for _, arm, plan in calls}
    assert norms(tried["steered"]) == norms(tried["trial_2"]) != norms(tried["trial_1"])


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["search=paretto"], ["search=paretto", "did you mean pareto?", "none, pareto"]),
        (["search.trials=1"], ["search.trials=1", "at least 2", "search.trials=64"]),
        (["search.trials=2", "search.pooling=[max,mean]"], ["search.trials=2", "at least 3"]),
        (["search.trials=many"], ["search.trials=many", "whole number"]),
        (["search.trials=64.5"], ["search.trials=64.5", "whole number"]),
        (["search.batch=0"], ["search.batch=0", "at least 1", "search.batch=8"]),
        (["search.workers=0"], ["search.workers=0", "at least 1"]),
        (["search.workers=true"], ["search.workers=True", "whole number"]),
        (["search.coef=3"], ["search.coef=3", "[low,high]", "search.coef=[0,3]"]),
        (["search.coef=[3,0]"], ["search.coef=[3, 0]", "with 0 in it"]),
        (["search.coef=[1,3]"], ["search.coef=[1, 3]", "with 0 in it"]),
        (["search.coef=[0,inf]"], ["search.coef=[0, inf]", "[low,high]"]),
        (["search.coef=[0,1,2]"], ["search.coef=[0, 1, 2]", "[low,high]"]),
        (["search.coef=[a,b]"], ["search.coef=['a', 'b']", "[low,high]"]),
        (["coef=4"], ["coef=4.0", "search.coef=[0.0,3.0]", "wider range"]),
        (["coef=-1"], ["coef=-1", "wider range"]),
        (["search.layers=all"], ["search.layers=all", "scale, switch, none"]),
        (["search.pooling=max"], ["search.pooling=max", "search.pooling=[max,mean]"]),
        (["search.pooling=[]"], ["search.pooling=[]", "must be a list"]),
        (["search.pooling=[max,max]"], ["at most once"]),
        (["search.pooling=[max,sum]"], ["search.pooling=['max', 'sum']", "max and mean"]),
        (["search.trial=5"], ["search.trial", "did you mean trials?"]),
    ],
)
def test_a_wrong_setting_is_one_line(words, parts):
    first = [] if words[0].startswith("search=") else ["search=pareto"]
    line = refusal(*first, *words)
    assert [part for part in parts if part not in line] == [], line


# -- the report ----------------------------------------------------------------------------------


def fabricate_search(folder, hostile=False):
    """A finished run with a search of 40 made-up trials, its front among them."""
    metrics = fabricate_run(folder, n_test=200)
    dice = np.random.default_rng(3)
    rows = []
    for n in range(40):
        coef = [0.0, 1.0, 1.0][n] if n < 3 else float(dice.uniform(0, 3))
        fixed = round(60 * np.sin(coef) ** 2 * dice.uniform(0.5, 1))
        broken = 0 if n == 0 else round(max(0, fixed - 20) * dice.uniform(0.1, 1))
        scales = dice.integers(0, 11, 6) / 10 if n > 2 else np.ones(6)
        rows.append(
            {
                "number": n, "coef": coef, "pooling": "max" if n != 2 else "mean",
                **{f"layer_{k}": float(s) for k, s in enumerate(scales)},
                "accuracy": (250 + fixed - broken) / 500, "broken": broken,
                "broken_share": broken / 250, "fixed": fixed,
                "ser": broken / (fixed + broken) if fixed + broken else None, "norm": coef,
                "on_front": False, "chosen": False,
            }
        )  # fmt: skip
    for row in rows:
        row["on_front"] = not any(
            (o["accuracy"] >= row["accuracy"] and o["broken"] <= row["broken"])
            and (o["accuracy"], o["broken"]) != (row["accuracy"], row["broken"])
            for o in rows
        )
    front = sorted((r for r in rows if r["on_front"]), key=lambda r: -r["accuracy"])
    front[1]["chosen"] = True
    pd.DataFrame(rows).to_csv(folder / "trials.csv", index=False)
    metrics["search"] = {
        "trials": 40, "batch": 8, "coef": [0.0, 3.0], "start": 1.0, "layers": "scale",
        "pooling": ["max", "mean"], "n": 500, "right": 250, "standard_error": 0.0219,
        "unsteered": rows[0], "plain": rows[1:3], "front": front, "chosen": front[1],
        "note": NOTE + (HOSTILE[0] + HOSTILE[2] + HOSTILE[7] if hostile else ""),
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return metrics


def words_of(page):
    return " ".join(re.sub(r"<[^>]*>", " ", page).replace("\u00a0", " ").split())


@pytest.mark.long
def test_the_report_shows_the_front(tmp_path):
    metrics = fabricate_search(tmp_path / "run")
    page = write_run_report(tmp_path / "run").read_text(encoding="utf-8")
    text = words_of(page)
    assert f"Trial {metrics['search']['chosen']['number']} is chosen" in text
    assert NOTE in text and "one-standard-error rule" in text
    for t in metrics["search"]["front"]:
        assert re.search(
            rf"{t['number']} on the front(, chosen)? {100 * t['accuracy']:.1f} % {t['fixed']} "
            rf"{t['broken']} ",
            text,
        )
    assert re.search(r"0 unsteered(, on the front)? 50.0 % 0 0 – 0 0-5 max", text)
    assert re.search(r"2 plain plan 5\d\.\d % .* 0-5 mean", text)
    spec = json.loads(re.search(r'id="fig-pareto">(.*?)</script>', page, re.S)[1])
    drawn = sum(len(trace["x"]) for trace in spec["data"][:2])
    assert drawn == 40
    assert len(spec["data"][-1]["x"]) == 1
    chosen = metrics["search"]["chosen"]
    assert spec["data"][-1]["x"][0] == pytest.approx(100 * chosen["broken_share"])


@pytest.mark.long
def test_the_report_escapes_what_it_is_told(tmp_path):
    fabricate_search(tmp_path / "run", hostile=True)
    page = write_run_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page and "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.long
def test_a_run_without_a_search_has_no_such_section(tmp_path):
    fabricate_run(tmp_path / "run")
    assert "fig-pareto" not in write_run_report(tmp_path / "run").read_text(encoding="utf-8")
