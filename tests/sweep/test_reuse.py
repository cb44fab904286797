"""Folders that hold results: the same command goes on in them, another one is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from corrsteer.errors import ConfigError
from corrsteer.report.sweep_page import write_sweep_report
from corrsteer.report.sweep_table import sweep_table
from corrsteer.store.runfolder import RunFolder
from corrsteer.sweep.reuse import WRITTEN, take_run, take_sweep
from tests.command import ROOT, in_this_process
from tests.report.fabricated_run import fabricate_run
from tests.run.test_cli import PARTS, calls


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture
def run(tmp_path) -> Path:
    fabricate_run(tmp_path / "run", n_test=40, side_effects=False, transfer=())
    return tmp_path / "run"


WORDS = ["task=bbq", "layers=all", "coef=1.0"]


def test_the_same_run_may_be_typed_again_and_is_unfinished_until_it_ends(run):
    take_run(run, WORDS)
    folder = RunFolder(run)
    assert (run / "metrics.json").exists()
    folder.start(WORDS)
    assert not (run / "metrics.json").exists()
    folder.failed("no")
    take_run(run, WORDS)


@pytest.mark.parametrize("words", [[], WORDS[:2], [*WORDS, "ablations=true"]])
def test_another_run_is_refused_and_changes_nothing(run, words):
    before = files(run)
    with pytest.raises(ConfigError, match=r"run holds another run \(task=bbq .*hydra.run.dir"):
        take_run(run, words)
    assert files(run) == before


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_of_the_users_is_not_written_over(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="and no run of this program wrote it"):
        take_run(tmp_path, [])
    if name != "multirun.yaml":
        with pytest.raises(ConfigError, match="and no sweep of this program wrote it"):
            take_sweep(tmp_path, [])


def test_a_folder_without_results_is_free(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "7").mkdir()
    take_run(tmp_path, [])
    take_sweep(tmp_path, [])
    take_run(tmp_path / "none", [])
    take_sweep(tmp_path / "none", [])
    assert not (tmp_path / "none").exists()


@pytest.fixture
def sweep(tmp_path) -> Path:
    for n in range(3):
        fabricate_run(tmp_path / str(n), n_test=40, coef=n + 1, side_effects=False, transfer=())
    (tmp_path / "shared" / "0").mkdir(parents=True)
    RunFolder(tmp_path / "shared" / "0").start([])
    RunFolder(tmp_path / "shared" / "0").done()
    words = "{hydra: {overrides: {task: [task=bbq, 'coef=1,2,3']}}}"
    (tmp_path / "multirun.yaml").write_text(words)
    write_sweep_report(tmp_path)
    return tmp_path


@pytest.mark.long
def test_jobs_of_a_longer_sweep_never_stand_beside_those_of_a_shorter_one(sweep):
    before = files(sweep)
    for words in (["task=bbq", "coef=1"], ["task=bbq", "coef=1,2"], ["coef=1,2,3", "task=bbq"]):
        with pytest.raises(ConfigError, match=r"holds another sweep \(task=bbq coef=1,2,3\)"):
            take_sweep(sweep, words)
    with pytest.raises(ConfigError, match="holds another run|no run of this program"):
        take_run(sweep, WORDS)
    with pytest.raises(ConfigError, match="no sweep of this program"):
        take_sweep(sweep / "0", WORDS)
    assert files(sweep) == before


@pytest.mark.long
def test_the_same_sweep_begins_anew(sweep):
    take_sweep(sweep, ["task=bbq", "coef=1,2,3"])
    assert not (sweep / "summary.csv").exists()
    assert not list(sweep.rglob("status.json"))
    (sweep / "0" / "log.txt").touch()
    assert sweep_table(sweep)["state"].tolist() == ["missing"] * 3


@pytest.mark.long
def test_jobs_without_their_sweep_are_refused(sweep):
    for name in ("multirun.yaml", "summary.csv", "verdict.md", "report.html"):
        (sweep / name).unlink()
    with pytest.raises(ConfigError, match="holds another sweep, whose"):
        take_sweep(sweep, ["task=bbq", "coef=1,2,3"])


@pytest.mark.night
@pytest.mark.parametrize("text", ["", "7", "{", "{hydra: 1}", "hydra: {overrides: {task: 5}}"])
def test_a_sweep_whose_words_cannot_be_read_counts_as_another(sweep, text):
    (sweep / "multirun.yaml").write_text(text)
    with pytest.raises(ConfigError, match="holds another sweep"):
        take_sweep(sweep, ["task=bbq", "coef=1,2,3"])


# -- as it is typed --------------------------------------------------------------------------------


@pytest.mark.night
@pytest.mark.long
def test_a_folder_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    for name in ("src", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("corrsteer.run.pipeline", "corrsteer.report.sweep_page"):
        monkeypatch.setitem(sys.modules, name, None)  # puts it back
    exec(PARTS, {})

    def typed(words: str):
        return in_this_process(f"python -m src.main {words}", cwd=tmp_path)

    for first, jobs, other in (
        ("coef=1 hydra.run.dir=mine/run", 1, "coef=2 hydra.run.dir=mine/run"),
        ("-m coef=1,2,3 hydra.sweep.dir=mine/sweep", 3, "-m coef=5 hydra.sweep.dir=mine/sweep"),
    ):
        ended = typed(first)
        assert ended.code == 0, ended.err
        made, before = len(calls(tmp_path)), files(tmp_path / "mine")
        assert "holds another" in typed(other).refusal
        assert len(calls(tmp_path)) == made
        assert files(tmp_path / "mine") == before
        assert typed(first).code == 0
        assert len(calls(tmp_path)) == made + jobs
