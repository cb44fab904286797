"""A kind of arm is named, coloured and listed by its entry in KINDS, everywhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

import corrsteer.report
from corrsteer.report.plots import band_colour, colour
from corrsteer.report.record import read_record
from corrsteer.report.run_page import write_run_report
from corrsteer.report.sweep_page import write_sweep_report
from corrsteer.report.tables import control_kinds, in_words, subject
from corrsteer.report.verdict import verdict
from corrsteer.steering.arms import KINDS, Kind
from corrsteer.trackers.sending import summary
from tests.report.fabricated_run import Page, control, edit, fabricate_run
from tests.report.made_up import made_up

STYLE = Path(corrsteer.report.__file__).with_name("templates") / "style.css"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_colour_in_both_schemes(kind: str) -> None:
    light, dark = STYLE.read_text().split("prefers-color-scheme: dark", 1)
    names = [colour(kind), *([band_colour(kind)] if KINDS[kind].drawn else [])]
    for name in names:
        variable = name.removeprefix("var(").removesuffix(")")
        for scheme in (light, dark):
            assert re.search(rf"{variable}: ", scheme), name
    if KINDS[kind].drawn:
        assert f".swatch.band.{KINDS[kind].colour} " in light + dark


def test_sentences_name_every_kind_of_control() -> None:
    assert sorted(control_kinds()) == sorted(set(KINDS) - {"baseline", "steered"})


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but an entry in KINDS."""
    monkeypatch.setitem(KINDS, "adapter", Kind("Adapter", "adapters", "shuffled", drawn=True))


def with_adapters(folder: Path, coef: float = 1.0) -> None:
    """Two more arms: copies of random features, the second better than everything."""
    m = fabricate_run(folder, coef=coef, n_test=60, transfer=())
    first = m["arms"]["random_1"] | {"kind": "adapter"}
    second = m["arms"]["steered"] | {"kind": "adapter", "accuracy": 0.99}
    gains = [arm["accuracy"] - m["arms"]["baseline"]["accuracy"] for arm in (first, second)]
    edit(
        folder,
        arms=m["arms"] | {"lora_a": first, "lora_b": second},
        controls=m["controls"] | {"adapter": control(m["gain"], gains, "adapter")},
        task_metrics={},
    )


def test_the_page_of_a_run_shows_it(adapter: None, tmp_path: Path) -> None:
    with_adapters(tmp_path)
    page = Page(write_run_report(tmp_path))
    assert re.search(r"Adapter ×2 [\d.]+ % to 99\.0 %", page.text)
    figure = page.data["fig-arms"]
    row = figure["layout"]["yaxis"]["ticktext"].index("Adapter ×2")
    (marks,) = [trace for trace in figure["data"] if trace["y"] == [row] * 2]
    assert marks["marker"]["color"] == "var(--shuffled)"
    (band,) = [s for s in figure["layout"]["shapes"] if s.get("y0") == pytest.approx(row - 0.32)]
    assert band["fillcolor"] == "var(--shuffled-band)"
    kinds = [dict(zip(page.data["fig-arms-data"]["columns"], values, strict=True))["kind"]
             for values in page.data["fig-arms-data"]["rows"]]  # fmt: skip
    assert kinds.count("adapter") == 2


def test_every_arm_is_drawn_in_the_colour_of_its_kind(tmp_path: Path) -> None:
    arms = fabricate_run(tmp_path, n_test=60)["arms"]
    figure = Page(write_run_report(tmp_path)).data["fig-arms"]
    drawn = {}
    for trace in figure["data"]:
        (row,) = set(trace["y"])  # a line per kind
        label = figure["layout"]["yaxis"]["ticktext"][row]
        drawn[re.sub(r" ×\d+$", "", label)] = trace["marker"]["color"]
    assert drawn == {
        KINDS[kind].label: colour(kind) for kind in {arm["kind"] for arm in arms.values()}
    }
    assert len(set(drawn.values())) > 4


@pytest.mark.long
def test_the_report_of_a_sweep_shows_it(adapter: None, tmp_path: Path) -> None:
    for n, coef in enumerate((1, 2)):
        with_adapters(tmp_path / str(n), coef)
    page = Page(write_sweep_report(tmp_path))
    table = pd.read_csv(tmp_path / "summary.csv")
    gains = json.loads((tmp_path / "0" / "metrics.json").read_text())["controls"]["adapter"]
    assert table.loc[0, "control_adapter"] == pytest.approx(max(gains["gains"]))
    assert not table["beats_all"].dropna().any()
    assert "| Adapters |" in (tmp_path / "verdict.md").read_text().splitlines()[0]
    assert re.search(r"Adapters \(\+\d+\.\d\) do better than steering", page.text)
    figure = page.data["fig-accuracy-1"]
    assert any("adapters at coef" in (trace.get("hovertemplate") or "") for trace in figure["data"])


def test_the_verdict_and_the_tracker_have_it(adapter: None, tmp_path: Path) -> None:
    better = {
        "gains": [0.4],
        "paired_p": 1.0,
        "ahead_p": 1e-6,
        "paired_gain": -0.28,
        "paired_ci": [-0.3, -0.2],
    }
    record = made_up(controls={"adapter": better})
    assert control_kinds()[0] == "adapter"
    first, second = verdict(record)
    assert first == "Steering helps (+12.0 points), but adapters help more (+40.0)."
    assert second == "Adapters (+40.0) do better than steering."
    with_adapters(tmp_path)
    record = read_record(tmp_path)
    assert summary(record)["control_gain/adapter"] == record.controls["adapter"].best


@pytest.mark.parametrize("kind", control_kinds())
def test_a_control_has_one_name(kind):
    assert in_words(kind) == KINDS[kind].label.lower()
    assert subject(kind).removeprefix("the ") == in_words(kind)
