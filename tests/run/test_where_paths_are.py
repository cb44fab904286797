"""Paths in settings are those of the folder where the command was typed, whatever Hydra is told;
and a file that a run wrote is not taken for the user's."""

from __future__ import annotations

import pytest

from corrsteer.run import pipeline
from tests.command import ROOT, in_this_process

pytestmark = pytest.mark.long


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where runs say which folder they are in and whose classes they would read."""
    for name in ("src", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    calls = []

    def run(cfg, folder):
        from pathlib import Path

        calls.append((Path.cwd(), cfg.classes, Path(cfg.cache).resolve()))
        (folder / "classes.csv").write_text("sae,layer,feature,class,by,why\n")
        return 0.0

    monkeypatch.setattr(pipeline, "run", run)
    return tmp_path, calls


def test_a_run_that_changes_its_folder_shares_the_cache(home):
    place, calls = home
    for words in ("hydra.job.chdir=true", "coef=1"):
        assert in_this_process(f"python -m src.main {words}", place).code == 0
    assert [call[0] for call in calls] == [place, place]
    assert {call[2] for call in calls} == {place / "outputs" / "cache"}


def test_the_classes_of_an_earlier_run_in_the_same_folder_are_nobodys(home):
    place, calls = home
    for _ in range(2):
        assert in_this_process("python -m src.main hydra.run.dir=.", place).code == 0
    assert (place / "classes.csv").exists()
    assert in_this_process("python -m src.main hydra.run.dir=another", place).code == 0
    assert [call[1] for call in calls] == ["classes.csv", None, "classes.csv"]
