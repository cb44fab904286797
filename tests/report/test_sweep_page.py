"""What the report of a sweep, its table and its verdicts say, without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from corrsteer.errors import DataError
from corrsteer.report import sweep_page as sweep_report
from corrsteer.report.record import ABSTAINS, read_record
from corrsteer.report.sweep_table import sweep_table
from corrsteer.report.terminal import told
from corrsteer.stats.claims import Claim
from corrsteer.stats.intervals import holm
from corrsteer.stats.joint import Drawn, best_of, joint_p
from tests.report.fabricated_run import DRAWS, Page, control, edit, fabricate_run, set_status

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Jobs 0-2 done, 3 failed, 4 missing, 5 running, 6 cut off while writing."""
    folder = tmp_path_factory.mktemp("sweep")
    for n, (coef, fixed, broken) in enumerate([(0.5, 0.05, 0.01), (1, 0.2, 0.03), (2, 0.2, 0.3)]):
        fabricate_run(folder / str(n), coef=coef, fixed=fixed, broken=broken, n_test=100)
    (folder / "1" / "report.html").write_text("")
    set_status(
        folder / "3",
        "failed",
        "DataError: <b>no rows</b>\nin data/",
        ("task=bbq", "layers=all", "coef=4"),
    )
    set_status(folder / "5", "running", None, ("task=bbq", "layers=all", "coef=8"))
    set_status(folder / "6", "done", None, ("task=bbq", "layers=all", "coef=9"))
    (folder / "6" / "metrics.json").write_text('{"task": "bb')
    return folder


def test_sweep_table_has_one_row_per_job(sweep: Path) -> None:
    table = sweep_table(sweep)
    assert table["job"].tolist() == list(range(7))
    states = ["done", "done", "done", "failed", "missing", "running", "unreadable"]
    assert table["state"].tolist() == states
    assert table["coef"].dropna().tolist() == [0.5, 1, 2, 4, 8, 9]
    coefs = ["coef=0.5", "coef=1", "coef=2", "coef=4", "", "coef=8", "coef=9"]
    assert table["overrides"].tolist() == coefs
    assert table["chosen"].tolist() == [n == 1 for n in range(7)]
    for n in range(3):
        metrics = json.loads((sweep / str(n) / "metrics.json").read_text())
        row = table.loc[n]
        assert row["steered"] == metrics["arms"]["steered"]["accuracy"]
        assert row["validation_steered"] == metrics["validation"]["steered"]["accuracy"]
        assert row["random_gain_max"] == max(metrics["controls"]["random"]["gains"])
        assert row["broken"] == metrics["flips"]["broken"]
    p = [
        json.loads((sweep / f"{n}/metrics.json").read_text())["flips"]["mcnemar_p"]
        for n in range(3)
    ]
    assert table["p_holm"].tolist()[:3] == pytest.approx(holm(p))
    assert table.loc[3:, "p_holm"].isna().all()
    assert "<b>no rows</b>" in table.loc[3, "error"]
    assert table.loc[3:, "gain"].isna().all()


def test_sweep_report_and_summary(sweep: Path) -> None:
    page = Page(sweep_report.write_sweep_report(sweep))
    summary = pd.read_csv(sweep / "summary.csv")
    assert len(summary) == 7
    assert summary["gain"].tolist()[:3] == sweep_table(sweep)["gain"].tolist()[:3]
    assert [v for t, n, v in page.attributes if n == "href"] == ["1/report.html"]
    assert "DataError: <b>no rows</b>" in page.text
    assert "Validation chooses coef 1 (job 1)" in page.text
    assert "Job 6 (coef=9): unreadable this version cannot read" in page.text
    assert "metrics.json (the file: Invalid JSON" in page.text
    assert sum("plotly.js v" in script for script in page.scripts) == 1
    figure = page.data["fig-accuracy-1"]
    assert [trace["x"] for trace in figure["data"] if trace.get("error_y")] == [[0.5, 1.0, 2.0]]


def test_a_foreign_record_leaves_only_its_job_out(tmp_path: Path) -> None:
    for n in range(4):
        fabricate_run(tmp_path / str(n), coef=n, n_test=60, transfer=())
    for n, content in enumerate((b'{"gain": 0.1}', b"[]", b"\\ud800\xff")):
        (tmp_path / str(n) / "metrics.json").write_bytes(content)
    table = sweep_table(tmp_path)
    assert table["state"].tolist() == ["unreadable"] * 3 + ["done"]
    assert "Field required" in table.loc[0, "error"] and table.loc[3, "chosen"]
    assert "type the run's command again" in Page(sweep_report.write_sweep_report(tmp_path)).text


def test_dials_at_which_an_operator_abstains_stay_beside_the_others(tmp_path: Path) -> None:
    for n, operator in enumerate(("Mera" + ABSTAINS, "Mera", "Mera")):
        fabricate_run(tmp_path / str(n), coef=n, n_test=60, seed=0, transfer=())
        edit(tmp_path / str(n), operator=operator)
    table = sweep_table(tmp_path)
    assert table["operator"].tolist() == ["Mera"] * 3
    assert table["chosen"].sum() == 1 and set(table["setting"]) == {""}


def test_method_selector_and_operator_are_columns_and_curves(tmp_path: Path) -> None:
    for n, (coef, name) in enumerate([(1, "A"), (2, "A"), (1, "B"), (2, "B")]):
        fabricate_run(tmp_path / str(n), coef=coef, n_test=60, seed=0, transfer=())
        edit(tmp_path / str(n), method=f"Own{name}", variant="", selector=f"Sel{name}",
             operator=f"Op{name}")  # fmt: skip
    page = Page(sweep_report.write_sweep_report(tmp_path))
    table = pd.read_csv(tmp_path / "summary.csv", keep_default_na=False)
    assert table["method"].tolist() == ["OwnA", "OwnA", "OwnB", "OwnB"]
    assert table["selector"].tolist() == ["SelA", "SelA", "SelB", "SelB"]
    assert table["operator"].tolist() == ["OpA", "OpA", "OpB", "OpB"]
    assert table["variant"].tolist() == [""] * 4
    assert "● OwnA" in page.text and "■ OwnB" in page.text  # as few words as tell them apart
    assert table["setting"].tolist() == ["OwnA", "OwnA", "OwnB", "OwnB"]
    assert table["chosen"].tolist() == [True, False, True, False]


def test_sweep_without_any_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no jobs"):
        sweep_table(tmp_path)


def test_sweep_without_a_finished_job(tmp_path: Path) -> None:
    set_status(tmp_path / "0", "failed", "boom", ("task=bbq", "coef=much", "seed=1"))
    set_status(tmp_path / "1", "failed", "bang", ())
    assert not sweep_table(tmp_path)["chosen"].any()
    assert sweep_table(tmp_path)["seed"].tolist() == [1, pd.NA]
    text = Page(sweep_report.write_sweep_report(tmp_path)).text
    assert "No job is done yet." in text and "boom" in text and "bang" in text


def test_each_question_has_its_own_choice_and_curves(tmp_path: Path) -> None:
    jobs = [("bbq", 1, 0.6), ("bbq", 2, 0.7), ("mmlu", 1, 0.4), ("mmlu", 2, 0.3)]
    for n, (task, coef, score) in enumerate(jobs):
        fabricate_run(tmp_path / str(n), task=task, coef=coef, n_test=60, validation_steered=score)
    assert sweep_table(tmp_path)["chosen"].tolist() == [False, True, True, False]
    page = Page(sweep_report.write_sweep_report(tmp_path))
    table = pd.read_csv(tmp_path / "summary.csv")
    for job in (1, 2):
        assert f"{table.loc[job, 'task']} {table.loc[job, 'verdict']}" in page.text
    assert {"fig-accuracy-1", "fig-accuracy-2"} <= set(page.data)
    assert page.text.count("That is not above the baseline") == 1


def test_what_was_swept_shows_without_a_curve_over_coef(tmp_path: Path) -> None:
    for n, pooling in enumerate(("max", "mean")):
        fabricate_run(tmp_path / str(n), n_test=60)
        status = json.loads((tmp_path / str(n) / "status.json").read_text())
        status["overrides"].append(f"+collect.pooling={pooling}")
        (tmp_path / str(n) / "status.json").write_text(json.dumps(status))
    table = sweep_table(tmp_path)
    assert table["overrides"].tolist() == ["+collect.pooling=max", "+collect.pooling=mean"]
    page = Page(sweep_report.write_sweep_report(tmp_path))
    assert "collect.pooling=mean" in page.text and "task=bbq" not in page.text
    assert "fig-accuracy-1" not in page.data


# -- controls, transfer, seeds -----------------------------------------------------------------


def test_the_table_has_every_control_and_side_effect(sweep: Path) -> None:
    table = sweep_table(sweep)
    for n in range(3):
        m, row = json.loads((sweep / str(n) / "metrics.json").read_text()), table.loc[n]
        best = {kind: max(control["gains"]) for kind, control in m["controls"].items()}
        assert set(best) == {
            "random", "direction", "shuffled", "layers", "flipped", "instruction", "constrained",
        }  # fmt: skip
        for kind in set(best) - {"random"}:
            assert row[f"control_{kind}"] == best[kind]
        assert row["control_best"] == max(best.values())
        null = m["controls"]["random"]
        assert row["null_p"] == null["p"] and row["random_draws"] == DRAWS
        assert row["random_at_least_as_good"] == null["at_least_as_good"]
        assert row["fixed_from_invalid"] == m["format"]["fixed_from_invalid"]
        assert row["steered_constrained_gain"] == m["constrained_gain"]["gain"]
        assert row["plans_on_test"] == 3
        assert row["noise_features"] == m["noise"]["below_ceiling"]
        assert row["changed_texts"] == m["changes"]["text"]
        assert row["off_target_rate"] == m["side_effects"]["off_target"]["arms"]["steered"]["rate"]
        assert row["off_target_ser"] == m["ser"]["off_target"]
        assert row["kl"] == m["side_effects"]["neutral"]["arms"]["steered"]["kl"]
    assert table.loc[3:, ["control_best", "kl", "null_p"]].isna().all(axis=None)


def test_jobs_that_weighed_options_have_the_shift_of_the_margin(tmp_path: Path) -> None:
    for n, coef in enumerate((1, 2)):
        fabricate_run(tmp_path / str(n), coef=coef, n_test=60, side_effects=False, transfer=())
    assert "argin" not in Page(sweep_report.write_sweep_report(tmp_path)).text
    margin = {"likelihood": "sum", "n": 60, "baseline": 0.0, "steered": 0.25, "shift": 0.25}
    edit(tmp_path / "1", margin=margin | {"ci": [-0.05, 0.55], "controls": {}})
    columns = ["margin_shift", "margin_low", "margin_high"]
    page = Page(sweep_report.write_sweep_report(tmp_path))
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert summary.loc[1, columns].tolist() == [0.25, -0.05, 0.55]
    assert summary.loc[0, columns].isna().all()
    assert "+0.25 [−0.05, +0.55]" in page.text and "Margin shift: the mean change" in page.text


def test_a_job_without_controls_or_side_effects_has_empty_columns(tmp_path: Path) -> None:
    fabricate_run(tmp_path / "0", n_test=60, side_effects=False, transfer=(), options=False)
    table = sweep_table(tmp_path)
    assert (
        table[["control_constrained", "constrained", "kl", "off_target_rate"]].isna().all(axis=None)
    )
    page = Page(sweep_report.write_sweep_report(tmp_path))
    assert "fig-transfer" not in page.data and "constrained decoding" not in page.text


def one_job(folder: Path, instruction: float) -> dict:
    """A sweep of one job that gains 20 points, and an instruction that gains so much."""
    fabricate_run(folder / "0", n_test=300, fixed=0.4, broken=0.0, transfer=())
    m = json.loads((folder / "0" / "metrics.json").read_text())
    controls = m["controls"]
    controls["instruction"] = control(m["gain"], [instruction], "instruction")
    return edit(folder / "0", controls=controls)


@pytest.mark.parametrize(("instruction", "beats"), [(0.01, True), (0.3, False)])
def test_the_verdict_names_what_does_as_well(
    tmp_path: Path, instruction: float, beats: bool
) -> None:
    m = one_job(tmp_path, instruction)
    text = Page(sweep_report.write_sweep_report(tmp_path)).text
    said = f"Steering helps (+{100 * m['gain']:.1f} points), "
    said += "more than every" if beats else "but an instruction in the prompt helps more (+30.0)"
    assert said in text
    (row,) = [line for line in (tmp_path / "verdict.md").read_text().splitlines() if "bbq" in line]
    assert ("**yes**" in row) == beats
    assert ("no: helps, not shown to beat instruction" in row and "**+30.0**" in row) == (not beats)
    table = pd.read_csv(tmp_path / "summary.csv")
    assert table.loc[0, "verdict"].startswith(said) and table.loc[0, "claim"] == "raises"
    assert (told(table)[0] == table.loc[0, "verdict"]) and table.loc[0, "beats_all"] == beats


def test_a_gain_within_noise_is_no_success(tmp_path: Path) -> None:
    fabricate_run(tmp_path / "0", n_test=100, fixed=0.05, broken=0.0)
    m = json.loads((tmp_path / "0" / "metrics.json").read_text())
    assert m["flips"]["mcnemar_p"] > 0.05
    edit(tmp_path / "0", controls={"random": control(m["gain"], [-0.1] * DRAWS)})
    text = Page(sweep_report.write_sweep_report(tmp_path)).text
    assert "Undecided (+" in text and "no: undecided" in text and "helps" not in text


def test_p_values_are_corrected_for_what_a_table_compares(tmp_path: Path) -> None:
    """One of 20 draws reaches the plan: alone that is p = 0.095, and more among three rows."""
    for n, task in enumerate(("bbq", "mmlu", "gsm8k")):
        fabricate_run(tmp_path / str(n), task=task, fixed=0.2, broken=0.0, seed=n, transfer=())
        m = json.loads((tmp_path / str(n) / "metrics.json").read_text())
        draws = [0.001 * k for k in range(19)] + ([0.5] if task == "gsm8k" else [0.02])
        edit(tmp_path / str(n), controls={"random": control(m["gain"], draws)}, seed=0)
    sweep_report.write_sweep_report(tmp_path)
    table = pd.read_csv(tmp_path / "summary.csv")
    records = [read_record(tmp_path / str(n)) for n in range(3)]
    drawn = [Drawn(r.gain, r.controls["random"].gains, r.flips.n, r.controls["random"].p)
             for r in records]  # fmt: skip
    assert table["null_p"].tolist() == pytest.approx([1 / 21, 1 / 21, 2 / 21])
    assert table["null_p_table"].tolist() == pytest.approx(joint_p(drawn))
    assert table["claim"].tolist()[2] == str(Claim.NO_BETTER)
    assert (table["null_p_table"] >= table["null_p"]).all()
    first, *each = told(table)
    assert first.startswith("Of 3 settings, steering ") and len(each) == 3


def test_verdict_md_is_a_table_whatever_the_names(tmp_path: Path) -> None:
    for n, task in enumerate(("a|b *c*", "<script>alert(1)</script>\n[x](y)")):
        fabricate_run(tmp_path / str(n), n_test=60, task=task, transfer=())
        status = json.loads((tmp_path / str(n) / "status.json").read_text())
        (tmp_path / str(n) / "status.json").write_text(json.dumps(status | {"overrides": []}))
    sweep_report.write_sweep_report(tmp_path)
    lines = (tmp_path / "verdict.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4 and {row.replace("\\|", "").count("|") for row in rows} == {19}
    assert "&lt;script>" in rows[3] and "\\[x\\](y)" in rows[3] and "\\*c\\*" in rows[2]


def test_the_transfer_matrix_and_its_corrected_p(tmp_path: Path) -> None:
    for n, task in enumerate(("bbq", "mmlu")):
        fabricate_run(
            tmp_path / str(n), task=task, n_test=200, fixed=0.25, broken=0.0, seed=n,
            transfer=("mmlu", "gsm8k") if n == 0 else ("bbq", "gsm8k"),
        )  # fmt: skip
    page = Page(sweep_report.write_sweep_report(tmp_path))
    table = page.data["fig-transfer-data"]
    cells = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert [(c["selected_on"].split(",")[0], c["task"]) for c in cells] == [
        ("bbq", "bbq"), ("bbq", "mmlu"), ("bbq", "gsm8k"),
        ("mmlu", "bbq"), ("mmlu", "mmlu"), ("mmlu", "gsm8k"),
    ]  # fmt: skip
    metrics = [json.loads((tmp_path / str(n) / "metrics.json").read_text()) for n in range(2)]
    assert cells[0]["gain"] == metrics[0]["gain"]  # its own test split
    assert cells[3]["gain"] == metrics[1]["transfer"]["bbq"]["gain"]
    p = holm([c["mcnemar_p"] for c in cells])
    assert [c["p_holm"] for c in cells] == pytest.approx(p)
    heat = page.data["fig-transfer"]["data"][0]
    shown = [text for row in heat["text"] for text in row]
    assert ["n.s." in text for text in shown] == [value >= 0.05 for value in p]
    assert 0 < sum("n.s." in text for text in shown) < 6
    assert heat["zmin"] == -heat["zmax"] <= -100 * max(c["gain"] for c in cells)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dials, three seeds. Single seeds and the mean over seeds choose another dial."""
    folder = tmp_path_factory.mktemp("seeds")
    scores = {(1, 0): 0.60, (1, 1): 0.60, (1, 2): 0.50, (2, 0): 0.59, (2, 1): 0.59, (2, 2): 0.70}
    for n, ((coef, seed), score) in enumerate(scores.items()):
        fabricate_run(
            folder / str(n), coef=coef, seed=seed, n_test=100, validation_steered=score, transfer=()
        )
        status = json.loads((folder / str(n) / "status.json").read_text())
        status["overrides"].append(f"seed={seed}")
        (folder / str(n) / "status.json").write_text(json.dumps(status))
    return folder


def test_seeds_have_mean_deviation_and_gain_by_sample(seeds: Path) -> None:
    table = sweep_table(seeds)
    assert table["chosen"].tolist() == [True, True, False, False, False, True]
    page = Page(sweep_report.write_sweep_report(seeds))
    alike = table[table["coef"] == 2]
    mean, spread = 100 * alike["gain"].mean(), 100 * alike["gain"].std()
    assert "Over 3 seeds" in page.text
    chosen = table[table["chosen"]]["gain"]
    spread_chosen = f"{100 * chosen.mean():+.1f} ± {100 * chosen.std():.1f}"
    assert "of 3 seeds (mean gain" in page.text and spread_chosen in (page.text.replace("+ ", "+"))
    (row,) = [x for x in (seeds / "verdict.md").read_text().splitlines() if x.startswith("| bbq")]
    assert f"| {spread_chosen} |" in row
    found = re.search(r"validation chooses over all seeds, 2 \(again in ([\d.]+) % of", page.text)
    assert found and 50 < float(found[1]) <= 100
    assert f"of its questions), has a mean gain of {mean:+.1f}" in page.text
    assert f"{mean:+.1f} ± {spread:.1f}" in page.text
    drawn = page.data["fig-seeds-1"]["data"]
    (means,) = [t for t in drawn if t["mode"] == "lines+markers"]
    assert means["y"] == pytest.approx(
        [100 * table[table["coef"] == coef]["gain"].mean() for coef in (1, 2)]
    )
    # In all seeds the questions have the same ids: their mean over seeds is the mean of the gains.
    assert (
        f"with each of 100 questions counted once (100 are in several seeds): {mean:+.1f}"
        in page.text
    )


@pytest.mark.parametrize("setting", ["selector.min_support", "selector", "strategy"])
def test_jobs_that_differ_in_more_than_the_seed_are_no_seeds(tmp_path: Path, setting: str) -> None:
    """Options of one class differ in nothing that a column shows."""
    for n in range(2):
        fabricate_run(tmp_path / str(n), seed=n, n_test=60, transfer=())
        configured(tmp_path / str(n), f"{setting}={n}", seed=n)
    page = Page(sweep_report.write_sweep_report(tmp_path))
    assert "Over 2 seeds" not in page.text
    found = pd.read_csv(tmp_path / "summary.csv")["setting"].tolist()
    assert found == [f"{setting} 0", f"{setting} 1"]


def configured(folder: Path, *settings: str, seed: int = 0, **more: str) -> None:
    """Give a job a config.yaml with these settings, as if they had been typed."""
    cfg = OmegaConf.create({"seed": seed, "coef": 1.0, "name": folder.name, "cache": str(folder)})
    for setting in settings:
        OmegaConf.update(cfg, *setting.split("=", 1))
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    status = json.loads((folder / "status.json").read_text())
    status["overrides"] = [f"seed={seed}", *settings]
    (folder / "status.json").write_text(json.dumps(status))


@pytest.mark.parametrize(
    "setting",
    [
        "collect.token_source=prompt", "collect.pooling=mean", "selector.min_support=9", "limit=99",
        "model.path=/other", "sae.path=/other", "task.context=disambig", "task.few_shot=5",
        "decoding=constrained", "operator.low=1", "something.made.later=2",
    ],
)  # fmt: skip
def test_jobs_that_differ_in_anything_but_the_dial_stay_apart(four: Path, setting: str) -> None:
    key, _, other = setting.partition("=")
    for n in range(4):
        configured(four / str(n), f"{key}={'one' if n < 2 else other}")
    table = sweep_table(four)
    assert table["setting"].tolist() == [f"{key} one"] * 2 + [f"{key} {other}"] * 2
    assert table["chosen"].tolist() == [True, False, True, False]


def test_settings_have_rows_and_curves_of_their_own(four: Path) -> None:
    for n in range(4):
        configured(four / str(n), f"collect.token_source={'generated' if n < 2 else 'prompt'}")
    page = Page(sweep_report.write_sweep_report(four))
    names = ["collect.token_source generated", "collect.token_source prompt"]
    rows = (four / "verdict.md").read_text().replace("\\", "").splitlines()[2:4]
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in names]
    assert f"● {names[0]}" in page.text and f"■ {names[1]}" in page.text
    curves = [t for t in page.data["fig-accuracy-1"]["data"] if t.get("error_y")]
    assert [curve["x"] for curve in curves] == [[1, 2], [1, 2]]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four jobs at two dials, twice."""
    folder = tmp_path_factory.mktemp("four")
    for n, coef in enumerate((1, 2, 1, 2)):
        fabricate_run(folder / str(n), coef=coef, n_test=60, transfer=(), side_effects=False)
    return folder


def test_the_latest_count_of_plans_is_told(four: Path) -> None:
    for n, plans in enumerate((3, 4, 5, 6)):
        edit(four / str(n), odometer={"plans": plans, "best_null_gain": 0.0})
        configured(four / str(n), f"collect.pooling={'max' if n < 2 else 'mean'}")
    text = Page(sweep_report.write_sweep_report(four)).text
    draws = json.loads((four / "0" / "metrics.json").read_text())["controls"]["random"]["gains"]
    told = "the best of 6 plans of random features like those of this run, at its dial, would be "
    told += "expected to reach "
    told += f"{100 * best_of(draws, 6):+.1f} points"
    assert text.count("has answered 6 steered plans") == 2 and told.replace("-", "−") in text
    assert pd.read_csv(four / "summary.csv")["plans_on_test"].tolist() == [3, 4, 5, 6]


def test_jobs_that_differ_in_where_they_lie_are_alike(tmp_path: Path) -> None:
    for n, coef in enumerate((1, 2)):
        fabricate_run(tmp_path / str(n), coef=coef, n_test=60, transfer=())
        configured(tmp_path / str(n), f"tracker.project=p{n}", f"collect.shards={n + 1}")
    assert sweep_table(tmp_path)["setting"].tolist() == ["", ""]
    assert sweep_table(tmp_path)["chosen"].tolist() == [True, False]


def test_other_rows_of_the_same_settings_stay_apart(tmp_path: Path) -> None:
    """The data was changed between two jobs."""
    for n in range(2):
        fabricate_run(tmp_path / str(n), n_test=60, transfer=())
        configured(tmp_path / str(n))
    data = json.loads((tmp_path / "1" / "metrics.json").read_text())["data"]
    edit(tmp_path / "1", data=data | {"fingerprint": "other"})
    assert sweep_table(tmp_path)["setting"].tolist() == ["", "(2)"]


@pytest.mark.night
@pytest.mark.parametrize(
    ("dials", "best", "said"),
    [
        ((0.5, 1, 2), 2, "largest dial that was tried (2): add coef=4,8."),
        ((0.5, 1, 2), 0.5, "smallest dial that was tried (0.5): add coef=0.25,0.125."),
        ((0, 1, 2), 0, "smallest dial that was tried (0): add coef=0.25,0.5."),
        ((-1, 1), 1, "largest dial that was tried (1): add coef=3,5."),
        ((0.5, 1, 2), 1, None),
        ((2,), 2, None),
    ],
)  # fmt: skip
def test_a_choice_at_the_edge_of_the_dials_says_which_to_add(
    tmp_path: Path, dials: tuple[float, ...], best: float, said: str | None
) -> None:
    for n, coef in enumerate(dials):
        score = 0.6 if coef == best else 0.5
        fabricate_run(
            tmp_path / str(n), coef=coef, n_test=60, validation_steered=score, transfer=()
        )
    page = Page(sweep_report.write_sweep_report(tmp_path))
    (line,) = told(pd.read_csv(tmp_path / "summary.csv"))
    if said is None:
        assert "add coef=" not in page.text and "add coef=" not in line
    else:
        assert f"Validation chooses the {said}" in page.text
        assert line.endswith(f"Validation chooses the {said}")


def test_dials_that_do_alike_are_no_advice(tmp_path: Path) -> None:
    for n, coef in enumerate((1, 2)):
        fabricate_run(tmp_path / str(n), coef=coef, n_test=60, transfer=())
    page = Page(sweep_report.write_sweep_report(tmp_path))
    assert "add coef=" not in page.text


def test_seeds_of_the_splits_are_called_so(tmp_path: Path) -> None:
    for n, (dealt, coef) in enumerate(((1, 1), (1, 2), (2, 1), (2, 2))):
        fabricate_run(tmp_path / str(n), coef=coef, n_test=60, transfer=())
        configured(tmp_path / str(n), f"coef={coef}")
        with (tmp_path / str(n) / "config.yaml").open("a") as file:
            file.write(f"splits: {{seed: {dealt}}}\n")
    page = Page(sweep_report.write_sweep_report(tmp_path))
    assert "of 2 values of splits.seed (mean gain" in page.text
    assert "Over 2 values of splits.seed" in page.text
    assert "splits.seed 1: Validation chooses" in page.text
    assert "splits.seed 2: Validation chooses" in page.text and "Seed 0" not in page.text


def test_lines_of_the_plane_are_what_they_say(sweep: Path) -> None:
    figure = Page(sweep_report.write_sweep_report(sweep)).data["fig-plane-1"]
    names = {(a["x"], a["y"]): a["text"] for a in figure["layout"]["annotations"]}
    kinds = set()
    for line in figure["layout"]["shapes"]:
        (x0, y0), (x1, y1) = (line["x0"], line["y0"]), (line["x1"], line["y1"])
        name = names[x1, y1].replace("−", "-")
        kinds.add(name[0])
        if name.startswith("SER"):
            assert (x0, y0) == (0, 0) and y1 / (x1 + y1) == pytest.approx(float(name[4:]))
        else:
            assert x0 - y0 == pytest.approx(float(name)) and x1 - y1 == pytest.approx(float(name))
    assert kinds >= {"S", "+"}
    table = sweep_table(sweep).query("state == 'done'")
    (points,) = [t for t in figure["data"] if t["mode"] == "markers+lines"]
    assert points["x"] == (100 * table["fixed"] / table["n"]).tolist()
    assert points["y"] == (100 * table["broken"] / table["n"]).tolist()


def test_bands_span_the_draws_at_every_coef(sweep: Path) -> None:
    figure = Page(sweep_report.write_sweep_report(sweep)).data["fig-accuracy-1"]
    low, high = figure["data"][0], figure["data"][1]
    assert high["fillcolor"] == "var(--random-band)" and low["x"] == high["x"] == [0.5, 1, 2]
    for n in range(3):
        arms = json.loads((sweep / str(n) / "metrics.json").read_text())["arms"]
        draws = [100 * arms[f"random_{k}"]["accuracy"] for k in range(1, DRAWS + 1)]
        assert (low["y"][n], high["y"][n]) == (min(draws), max(draws))


def test_several_seeds_with_one_dial_have_a_spread_and_no_doses(tmp_path: Path) -> None:
    for seed in (0, 1):
        fabricate_run(tmp_path / str(seed), seed=seed, n_test=100, transfer=())
    page = Page(sweep_report.write_sweep_report(tmp_path))
    assert "gain ± SD over seeds p (Holm)" in page.text and "Question and setting" in page.text
    assert "Validation chooses coef" not in page.text
    fabricate_run(tmp_path / "2", coef=2, n_test=100, transfer=())
    assert "Seed 0: Validation chooses coef" in Page(sweep_report.write_sweep_report(tmp_path)).text
