"""Keys and results are what they were: a change of either has to be meant (see run.py, keys.py)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden import keys, run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    from tests.run.test_cache_keys import furnish

    folder = tmp_path_factory.mktemp("place")
    furnish(folder)
    return folder


@pytest.mark.night
def test_no_cache_key_moved(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert keys.measured(place, tmp_path) == json.loads(keys.GOLDEN.read_text())


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """What of ``old`` is another thing in ``new``, which may hold more."""
    if not isinstance(old, dict):
        return [] if old == new else [f"{place}: {old!r:.200} is {new!r:.200}"]
    lacking = [f"{place}/{name} is missing" for name in old if name not in new]
    return lacking + [
        line
        for name in old
        if name in new
        for line in differences(old[name], new[name], f"{place}/{name}")
    ]


@pytest.mark.night
def test_no_result_of_a_small_run_changed(tmp_path):
    golden = json.loads(run.GOLDEN.read_text())
    if run.arithmetic() != golden["arithmetic"]:
        pytest.skip("this processor's float32 arithmetic is not that of the golden file")
    measured = run.measured(tmp_path)
    assert differences(golden, measured) == []
    assert measured["cache"] == golden["cache"]
