"""What the report pages and the sweep table say, without a browser."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fabricated_run import fabricate_run, set_status

from corrsteer.errors import DataError
from corrsteer.stages import pages, report
from corrsteer.stats.intervals import holm


class Page(HTMLParser):
    """Text, scripts and attributes of a page as a browser's tokenizer sees them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.data: dict[str, Any] = {}
        self.attributes: list[tuple[str, str, str | None]] = []
        self._script: dict[str, str | None] = {}
        self._within = ""
        self._held = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        self.text = " ".join(" ".join(self.words).split()).replace("\N{NO-BREAK SPACE}", " ")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag in ("script", "style"):
            self._script, self._within, self._held = dict(attrs), tag, ""

    def handle_endtag(self, tag: str) -> None:
        if self._within == "script" and self._script.get("type") == "application/json":
            self.data[str(self._script["id"])] = json.loads(self._held)
        elif self._within == "script":
            self.scripts.append(self._held)
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within:
            self._held += data
        else:
            self.words.append(data)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    fabricate_run(tmp_path / "run")
    return tmp_path / "run"


def change(folder: Path, **changes: object) -> dict:
    metrics = json.loads((folder / "metrics.json").read_text()) | changes
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return metrics


def test_run_report_says_what_the_metrics_say(run: Path) -> None:
    metrics = change(run)
    page = Page(report.write_run_report(run))
    arms, flips = metrics["arms"], metrics["flips"]
    for name in arms:
        low, high = arms[name]["ci"]
        label = {"flipped": "Sign flipped", "direction_1": "Random direction"}.get(
            name, name.replace("random_", "random feature ").capitalize()
        )
        row = (
            f"{label} {100 * arms[name]['accuracy']:.1f} % {100 * low:.1f} % to {100 * high:.1f} %"
        )
        assert row in page.text
    assert f"{flips['fixed']} answers fixed, {flips['broken']} broken" in page.text
    assert f"chance {100 / 3:.1f} %" in page.text
    assert "bbq with CorrSteer-A at coef 1" in page.text
    assert "layers 0-5" in page.text and "2025-11-22 13:05" in page.text
    assert "torch 2.13.0" in page.text and "_target_: corrsteer.tasks.bbq" in page.text
    for group in metrics["groups"]:
        assert group in page.text


def test_verdict_comes_before_any_number(run: Path) -> None:
    verdict = ["Steering did not help here.", "A random draw gains as much."]
    change(run, verdict=verdict)
    text = Page(report.write_run_report(run)).text
    places = [text.index(s) for s in (*verdict, "Accuracy, baseline to steered", "Chosen features")]
    assert places == sorted(places)


def test_flips_listed_are_the_flips_counted(run: Path) -> None:
    flips = change(run)["flips"]
    page = Page(report.write_run_report(run))
    kinds = [flip["kind"] for flip in page.data["flip-data"]]
    assert (kinds.count("fixed"), kinds.count("broken")) == (flips["fixed"], flips["broken"])
    moves = [(f["from"], f["to"]) for f in page.data["flip-data"]]
    states = ("right", "wrong", "invalid")
    for before, row in zip(states, flips["table"], strict=True):
        for after, count in zip(states, row, strict=True):
            flipped = (before == "right") != (after == "right")
            assert moves.count((before, after)) == (count if flipped else 0)


def test_flips_pair_by_id_and_not_by_row(run: Path) -> None:
    before = Page(report.write_run_report(run)).data["flip-data"]
    answers = pd.read_parquet(run / "answers.parquet")
    answers.sample(frac=1, random_state=3).to_parquet(run / "answers.parquet", index=False)
    after = Page(report.write_run_report(run)).data["flip-data"]
    assert sorted(before, key=str) == sorted(after, key=str)


def test_noise_is_named_on_table_and_cards(run: Path) -> None:
    features = pd.read_csv(run / "features.csv")
    features["noise"] = features["layer"] == 2
    features.to_csv(run / "features.csv", index=False)
    change(run, noise={"features": 6, "below_ceiling": 1})
    text = Page(report.write_run_report(run)).text
    assert text.count("noise: not above its ceiling") == 1
    assert text.count("above ceiling") == 5
    assert "1 of 6 chosen features does not exceed its ceiling" in text


def test_without_flips_ser_is_undefined(tmp_path: Path) -> None:
    fabricate_run(tmp_path / "run", coef=0.0, fixed=0, broken=0)
    page = Page(report.write_run_report(tmp_path / "run"))
    assert "SER undefined: no answer flipped." in page.text
    assert "flip-data" not in page.data


def test_open_questions_have_no_chance_constrained_or_groups(tmp_path: Path) -> None:
    fabricate_run(tmp_path / "run", options=False)
    text = Page(report.write_run_report(tmp_path / "run")).text
    assert "The task has no chance level." in text
    assert "no constrained decoding" in text
    assert "Accuracy by group" not in text


def test_empty_plan_and_absent_passages(run: Path) -> None:
    (run / "contexts.json").write_text("[]")
    assert "No token activated this feature." in Page(report.write_run_report(run)).text
    features = pd.read_csv(run / "features.csv").assign(chosen=False)
    features.to_csv(run / "features.csv", index=False)
    assert "no feature was chosen" in Page(report.write_run_report(run)).text


def test_failed_run_shows_its_error(run: Path) -> None:
    set_status(run, "failed", "out of <memory>")
    assert "This run failed: out of <memory>" in Page(report.write_run_report(run)).text


def test_unfinished_run_is_refused(run: Path) -> None:
    (run / "metrics.json").unlink()
    with pytest.raises(DataError, match=r"no metrics\.json"):
        report.write_run_report(run)


def test_page_is_self_contained(run: Path) -> None:
    path = report.write_run_report(run)
    page = Page(path)
    assert sum("plotly.js v" in script for script in page.scripts) == 1
    linked = [(t, n, v) for t, n, v in page.attributes if n in ("src", "href", "srcset", "action")]
    assert linked == []
    style = re.search(r"<style>(.*?)</style>", path.read_text(encoding="utf-8"), re.DOTALL)
    assert style and not re.search(r"url\(|@import", style[1])


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    fabricate_run(tmp_path / "run", n_test=120, fixed=0.3, hostile=True)
    page = Page(report.write_run_report(tmp_path / "run"))
    assert len(page.scripts) == 2  # plotly.js and ours
    assert not any(tag == "img" or name.startswith("on") for tag, name, _ in page.attributes)
    prompts = " ".join(flip["prompt"] for flip in page.data["flip-data"])
    for text in (
        "<script>alert(1)</script>",
        "</script><script>",
        "{{ 7 * 7 }}",
        "nul \\x00 bell \\x07",
    ):
        assert text in prompts
        assert text in page.text


def test_run_report_is_fast(tmp_path: Path) -> None:
    fabricate_run(tmp_path / "run", n_test=1000)
    report.write_run_report(tmp_path / "run")
    start = time.process_time()
    report.write_run_report(tmp_path / "run")
    assert time.process_time() - start < 1.5


# -- sweeps ------------------------------------------------------------------------------------


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
    table = report.sweep_table(sweep)
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
    page = Page(report.write_sweep_report(sweep))
    summary = pd.read_csv(sweep / "summary.csv")
    assert len(summary) == 7
    assert summary["gain"].tolist()[:3] == report.sweep_table(sweep)["gain"].tolist()[:3]
    assert [v for t, n, v in page.attributes if n == "href"] == ["1/report.html"]
    assert "DataError: <b>no rows</b>" in page.text
    assert "Validation chooses coef 1 (job 1)" in page.text
    assert "Job 6 (coef=9): unreadable JSONDecodeError" in page.text
    assert sum("plotly.js v" in script for script in page.scripts) == 1
    figure = page.data["fig-accuracy-1"]
    assert [trace["x"] for trace in figure["data"] if trace.get("error_y")] == [[0.5, 1.0, 2.0]]


def test_sweep_without_any_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no jobs"):
        report.sweep_table(tmp_path)


def test_sweep_without_a_finished_job(tmp_path: Path) -> None:
    set_status(tmp_path / "0", "failed", "boom", ("task=bbq", "coef=much", "seed=1"))
    set_status(tmp_path / "1", "failed", "bang", ())
    assert report.best_by_validation(report.sweep_table(tmp_path)) is None
    assert report.sweep_table(tmp_path)["seed"].tolist() == [1, pd.NA]
    text = Page(report.write_sweep_report(tmp_path)).text
    assert "No job is done yet." in text and "boom" in text and "bang" in text


@pytest.mark.parametrize(
    ("scores", "coefs", "best"),
    [
        ([0.5, 0.6, 0.55], [1, 2, 4], 1),
        ([0.6, 0.6, 0.6], [2, 1, -0.5], 2),
        ([0.6, 0.6], [-1, 1], 0),
        ([None, 0.4], [1, 2], 1),
        ([None, None], [1, 2], None),
    ],
)
def test_best_by_validation(scores: list, coefs: list, best: int | None) -> None:
    table = pd.DataFrame(
        {"job": range(len(scores)), "coef": coefs, "validation_steered": scores},
    ).astype({"validation_steered": float})
    # The test split would choose otherwise.
    row = report.best_by_validation(table.assign(steered=[-s for s in range(len(scores))]))
    assert (row if row is None else row["job"]) == best


def test_each_question_has_its_own_choice_and_curves(tmp_path: Path) -> None:
    jobs = [("bbq", 1, 0.6), ("bbq", 2, 0.7), ("mmlu", 1, 0.4), ("mmlu", 2, 0.3)]
    for n, (task, coef, score) in enumerate(jobs):
        fabricate_run(tmp_path / str(n), task=task, coef=coef, n_test=60, validation_steered=score)
    assert report.sweep_table(tmp_path)["chosen"].tolist() == [False, True, True, False]
    page = Page(report.write_sweep_report(tmp_path))
    assert "task bbq" in page.text and "task mmlu" in page.text
    assert {"fig-accuracy-1", "fig-accuracy-2"} <= set(page.data)
    assert page.text.count("That is not above the baseline") == 1


def test_what_was_swept_shows_without_a_curve_over_coef(tmp_path: Path) -> None:
    for n, pooling in enumerate(("max", "mean")):
        fabricate_run(tmp_path / str(n), n_test=60)
        status = json.loads((tmp_path / str(n) / "status.json").read_text())
        status["overrides"].append(f"+collect.pooling={pooling}")
        (tmp_path / str(n) / "status.json").write_text(json.dumps(status))
    table = report.sweep_table(tmp_path)
    assert table["overrides"].tolist() == ["+collect.pooling=max", "+collect.pooling=mean"]
    page = Page(report.write_sweep_report(tmp_path))
    assert "collect.pooling=mean" in page.text and "task=bbq" not in page.text
    assert "fig-accuracy-1" not in page.data


# -- text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (pages.pct, 0.5234, "52.3 %"),
        (pages.pct, None, "–"),
        (pages.points, 0.0604, "+6.0"),
        (pages.points, -0.0604, "−6.0"),
        (pages.points, -0.0001, "+0.0"),
        (pages.p_value, 3.2e-12, "p = 3e-12"),
        (pages.p_value, 4.1e-5, "p = 4e-5"),
        (pages.p_value, 0.0341, "p = 0.034"),
        (pages.p_value, 0.62, "p = 0.62"),
        (pages.p_value, 1.0, "p = 1.00"),
        (pages.p_value, 0.0, "p < 1e-300"),
        (pages.r_value, -0.1234, "−0.123"),
        (pages.short, 1.0, "1"),
        (pages.short, 0.012345, "0.0123"),
        (pages.whole, 12345, "12,345"),
        (pages.layer_text, [0, 1, 2, 5], "0-2, 5"),
        (pages.layer_text, [3], "3"),
        (pages.visible, "a\x00b\tc\nd", "a\\x00b\tc\nd"),
    ],
)
def test_numbers_as_text(write, value, text: str) -> None:
    assert write(value).replace("\N{NO-BREAK SPACE}", " ") == text


def test_a_number_reads_the_same_from_numpy_and_from_python():
    assert pages.points(pd.Series([0.0715])[0]) == pages.points(0.0715) == "+7.1"


def test_the_site_check_is_shown_and_its_absence_said(run: Path) -> None:
    text = report.write_run_report(run).read_text(encoding="utf-8")
    assert "Do the SAEs fit?" in text
    assert "fits block 2 better" in text and "fits here best" in text
    change(run, sites=[])
    text = report.write_run_report(run).read_text(encoding="utf-8")
    assert "Do the SAEs fit?" not in text
    assert "fit not checked" in text
