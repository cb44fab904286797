"""What a report says of layers that validation chose."""

from __future__ import annotations

import pandas as pd
import pytest

from corrsteer.report.evidence import LayerChoice
from corrsteer.report.run_page import write_run_report
from corrsteer.report.sweep_table import sweep_table
from tests.report.fabricated_run import edit, fabricate_run


def choice(kept=(3, 1), used=(1, 3), path=(0.6, 0.7)):
    alone = [
        {"layer": n, "factor": 0.5, "fixed": 20, "broken": n, "gain": (20 - n) / 100,
         "ci": (0.1, 0.3), "p": 0.01, "q": 0.02, "kept": n in kept}
        for n in (1, 3, 5)
    ]  # fmt: skip
    return LayerChoice.model_validate(
        {
            **{"rule": "a <i>rule</i>", "n": 100, "unsteered": 0.5, "whole": 0.65, "alone": alone},
            **{"kept": list(kept), "used": list(used), "path": list(path)},
            **{"joint": 0.2, "joint_ci": (0.1, 0.3), "singles": 0.36, "singles_ci": (0.2, 0.5)},
            **{"interaction": -0.16, "interaction_ci": (-0.3, -0.01)},
        }
    ).model_dump()


@pytest.mark.long
def test_page_and_table_say_which_layers_were_kept_and_what_they_gain(tmp_path):
    for n, made in enumerate((choice(), choice((), (), ()), choice((3,), (1, 3, 5), ()), None)):
        fabricate_run(tmp_path / str(n), n_test=60, transfer=())
        edit(tmp_path / str(n), choice=made)
    pages = [write_run_report(tmp_path / str(n)).read_text() for n in range(4)]
    assert "Kept: layers 1, 3." in pages[0] and "a &lt;i&gt;rule&lt;/i&gt;" in pages[0]
    assert "an interaction of −16.0 [−30.0, −1.0]" in pages[0]
    assert "layer 3 (60.0\N{NO-BREAK SPACE}%), layer 1 (70.0" in pages[0]
    assert "No layer is kept." in pages[1] and "interaction of" not in pages[1]
    assert "Kept: layers 3; steering: layers 1, 3, 5." in pages[2]
    assert "Which layers steer" not in pages[3]
    tuned = "tuned on the validation split, and no control was"
    assert [tuned in page for page in pages] == [True] * 3 + [False]
    table = sweep_table(tmp_path)
    assert table["kept_layers"].fillna("").tolist() == ["1, 3", "none", "3", ""]
    assert table.loc[0, ["kept_alone_gain", "kept_joint_gain", "kept_interaction"]].tolist() == [
        0.36, 0.2, -0.16,
    ]  # fmt: skip
    assert pd.isna(table.loc[3, "kept_joint_gain"])
