"""What ``name=`` calls a run stands above its report."""

from __future__ import annotations

import pytest

from corrsteer.report.run_page import given_name, write_run_report
from tests.report.fabricated_run import fabricate_run


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("name: first <b>\ntask:\n  name: bbq\n", "first <b>"),
        ("name: bbq\ntask:\n  name: bbq\n", ""),
        ("task:\n  name: bbq\n", ""),
        ("name: 'x\n", ""),
        ("[1, 2]\n", ""),
    ],
)
def test_the_name_that_was_given_stands_in_title_and_heading(tmp_path, config, name):
    file = tmp_path / "config.yaml"
    file.write_text(config)
    assert given_name(file) == name


def test_the_page_has_it(tmp_path):
    fabricate_run(tmp_path, n_test=20)
    (tmp_path / "config.yaml").write_text("name: first <b>\ntask:\n  name: bbq\n")
    page = write_run_report(tmp_path).read_text()
    assert "<title>first &lt;b&gt;: bbq, CorrSteer-A" in page
    assert "CorrSteer run <bdi>first &lt;b&gt;</bdi>" in page
