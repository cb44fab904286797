"""What a run's folder says of the run, whatever became of its process."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from corrsteer.errors import DataError
from corrsteer.report.sweep_table import sweep_table
from corrsteer.store.runfolder import LogFile, RunFolder
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


def test_a_log_follows_no_link_and_waits_for_no_pipe(tmp_path):
    (tmp_path / "users.txt").write_text("mine")
    (tmp_path / "link").symlink_to("users.txt")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError):
            LogFile(tmp_path / name)
    assert (tmp_path / "users.txt").read_text() == "mine"


def test_a_log_on_a_full_disk_is_no_traceback(capsys):
    log = LogFile("/dev/full")
    log.emit(logging.LogRecord("x", logging.INFO, "x", 1, "a line", (), None))
    log.emit(logging.LogRecord("x", logging.INFO, "x", 1, "of %d", ("no number",), None))
    assert "No space" not in capsys.readouterr().err


@pytest.mark.parametrize("link", [True, False])
def test_a_status_is_written_to_no_file_but_its_own(tmp_path, link):
    (tmp_path / "users.json").write_text("mine")
    for name in ("status.json", f".status.json.{os.getpid()}", ".running"):
        if link:
            (tmp_path / name).symlink_to("users.json")
        else:
            os.mkfifo(tmp_path / name)
    (tmp_path / ".package.json.2").write_text("mine")
    folder = RunFolder(tmp_path)
    with pytest.raises(DataError, match="status.json is damaged"):
        folder.status()
    folder.start([])
    folder.done()
    assert RunFolder(tmp_path).status()["state"] == "done"
    assert (tmp_path / "users.json").read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        ".package.json.2",
        "status.json",
        "users.json",
    ]
