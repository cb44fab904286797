"""Ablations: which layers they leave, and what they say of invented and of real answers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrsteer.config import resolved_yaml
from corrsteer.report.run_page import write_run_report
from corrsteer.run.pipeline import run
from corrsteer.stages.ablate import COLUMNS, KINDS, ablation_arms, ablation_table, steps
from corrsteer.steering.plan import Plan, PlanEntry
from corrsteer.store.runfolder import RunFolder
from tests.report.fabricated_run import fabricate_run
from tests.test_config import composed


def plan_of(rs: dict[int, float], coef: float = 2.0) -> Plan:
    entries = [
        PlanEntry(layer, 10 + layer, r, 1.0, np.full(4, layer, np.float32))
        for layer, r in rs.items()
    ]
    return Plan(tuple(entries), coef)


def ablation_plans(plan: Plan) -> dict[str, Plan]:
    """Arm -> plan."""
    arms = ablation_arms(plan)
    assert {arm.kind for arm in arms} <= {"steered"}
    return {arm.name: arm.intervention for arm in arms}


plans = st.dictionaries(
    st.integers(0, 40), st.sampled_from([0.1, 0.2, 0.30000000001, 0.4]), max_size=8
).map(plan_of)


@given(plans)
def test_each_set_of_layers_is_asked_once_and_nothing_else_changes(plan):
    by_arm = ablation_plans(plan)
    whole = {e.layer: e for e in plan.entries}
    sets = [frozenset(e.layer for e in part.entries) for part in by_arm.values()]
    assert len(set(sets)) == len(sets) <= max(0, 4 * (len(whole) - 1))
    assert frozenset() not in sets and frozenset(whole) not in sets
    for part in by_arm.values():
        assert part.coef == plan.coef
        assert all(whole[e.layer] is e for e in part.entries)
    if len(whole) < 2:
        assert by_arm == {} and steps(plan) == []
        return
    # The textbook: what every comparison is made of, and nothing besides.
    depth = sorted(whole)
    by_r = sorted(depth, key=lambda n: (-whole[n].r, n))
    expected = {frozenset({n}) for n in depth} | {frozenset(depth) - {n} for n in depth}
    expected |= {frozenset(order[:k]) for order in (depth, by_r) for k in range(1, len(depth))}
    assert set(sets) == expected
    for step in steps(plan):
        layers = {"baseline": frozenset(), "steered": frozenset(depth)}
        layers |= dict(zip(by_arm, sets, strict=True))
        assert layers[step.arm] == frozenset(step.layers)
        assert step.k == len(step.layers)


def test_arms_of_a_small_plan():
    plan = plan_of({1: 0.2, 4: 0.5, 7: 0.3})
    layers = {arm: [e.layer for e in p.entries] for arm, p in ablation_plans(plan).items()}
    assert layers == {
        "only_1": [1], "only_4": [4], "only_7": [7],
        "without_1": [4, 7], "without_4": [1, 7], "without_7": [1, 4],
    }  # fmt: skip
    curves = {
        kind: [(s.k, s.layer, s.arm) for s in steps(plan) if s.kind == kind] for kind in KINDS
    }
    assert curves["by_depth"] == [
        (0, None, "baseline"), (1, 1, "only_1"), (2, 4, "without_7"), (3, 7, "steered"),
    ]  # fmt: skip
    assert curves["by_r"] == [
        (0, None, "baseline"), (1, 4, "only_4"), (2, 7, "without_1"), (3, 1, "steered"),
    ]  # fmt: skip


def frame(right: np.ndarray, invalid: np.ndarray) -> pd.DataFrame:
    ids = [f"e{i}" for i in range(len(right))]
    return pd.DataFrame(
        {"id": ids, "score": np.where(right & ~invalid, 1.0, 0.0), "invalid": invalid}
    )


def test_the_table_agrees_with_counting_by_hand():
    plan, dice, n = plan_of({1: 0.2, 4: 0.5, 7: 0.3, 9: 0.1}), np.random.default_rng(0), 200
    answers = {
        arm: frame(dice.random(n) < 0.6, dice.random(n) < 0.1)
        for arm in ("baseline", "steered", *ablation_plans(plan))
    }
    answers["only_4"] = answers["baseline"].copy()  # nothing flips
    table = ablation_table(plan, answers)
    assert tuple(table.columns) == COLUMNS
    assert table["kind"].value_counts().to_dict() == {
        "alone": 4, "left_out": 4, "by_depth": 5, "by_r": 5,
    }  # fmt: skip
    was = list(answers["baseline"]["score"])
    z = 1.959963984540054
    for row in table.itertuples():
        now = list(answers[row.arm]["score"])
        fixed = sum(b == 0 and a == 1 for b, a in zip(was, now, strict=True))
        broken = sum(b == 1 and a == 0 for b, a in zip(was, now, strict=True))
        assert (row.n, row.fixed, row.broken) == (n, fixed, broken)
        p = sum(now) / n
        assert row.accuracy == pytest.approx(p)
        assert row.gain == pytest.approx((fixed - broken) / n)
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
        assert (row.low, row.high) == pytest.approx((middle - half, middle + half))
        change = np.array(now) - np.array(was)
        half = z * change.std() / n**0.5  # the plain one, which is nearly the score interval here
        assert (row.gain_low, row.gain_high) == pytest.approx(
            (row.gain - half, row.gain + half), abs=0.02
        )
        if fixed + broken:
            assert row.ser == broken / (fixed + broken)
        else:
            assert np.isnan(row.ser)
    alone = table[table["arm"] == "only_4"]
    assert (alone["gain_low"] < 0).all() and (alone["gain_high"] > 0).all()
    assert len(alone) == 2  # it is also the first step by r


def test_answers_to_other_questions_are_refused():
    plan = plan_of({1: 0.2, 4: 0.5})
    answers = {
        arm: frame(np.ones(5, bool), np.zeros(5, bool))
        for arm in ("baseline", "steered", *ablation_plans(plan))
    }
    answers["only_4"] = answers["only_4"].iloc[::-1]
    with pytest.raises(AssertionError, match="only_4"):
        ablation_table(plan, answers)


# -- through the pipeline --------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def finished(cache, folder, *words):
    folder.mkdir()
    small = [
        "controls=few",
        "side_effects=none",
        f"cache={cache}",
        "collect.shuffles=20",
        "backend.device=cpu",
        "limit=20",
    ]
    cfg, kept = composed("task=bbq", *small, *words), RunFolder(folder)
    kept.start(list(words))
    kept.write_config(resolved_yaml(cfg))
    run(cfg, folder)
    return folder


@pytest.mark.night
def test_at_coef_0_no_layer_contributes(cache, tmp_path):
    folder = finished(cache, tmp_path / "run", "layers=[1,3,4]", "coef=0", "ablations=true")
    table = pd.read_csv(folder / "ablations.csv")
    assert len(table) == 3 + 3 + 4 + 4
    assert (table[["gain", "fixed", "broken"]] == 0).all(axis=None)
    # No flip among some questions does not mean none among others.
    assert (table["gain_low"] < 0).all() and (table["gain_high"] > 0).all()
    assert table["ser"].isna().all()
    answers = pd.read_parquet(folder / "answers.parquet")
    asked = answers[answers["split"] == "validation"].groupby("arm")
    texts = asked["answer"].apply(list)
    assert len(texts) == 8 and all(text == texts["baseline"] for text in texts)
    # Every arm did add something: vectors of length 0.
    for arm, rows in asked:
        assert (rows["n_steered"] == (0 if arm == "baseline" else rows["n_tokens"])).all()
    assert set(answers[answers["split"] == "test"]["arm"]).isdisjoint(
        set(texts.index) - {"baseline", "steered"}
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["validation"]) == {"baseline", "steered"}


@pytest.mark.night
def test_a_layer_alone_is_a_run_of_that_layer(cache, tmp_path, caplog, monkeypatch):
    """And what a run says and tracks is the same with and without its ablations and tracker."""
    monkeypatch.setenv("WANDB_API_KEY", "short")  # whatever key this machine has
    words = ["layers=[1,3]", "coef=3"]
    plain = finished(cache, tmp_path / "plain", *words)
    both = finished(
        cache, tmp_path / "both", *words, "ablations=true", "tracker=wandb", "tracker.mode=online"
    )
    assert [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert (plain / "metrics.json").read_bytes() == (both / "metrics.json").read_bytes()
    assert not (plain / "ablations.csv").exists()
    table = pd.read_csv(both / "ablations.csv").set_index(["kind", "k", "layer"])
    alone = finished(cache, tmp_path / "alone", "layers=[3]", "coef=3", "ablations=true")
    metrics = json.loads((alone / "metrics.json").read_text())
    step = table.loc[("alone", 1, 3)]
    assert step["accuracy"] == metrics["validation"]["steered"]["accuracy"]
    assert table.loc[("left_out", 1, 1), "arm"] == "only_3"
    assert pd.read_csv(alone / "ablations.csv").empty
    page = (alone / "report.html").read_text()
    assert "The plan steers one layer" in page


# -- the page --------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path):
    fabricate_run(tmp_path / "run", n_test=40)
    entries = json.loads((tmp_path / "run" / "plan" / "plan.json").read_text())["entries"]
    plan = plan_of({e["layer"]: e["r"] for e in entries})
    dice = np.random.default_rng(1)
    answers = {
        arm: frame(dice.random(90) < 0.6, dice.random(90) < 0.1)
        for arm in ("baseline", "steered", *ablation_plans(plan))
    }
    table = ablation_table(plan, answers)
    table.to_csv(tmp_path / "run" / "ablations.csv", index=False)
    html = write_run_report(tmp_path / "run").read_text()
    specs = {
        kind: json.loads(html.split(f'id="fig-ablation-{kind}">')[1].split("</script>")[0])
        for kind in KINDS
    }
    return SimpleNamespace(html=html, specs=specs, table=table)


@pytest.mark.long
def test_the_page_draws_every_comparison(page):
    for kind, spec in page.specs.items():
        rows = page.table[page.table["kind"] == kind]
        [trace] = spec["data"]
        assert trace["type"] == ("bar" if kind in ("alone", "left_out") else "scatter")
        assert trace["x"] == rows["layer" if trace["type"] == "bar" else "k"].tolist()
        assert trace["y"] == pytest.approx((100 * rows["gain"]).tolist())
        low = np.array(trace["y"]) - trace["error_y"]["arrayminus"]
        assert low == pytest.approx(100 * rows["gain_low"])
    assert page.html.count("<td>–</td>") >= 2  # no layer comes in at k = 0


@pytest.mark.long
def test_a_page_without_ablations_says_nothing_of_them(tmp_path):
    fabricate_run(tmp_path / "run", n_test=40)
    assert "What each layer contributes" not in write_run_report(tmp_path / "run").read_text()
