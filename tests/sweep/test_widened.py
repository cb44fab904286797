"""The jobs that a study adds where validation chooses at the end of a range."""

from __future__ import annotations

import json
import logging

import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf

from corrsteer.config import Root
from corrsteer.report import widening
from corrsteer.report.widening import lacking
from corrsteer.store.runfolder import RunFolder, jobs
from corrsteer.sweep import close, more
from corrsteer.sweep.widened import run_widened
from tests.command import in_this_process
from tests.report.test_widening import add

pytestmark = pytest.mark.long

RIGHT = {0.0: 0.4, 0.25: 0.5, 0.5: 0.6, 1.0: 0.7, 2.0: 0.8, 4.0: 0.9, 8.0: 1.0, 16.0: 0.3}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Two arms, and jobs that are made up, not run; ``ran``: the pieces."""
    for n, (arm, coef) in enumerate([("r", 1.0), ("r", 2.0), ("a", 1.0), ("a", 2.0)]):
        add(tmp_path, n, arm, coef, RIGHT[coef] if arm == "r" else 1.1 - RIGHT[coef])
    ran = []

    def run(piece):
        ran.append(piece)
        cfg, (arm,) = piece.cfg, (w[9:] for w in piece.cfg.hydra.overrides.task if "sel" in w)
        right = RIGHT[cfg.coef] if arm == "r" else 1.1 - RIGHT[cfg.coef]
        add(tmp_path, int(piece.folder), arm, cfg.coef, right, widen=cfg.study.widen)

    monkeypatch.setattr(more, "run_piece", run)
    return tmp_path, ran


def config(**study):
    made = OmegaConf.merge(OmegaConf.structured(Root), {"coef": 1.0, "strategy": {"k": 1}})
    OmegaConf.set_struct(made, True)
    hydra = {"overrides": {"task": []}, "job": {"id": "?", "num": 9}, "sweep": {"dir": "."}}
    OmegaConf.update(made, "hydra", hydra, force_add=True)
    OmegaConf.update(made, "study", study or None, force_add=True)
    return made


def test_each_arm_is_widened_until_it_is_best_inside(sweep):
    folder, ran = sweep
    run_widened(config(widen=3), folder)
    words = [list(piece.cfg.hydra.overrides.task) for piece in ran]
    assert words == [
        ["selector=r", "coef=4"],
        ["selector=a", "coef=0.5"],
        ["selector=r", "coef=8"],
        ["selector=a", "coef=0.25"],
        ["selector=r", "coef=16"],
        ["selector=a", "coef=0"],
    ]
    assert [piece.folder for piece in ran] == ["4", "5", "6", "7", "8", "9"]
    last = ran[4].cfg
    assert (last.coef, last.strategy.coef, last.study.widen) == (16.0, 16.0, 0)
    assert last.selector.name == "r" and last.hydra.job.num == 8
    run_widened(config(widen=3), folder)
    assert len(ran) == 6


def test_the_same_command_again_asks_for_the_same_jobs(sweep):
    folder, ran = sweep
    run_widened(config(widen=3), folder)
    first = [(piece.folder, list(piece.cfg.hydra.overrides.task)) for piece in ran]
    for n in range(4, 10):  # as the sweep's own beginning forgets them
        RunFolder(folder / str(n)).forget()
        (folder / str(n)).rename(folder / f"old{n}")
    ran.clear()
    run_widened(config(widen=3), folder)
    assert [(piece.folder, list(piece.cfg.hydra.overrides.task)) for piece in ran] == first


def test_jobs_that_leave_nothing_are_not_run_for_ever(sweep, monkeypatch):
    folder, _ = sweep
    ran = []
    monkeypatch.setattr(more, "run_piece", ran.append)
    run_widened(config(widen=3), folder)
    assert len(ran) == 2


def test_only_studies_widen_and_say_where_they_could_not(sweep, monkeypatch, caplog):
    folder, ran = sweep
    with caplog.at_level(logging.INFO):
        for study in ({}, {"widen": 0}):
            assert close.more(config(**study), folder) == [] and ran == []
        assert close.more(config(widen=3), folder) == [] and len(ran) == 6
    assert "job 4: job 1 at coef=4" in caplog.text

    def broken(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(widening, "lacking", broken)
    (line,) = close.more(config(widen=3), folder)
    assert line.startswith("jobs at further dials did not run") and "No space left" in line


def test_a_folder_without_jobs_is_left_alone(tmp_path):
    run_widened(config(widen=3), tmp_path)
    assert jobs(tmp_path) == [] and not list(tmp_path.iterdir())
    with pytest.raises(Exception, match="no jobs"):
        lacking(tmp_path)


@pytest.mark.night
def test_a_study_adds_what_it_needs_and_says_so(tmp_path):
    """Dials that do nothing: validation takes the smallest, so the unsteered model is added."""
    words = "task=bbq limit=24 layers=[1,3] collect.shuffles=20 collect.resamples=20 study.widen=1"
    command = (
        f"python -m src.main experiment=selectors {words} selector=correlation,random"
        f" coef=0.001,0.002 cache={tmp_path}/cache hydra.sweep.dir={tmp_path}/sweep"
    )
    for _ in range(2):  # the second time from the cache
        ended = in_this_process(command)
        assert ended.code == 0, ended.err[-2000:]
        folder = tmp_path / "sweep"
        assert jobs(folder) == [0, 1, 2, 3, 4, 5]
        added = [yaml.safe_load((folder / str(n) / "config.yaml").read_text()) for n in (4, 5)]
        assert [(c["coef"], c["strategy"]["coef"], c["study"]["widen"]) for c in added] == [
            *[(0.0, 0.0, 0)] * 2
        ]
        answers = pd.read_parquet(folder / "4" / "answers.parquet").set_index("id")
        answers = answers[answers["split"] == "test"]
        base, steered = (
            answers[answers["arm"] == arm]["answer"].sort_index() for arm in ("baseline", "steered")
        )
        assert list(base) == list(steered)
        made = json.loads((folder / "study.json").read_text())
        assert "Dials that were added" in made["note"] and "lies at an end" not in made["note"]
        assert made["reference"]["dial"] == "0" and made["jobs"] == 6
