"""Claims that are read from a sweep's folders, on fabricated runs."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import yaml
from scipy.stats import binomtest

from corrsteer.claims import concepts, dial, evidence, sweeps
from corrsteer.claims.asked import STUDIES
from corrsteer.claims.command import anywhere, earlier
from corrsteer.claims.reading import counted, done_jobs
from corrsteer.errors import DataError
from corrsteer.report.numbers import p_value
from corrsteer.report.record import read_record
from corrsteer.stats.intervals import paired_ci, t_ci
from tests.report.fabricated_run import edit, fabricate_run

pytestmark = pytest.mark.long

BARE = {"n_test": 60, "transfer": (), "side_effects": False}


def configure(home: Path, **settings: str) -> None:
    """Settings by dotted name, in a run's config.yaml."""
    config = yaml.safe_load((home / "config.yaml").read_text())
    for name, value in settings.items():
        *groups, leaf = name.split("__")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    (home / "config.yaml").write_text(yaml.safe_dump(config))


def test_claims_of_the_verdict(tmp_path):
    for n, task in enumerate(("bbq", "mmlu")):
        fabricate_run(tmp_path / str(n), task=task, n_test=60, transfer=(), broken=0.0)
    found = evidence.read(tmp_path)
    records = [read_record(tmp_path / str(n)) for n in (0, 1)]
    fixed = sum(r.flips.fixed for r in records)
    wrong = sum(r.format.fixed_from_wrong for r in records)
    assert found["content"].number.value == wrong / fixed
    wilson = binomtest(wrong, fixed).proportion_ci(method="wilson")
    assert found["content"].number.ci == pytest.approx((wilson.low, wilson.high))
    gains = [r.controls["instruction"].paired_gain for r in records]
    assert found["beats_prompt"].number.ci == pytest.approx(t_ci(gains))
    assert found["chosen_features"].number.what == "share of tasks where it holds"
    holds = [row[-1] for row in found["chosen_features"].table.rows]
    # As the sweep's own table has it: which null it is no better than, or how it fails.
    assert holds == [f"no: {v.why}" for v in done_jobs(tmp_path)[0]] and "no: " not in holds
    rates = [r.side_effects.off_target.arms["steered"].rate for r in records]
    assert found["ser_is_enough"].number.value == pytest.approx(sum(rates) / 2)
    if min(rates) > 0.1:
        assert found["ser_is_enough"].answer != "supported"


def test_claims_of_seeds_and_positions(tmp_path):
    for n, seed in enumerate((0, 1, 2)):
        fabricate_run(tmp_path / "seeds" / str(n), seed=seed, **BARE)
    gains = [read_record(tmp_path / "seeds" / str(n)).gain for n in range(3)]
    found = sweeps.seeds(tmp_path / "seeds")["seeds"]
    assert found.number.ci == pytest.approx(t_ci(gains))
    assert found.answer == ("supported" if found.number.ci[0] > 0 else "undecided")
    for n, (place, fixed) in enumerate((("generation", 0.1), ("all", 0.6), ("decode", 0.1))):
        home = tmp_path / "positions" / str(n)
        fabricate_run(home, fixed=fixed, **BARE)
        configure(home, positions=place)
        edit(home, positions=place)
    found = sweeps.positions(tmp_path / "positions")["positions"]
    assert found.number.what == "all against generation positions"
    first, other = (read_record(tmp_path / f"positions/{n}").arms["steered"] for n in (0, 1))
    assert found.number.value == pytest.approx(other.accuracy - first.accuracy)
    assert found.answer == "supported"
    assert [row[0] for row in found.table.rows] == ["generation", "all", "decode"]


@pytest.mark.parametrize(
    ("better", "number"),
    [
        ("TotalNorm", "k = 2 against k = 1, at equal total norm"),
        ("MeanRight", "k = 2 against k = 1, as they are"),
    ],
)
def test_more_features_are_compared_with_one_at_equal_norm_and_as_they_are(
    tmp_path, better, number
):
    for n, (norm, k) in enumerate(product(("MeanRight", "TotalNorm"), (1, 2))):
        fixed = 0.6 if (norm, k) == (better, 2) else 0.1
        fabricate_run(tmp_path / str(n), fixed=fixed, **BARE)
        target = f"corrsteer.steering.coefficients.{norm}"
        configure(tmp_path / str(n), strategy__k=k, coefficient___target_=target)
    found = sweeps.features(tmp_path)["one_feature"]
    assert (found.answer, found.number.what) == ("refuted", number)
    jobs = (2, 3) if better == "TotalNorm" else (0, 1)
    arms = {
        f"k = {k}": (n, read_record(tmp_path / str(n))) for k, n in zip((1, 2), jobs, strict=True)
    }
    (row,) = sweeps.against(tmp_path, arms, "k = 1")
    assert found.number.ci == pytest.approx(paired_ci(row.fixed, row.broken, row.n))
    assert f"{p_value(min(1, 2 * row.p))} after Holm, over 2" in found.sentence
    assert len(found.table.rows) == 4


def test_a_dial_that_breaks_the_text_is_not_usable_there(tmp_path, monkeypatch):
    monkeypatch.setattr(dial, "DIALS", (-1.0, 0.0, 1.0, 2.0, 3.0))
    for n, coef in enumerate((-1.0, 0.0, 1.0, 2.0, 3.0)):
        fabricate_run(tmp_path / str(n), coef=coef, n_test=60, transfer=())
        record = read_record(tmp_path / str(n))
        effects = record.side_effects.model_dump(mode="json")
        effects["neutral"]["arms"]["steered"]["kl"] = 0.01 if coef < 2 else 0.5
        effects["off_target"]["text"]["arms"]["steered"]["degenerate"] = 0
        arms = {name: arm.model_dump(mode="json") for name, arm in record.arms.items()}
        arms["steered"]["degenerate"] = 0
        edit(tmp_path / str(n), side_effects=effects, arms=arms)
    found = dial.read(tmp_path)["dial"]
    assert found.number.ci is None and found.number.value == 1.0
    assert found.sentence.startswith("Usable from \N{MINUS SIGN}1 to 1; ")
    assert [row[-1] for row in found.table.rows] == ["yes", "yes", "yes", "no", "no"]
    monkeypatch.setattr(dial, "DIALS", (-1.0, 0.0, 1.0, 2.0, 3.0, 4.0))
    with pytest.raises(DataError, match="1 of the 6 dials of .* are not done"):
        dial.read(tmp_path)


def test_concepts_need_both_selectors(tmp_path):
    fabricate_run(tmp_path / "0", **BARE)
    with pytest.raises(DataError, match="no task of .* has both selectors"):
        concepts.read(tmp_path)
    fabricate_run(tmp_path / "1", **BARE)
    edit(tmp_path / "1", score="random number", selector="Random")
    with pytest.raises(DataError, match=r"114 of 120 random features have no class: run it with"):
        concepts.read(tmp_path)
    features = pd.read_csv(tmp_path / "1" / "features.csv").fillna({"class": "unclear"})
    features.to_csv(tmp_path / "1" / "features.csv", index=False)
    found = concepts.read(tmp_path)["concepts"]
    assert found.answer == "undecided" and found.number.ci is None  # one task has no spread
    assert found.table.rows[0][0] == "bbq"


def test_a_tuned_plan_that_changes_other_text_is_not_free(tmp_path):
    fabricate_run(tmp_path / "0", n_test=200, broken=0.0, transfer=())
    effects = read_record(tmp_path / "0").side_effects.model_dump(mode="json")
    for kl, answer in ((3.5, "refuted"), (0.1, "undecided"), (0.01, "supported")):
        effects["neutral"]["arms"]["steered"] |= {"kl": kl, "kl_ci": [0.9 * kl, 1.1 * kl]}
        edit(tmp_path / "0", side_effects=effects)
        found = sweeps.optimised(tmp_path)["tuned_for_free"]
        assert (found.answer, found.number.value) == (answer, kl)


def test_how_often_it_is_wrong(tmp_path):
    head = "data,what,count,of,rate,low,high,promised"
    for low, high, answer in ((0.01, 0.04, "supported"), (0.01, 0.07, "undecided"),
                              (0.06, 0.1, "refuted")):  # fmt: skip
        row = f"{evidence.SHUFFLED},raises,7,200,0.035,{low},{high},0.05"
        (tmp_path / "calibration.csv").write_text(f"{head}\na random plan,raises,1,9,0,0,1,\n{row}")
        found = evidence.calibration(tmp_path)["seldom_wrong"]
        assert found.answer == answer and found.number.ci == (low, high)


def test_the_folder_of_an_earlier_run_is_read(tmp_path):
    (study,) = (one for one in STUDIES if one.name == "seeds")
    for n in (0, 1):
        fabricate_run(tmp_path / str(n), seed=n, **BARE)
        configure(tmp_path / str(n), limit=60)
    words = ["task=bbq", "seed=0,1", "data=/a/b/${task.name}", "cache=/c", "hydra.sweep.dir=/d"]
    (tmp_path / "multirun.yaml").write_text(
        yaml.safe_dump({"hydra": {"overrides": {"task": words}}})
    )
    ran = earlier(study, tmp_path)
    assert ran.words == ["src.main", "-m", "task=bbq", "seed=0,1", "data=PATH/${task.name}"]
    assert (ran.model, ran.limit, ran.commit) == ("bundled", 60, "")
    assert ran.answers == sweeps.seeds(tmp_path)
    assert ran.jobs == (2, 2) and not ran.partial
    with pytest.raises(DataError, match="there is no folder"):
        earlier(study, tmp_path / "nowhere")


def test_the_jobs_of_a_sweep_are_counted(tmp_path):
    words = ["task=bbq,mmlu", "layers=[1,3]", "+seed=0,1,2", "coef=1"]
    params = {"coef": "0.5,1,2", "arm": "a,b"}
    hydra = {"overrides": {"task": words}, "sweeper": {"params": params}}
    (tmp_path / "multirun.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
    for n, (task, state) in enumerate((("bbq", "done"), ("bbq", "failed"), ("mmlu", "done"))):
        (tmp_path / str(n)).mkdir()
        said = {"overrides": [f"task={task}", "+seed=0", "arm=a"], "state": state, "error": None}
        said |= {"started": "2026-11-30T08:00:00+00:00", "ended": None, "seconds": None}
        (tmp_path / str(n) / "status.json").write_text(json.dumps(said))
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "status.json").write_text("{")
    found = counted(tmp_path)  # 2 tasks, 3 seeds, 2 arms, and the one coef that was typed
    assert found == {"jobs": (2, 12), "lacking": ["arm=b", "seed=1", "seed=2"]}


def test_an_experiments_folder_without_a_done_job_is_one_line(tmp_path):
    (study,) = (one for one in STUDIES if one.name == "gates")
    answer = {"answer": "undecided", "sentence": "S.", "number": None}
    (tmp_path / "study.json").write_text(json.dumps(answer))
    with pytest.raises(DataError, match="no job of .* is done"):
        earlier(study, tmp_path)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("data=/a/b c/d", "data=PATH"),
        ("data=/a/${task.name}", "data=PATH/${task.name}"),
        ("layers=[1,3]", "layers=[1,3]"),
        ("sae.path=saes/mine", "sae.path=saes/mine"),
    ],
)
def test_a_place_of_one_machine_is_not_kept(typed, kept):
    assert anywhere(typed) == kept
