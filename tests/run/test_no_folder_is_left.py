"""A command that is refused before anything is computed leaves no folder, and removes nothing that
was there before it."""

from __future__ import annotations

import json
import os

import pytest

from corrsteer.store.made import note, unmake
from tests.command import ROOT, in_this_process

pytestmark = pytest.mark.long


@pytest.fixture
def home(tmp_path):
    for name in ("src", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def type_(home, words):
    return in_this_process(f"python -m src.main {words}", home)


def at_night(*values):
    return pytest.param(*values, marks=pytest.mark.night)


@pytest.mark.parametrize(
    "words",
    [
        "coef=nan",
        at_night("layers=9"),
        at_night("task=bqb"),
        at_night("data=no/such/folder"),
        "hydra.run.dir=mine layers=9",
    ],
)
def test_a_run_that_is_refused_leaves_nothing(home, words):
    assert type_(home, words).refusal
    assert sorted(p.name for p in home.iterdir() if p.name != "outputs") == ["conf", "src"]
    assert not (home / "outputs" / "runs").exists()


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ("-m layers=9,10", 2),
        at_night("-m layers=9 coef=1,2", 1),
        ("-m coef=1,nan hydra/launcher=local", 1),
        at_night("-m coef=1,2 hydra/launcher=local hydra.launcher.processes=none", 1),
        ("-m coef=1,2 'hydra.sweep.subdir=${hydra.job.override_dirname}'", 1),
        at_night("-m coef=1,2 hydra.sweep.subdir=x", 1),
        at_night("-m layers=9 coef=1,2 hydra/launcher=local", 1),
    ],
)
def test_a_sweep_whose_jobs_are_all_refused_leaves_nothing(home, words, lines):
    ended = type_(home, words)
    said = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert (ended.code, len(said)) == (2, lines), ended.err
    assert not (home / "outputs" / "sweeps").exists()


def test_a_folder_that_was_there_stays(home):
    for folder in ("empty", "mine"):
        (home / folder).mkdir()
    (home / "mine" / "notes.txt").write_text("mine")
    for folder in ("empty", "mine"):
        assert type_(home, f"layers=9 hydra.run.dir={folder}").refusal
    assert (home / "mine" / "notes.txt").read_text() == "mine"
    assert json.loads((home / "empty" / "status.json").read_text())["state"] == "failed"


def test_only_what_a_run_writes_is_removed(tmp_path):
    for n, extra in enumerate(("notes.txt", "0/notes.txt", "0/log.txt", "more/log.txt")):
        sweep = tmp_path / "made" / str(n)
        note(sweep)
        (sweep / "0").mkdir(parents=True)
        (sweep / "multirun.yaml").touch()
        (sweep / extra).parent.mkdir(exist_ok=True)
        (sweep / extra).touch()
        unmake(sweep)
        assert sweep.exists() == (extra != "0/log.txt"), extra


def test_no_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "log.txt").write_text("mine")
    note(tmp_path / "run")
    (tmp_path / "run").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "run" / "0")
    unmake(tmp_path / "run")
    assert (tmp_path / "real" / "log.txt").read_text() == "mine" and (tmp_path / "run").exists()
    note(tmp_path / "link")
    os.symlink(tmp_path / "real", tmp_path / "link")
    unmake(tmp_path / "link")
    assert (tmp_path / "real" / "log.txt").read_text() == "mine"


def test_a_folder_that_another_command_has_noted_is_left(tmp_path):
    note(tmp_path / "one")
    (tmp_path / "one").mkdir()
    note(tmp_path / "two")
    unmake(tmp_path / "one")
    assert (tmp_path / "one").is_dir()
