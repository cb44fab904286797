"""What a report says of a gate."""

from __future__ import annotations

import pandas as pd
import pytest

from corrsteer.report.evidence import GateUse
from corrsteer.report.judgement import judge
from corrsteer.report.record import read_record
from corrsteer.report.run_page import write_run_report
from corrsteer.report.sweep_table import sweep_table
from tests.report.fabricated_run import edit, fabricate_run


def used(auroc=0.75):
    layers = [{"layer": 3, "duty": 0.2, "dose": 1.5, "auroc": auroc}]
    values: dict[str, object] = {"prompt_passes": 1} if auroc else {}
    values |= {"n": 60, "n_positions": 120, "duty": 0.2, "dose": 1.5, "auroc": auroc}
    return GateUse.model_validate({**values, "layers": layers}).model_dump()


@pytest.mark.long
def test_page_and_table_say_how_often_a_gate_is_open(tmp_path):
    for n, use in enumerate((used(), used(None), None)):
        fabricate_run(tmp_path / str(n), n_test=60, transfer=())
        edit(tmp_path / str(n), gate_use=use)
    pages = [write_run_report(tmp_path / str(n)).read_text() for n in range(3)]
    assert "open at 20.0\N{NO-BREAK SPACE}% of 120 positions of 60 test answers" in pages[0]
    costs = "costs each one pass over its prompt more, without steering"
    assert [costs in page for page in pages] == [True, False, False]
    assert "with an AUROC of 0.75" in pages[0] and "was not compared with outcomes" in pages[1]
    assert "Where the gate is open" not in pages[2]
    table = sweep_table(tmp_path)
    assert table.loc[0, ["gate_duty", "gate_dose", "gate_auroc"]].tolist() == [0.2, 1.5, 0.75]
    assert table.loc[1, "gate_duty"] == 0.2 and pd.isna(table.loc[1, "gate_auroc"])
    assert table.loc[2, ["gate_duty", "gate_dose", "gate_auroc"]].isna().all()


@pytest.mark.long
def test_an_oracle_counts_in_no_claim(tmp_path):
    """It would be better than anything; what is told of the others stays."""
    fabricate_run(tmp_path / "0", n_test=60, transfer=())
    record = read_record(tmp_path / "0")
    perfect = record.controls["instruction"].model_copy(
        update={"gains": [0.9], "at_least_as_good": 1, "paired_p": 1.0, "ahead_p": 0.0}
    )
    more = record.model_copy(update={"controls": {**record.controls, "oracle": perfect}})
    judged, other = judge(record), judge(more)
    assert "oracle" not in other.compared
    assert (judged.better, judged.level, judged.worse) == (other.better, other.level, other.worse)
    assert judged.beats_all == other.beats_all
    static = record.model_copy(update={"controls": {**record.controls, "static": perfect}})
    assert "static" in judge(static).better
    edit(tmp_path / "0", controls={name: c.model_dump() for name, c in more.controls.items()})
    best = max(c.best for c in record.controls.values())
    assert sweep_table(tmp_path).loc[0, "control_best"] == pytest.approx(best)
