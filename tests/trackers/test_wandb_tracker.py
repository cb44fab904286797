"""wandb's offline file read back record by record, and a wandb that fails."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from corrsteer.errors import ConfigError
from corrsteer.trackers.none import NoTracker
from corrsteer.trackers.wandb import MAX_ROWS, Wandb

BLOCK = 32768


def records(path: Path) -> Iterator[object]:
    """The protobuf records of a .wandb file: a LevelDB log behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def values(items) -> dict[str, object]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.fixture
def quiet(tmp_path, monkeypatch) -> Path:
    """wandb keeps staging files and its cache in the home folder unless told otherwise."""
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return tmp_path


@pytest.mark.slow
def test_an_offline_run_holds_what_was_logged(quiet):
    sweep = quiet / "2026-01-01_bbq"
    folder = sweep / "3"
    folder.mkdir(parents=True)
    (sweep / "multirun.yaml").touch()
    rows = MAX_ROWS + 5
    handle = Wandb().open(folder, {"coef": 2.0, "task": {"name": "bbq"}}, "bbq")
    handle.log({"gain": 0.125, "fixed": 7})
    handle.table("features", pd.DataFrame({"layer": range(rows), "r": [0.5] * rows}))
    handle.close("failed")

    [file] = sweep.glob("wandb/offline-run-*/*.wandb")
    found: dict[str, list] = {}
    give_up = time.monotonic() + 30
    # wandb's own process writes the file and may still be at it on a busy machine.
    while not {"run", "exit"} <= found.keys() and time.monotonic() < give_up:
        found = {}
        for record in records(file):
            found.setdefault(record.WhichOneof("record_type"), []).append(record)
    run = found["run"][0].run
    assert (run.project, run.display_name, run.run_group) == ("corrsteer", "bbq", sweep.name)
    config = values(run.config.update)
    assert (config["coef"], config["task"]) == (2, {"name": "bbq"})
    history = [values(record.history.item) for record in found["history"]]
    assert (history[0]["gain"], history[0]["fixed"]) == (0.125, 7)
    assert (history[1]["features/nrows"], history[1]["features/ncols"]) == (MAX_ROWS, 2)
    assert found["exit"][0].exit.exit_code == 1
    [table] = sweep.glob("wandb/offline-run-*/files/media/table/features*.json")
    assert json.loads(table.read_text())["data"][-1] == [MAX_ROWS - 1, 0.5]


def test_a_failing_wandb_is_reported_once_and_stops_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it raises ImportError
    handle = Wandb().open(tmp_path, {}, "bbq")
    handle.log({"gain": 1.0})
    handle.table("features", pd.DataFrame({"layer": [1]}))
    handle.close("done")
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "wandb failed" in caplog.text


def test_a_run_that_breaks_midway_goes_quiet(tmp_path, monkeypatch, caplog):
    class Broken:
        def log(self, values):
            raise OSError("disk full")

    fake = SimpleNamespace(init=lambda **_: Broken(), Settings=lambda **_: None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    handle = Wandb().open(tmp_path, {}, "bbq")
    for _ in range(3):
        handle.log({"gain": 1.0})
    handle.close("done")
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "disk full" in caplog.text


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="offline, online, disabled"):
        Wandb(mode="offlin")


def test_no_tracker_leaves_no_file(tmp_path):
    handle = NoTracker().open(tmp_path, {"coef": 1}, "bbq")
    handle.log({"gain": 1.0})
    handle.table("features", pd.DataFrame({"layer": [1]}))
    handle.close("done")
    assert list(tmp_path.iterdir()) == []
