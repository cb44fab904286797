"""What tells jobs apart, in configs as runs write them."""

from __future__ import annotations

import pandas as pd
import pytest

from corrsteer.config import resolved_yaml
from corrsteer.report.settings import labels, leaves
from tests.test_config import composed


@pytest.mark.parametrize("words", [(), ("search=pareto",)])
def test_jobs_that_differ_in_the_dial_have_one_setting(tmp_path, words):
    found = []
    for coef in ("0.5", "2"):
        (tmp_path / coef).mkdir()
        text = resolved_yaml(composed(f"coef={coef}", *words))
        (tmp_path / coef / "config.yaml").write_text(text)
        found.append(leaves(tmp_path / coef))
    assert found[0] == found[1] and "task.context" in found[0]


def test_a_dial_of_the_strategy_alone_is_a_setting(tmp_path):
    (tmp_path / "config.yaml").write_text(resolved_yaml(composed("strategy.coef=3")))
    assert leaves(tmp_path)["strategy.coef"] == "3"


def test_a_setting_that_another_method_has_is_not_in_a_name():
    methods = ["CorrSteer", "LoRA", "LoRA"]
    done = pd.DataFrame({"job": [0, 1, 2], "method": methods, "question": "", "overrides": ""})
    configs = {0: {}, 1: {"strategy.match": "None"}, 2: {"strategy.match": "0.9"}}
    assert labels(done, configs, ["method"]).tolist() == [
        "CorrSteer", "LoRA, strategy.match None", "LoRA, strategy.match 0.9",
    ]  # fmt: skip
