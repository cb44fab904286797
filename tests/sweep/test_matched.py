"""The jobs that a comparison of rivals adds when its own are done."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf

from corrsteer.config import Root
from corrsteer.report import compare_wanted
from corrsteer.report.compare_wanted import Wanted
from corrsteer.sweep import close, matched, more
from corrsteer.sweep.matched import run_matched

SETTINGS = {
    "coef": 2.0,
    "strategy": {"_target_": "x.LoRA", "coef": 2.0, "match": None, "rank": 4},
    "task": {"name": "mine"},
    "splits": {"selection": 7, "validation": 5, "test": 3, "official": True, "seed": None},
}


@pytest.fixture
def sweep(tmp_path):
    """Two jobs that are done, and one that an earlier command left."""
    for n in range(3):
        (tmp_path / str(n)).mkdir()
        (tmp_path / str(n) / "log.txt").write_text("")
        (tmp_path / str(n) / "config.yaml").write_text(OmegaConf.to_yaml(SETTINGS))
    status = {"state": "done", "error": None, "started": None, "ended": None, "seconds": 1.0}
    for n in range(2):
        words = ["strategy=lora", f"coef={n + 1}"]
        text = json.dumps({**status, "overrides": words})
        (tmp_path / str(n) / "status.json").write_text(text)
    return tmp_path


def test_they_are_jobs_like_another_with_one_checkpoint_and_the_next_number(sweep, monkeypatch):
    monkeypatch.setattr(compare_wanted, "wanted", lambda folder: [Wanted(1, 0.75)])
    ran = []
    monkeypatch.setattr(more, "run_piece", ran.append)
    config = OmegaConf.merge(OmegaConf.structured(Root), {"coef": 1.0, "strategy": {"k": 1}})
    OmegaConf.set_struct(config, True)
    hydra = {"overrides": {"task": []}, "job": {"id": "?", "num": 9}, "sweep": {"dir": "."}}
    OmegaConf.update(config, "hydra", hydra, force_add=True)
    run_matched(config, sweep)
    (piece,) = ran
    assert (piece.kind, piece.folder, piece.sweep) == ("job", "2", sweep)
    cfg = piece.cfg
    assert cfg.hydra.overrides.task == ["strategy=lora", "coef=1", "strategy.match=0.75"]
    assert cfg.hydra.job.num == 2
    assert dict(cfg.strategy) == {**SETTINGS["strategy"], "coef": 1.0, "match": 0.75}
    assert cfg.coef == 1.0 and cfg.splits.selection == 7
    assert OmegaConf.get_type(cfg, "splits").__name__ == "Splits"  # a misspelt key is refused
    assert config.coef == 1.0 and "match" not in config.strategy


def test_where_they_cannot_run_the_sweep_says_so_and_is_reported(sweep, monkeypatch):
    def full(config, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(matched, "run_matched", full)
    (line,) = close.more(OmegaConf.create({"study": {"margin": 2}}), sweep)
    assert "No space left on device" in line and "type the same command again" in line
    assert close.more(OmegaConf.create({"study": None}), sweep) == []


def test_a_folder_without_jobs_has_none(tmp_path):
    run_matched(OmegaConf.create({}), tmp_path)
    assert not list(tmp_path.iterdir())
