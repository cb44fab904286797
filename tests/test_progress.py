"""What a stage says while it runs: a bar on a terminal, few lines elsewhere."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys

import pytest

from corrsteer import progress as module
from corrsteer.progress import progress

CODE = """
import logging, sys, time
from corrsteer.progress import progress
logging.basicConfig(format="%(message)s", level=logging.INFO)
with progress("collect 4 layers", 100) as show:
    show(20, known=True)
    for done in range(30, 101, 10):
        time.sleep(0.15)
        show(done)
"""


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    return now


def test_a_log_gets_a_line_a_minute_and_one_at_the_end(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress("answer test, 2 arms", 200) as show:
        clock[0] = 30.0
        show(40, known=True)  # by an earlier job: not what this one's rate is made of
        for done in range(44, 201, 4):
            clock[0] += 8.0
            show(done)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "answer test, 2 arms: 56 of 200 samples, 0.5/s, 0:04:48 left"
    assert lines[-1] == "answer test, 2 arms: 200 samples in 350.0 s"
    assert len(lines) == 6


def test_a_stage_without_work_says_one_line(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress("answer test", 200) as show:
        clock[0] = 100.0
        show(200, known=True)
    assert [record.getMessage() for record in caplog.records] == [
        "answer test: 200 samples in 100.0 s"
    ]


@pytest.mark.long
@pytest.mark.parametrize("slurm", [False, True])
def test_a_terminal_gets_a_bar_unless_it_is_slurms(slurm):
    main, side = pty.openpty()
    env = (
        os.environ | {"TERM": "xterm", "COLUMNS": "100"} | ({"SLURM_JOB_ID": "1"} if slurm else {})
    )
    job = subprocess.Popen([sys.executable, "-c", CODE], stdout=side, stderr=side, env=env)
    os.close(side)
    shown = b""
    while True:
        try:
            shown += os.read(main, 4096)
        except OSError:  # the other end is closed
            break
    assert job.wait() == 0
    os.close(main)
    assert (b"collect 4 layers: 100 samples in " in shown) is True
    assert (b"/s, 0:00:0" in shown and "━".encode() in shown) is not slurm
