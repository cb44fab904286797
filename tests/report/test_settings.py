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


def test_a_setting_that_another_method_has_or_that_is_null_is_not_in_a_name():
    methods = ["CorrSteer", "LoRA", "LoRA"]
    done = pd.DataFrame({"job": [0, 1, 2], "method": methods, "question": "", "overrides": ""})
    configs = {0: {}, 1: {"strategy.match": "None"}, 2: {"strategy.match": "0.9"}}
    found = labels(done, configs, ["method"]).tolist()
    assert found == ["CorrSteer", "LoRA", "LoRA, strategy.match 0.9"]


def test_what_tells_jobs_apart_by_itself_is_named_if_it_is_null():
    done = pd.DataFrame({"job": [0, 1], "method": "CorrSteer", "question": "", "overrides": ""})
    found = labels(done, {0: {"limit": "None"}, 1: {"limit": "9"}}, ["method"]).tolist()
    assert found == ["limit null", "limit 9"]
