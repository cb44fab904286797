"""What a run's folder says of the run, whatever became of its process."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from corrsteer.report.sweep_table import sweep_table
from corrsteer.store.runfolder import RunFolder
from corrsteer.sweep.close import failed_jobs

BEGIN = """
import pathlib, sys, time
from corrsteer.store.runfolder import RunFolder
folder = RunFolder(pathlib.Path(sys.argv[1]))
folder.start(["coef=1"])
print("begun", flush=True)
time.sleep(600)
"""


@pytest.fixture
def begun(tmp_path):
    """The folder of a run in another process, and that process."""
    folder = tmp_path / "0"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    yield RunFolder(folder), process
    process.kill()
    process.communicate()


def test_a_run_is_running_until_it_ends(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.status() == {}
    folder.start(["coef=1"])
    assert folder.status()["state"] == RunFolder(tmp_path).status()["state"] == "running"
    folder.done()
    assert RunFolder(tmp_path).status()["state"] == "done"
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]


def test_a_run_that_is_killed_is_known_to_be(begun, tmp_path):
    folder, process = begun
    assert folder.status()["state"] == "running"
    assert sweep_table(tmp_path)["state"].tolist() == ["running"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert folder.status()["state"] == "killed"
    (job,) = sweep_table(tmp_path).to_dict("records")
    assert (job["state"], job["error"]) == ("killed", "its process was killed: see log.txt")
    assert failed_jobs(tmp_path) == ["job 0 (coef=1) failed: its process was killed: see log.txt"]


def test_of_a_run_on_another_machine_nobody_says_that_it_was_killed(begun):
    folder, process = begun
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert folder.status()["state"] == "killed"
    (folder.path / ".running").write_text(f"process {process.pid} on elsewhere")
    assert folder.status()["state"] == "running"


def test_a_killed_run_can_be_started_again(begun):
    folder, process = begun
    (folder.path / f".status.json.{process.pid}").write_text("half")
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder.start([])
    assert folder.status()["state"] == "running"
    folder.failed("why", "a trace")
    assert RunFolder(folder.path).status()["error"] == "why"
    assert sorted(file.name for file in folder.path.iterdir()) == ["log.txt", "status.json"]


def test_without_locks_a_run_counts_as_running(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", refused)
    folder = RunFolder(tmp_path)
    folder.start([])
    (tmp_path / ".running").touch()
    assert RunFolder(Path(tmp_path)).status()["state"] == "running"
    folder.done()
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "done"
