"""Ctrl-C and SIGTERM: seconds, one line, and the same command goes on."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from corrsteer.run.interrupt import INTERRUPTED, prompt_end
from tests.command import ROOT

pytestmark = pytest.mark.long
BY_NIGHT = pytest.param(signal.SIGTERM, marks=pytest.mark.night)

START = """
import hashlib, os, signal, sys, time
from corrsteer.run.interrupt import prompt_end

def ready():
    print("ready", flush=True)
"""
DEAF = """
with prompt_end(0.5):
    ready()
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""
IN_C = """
with prompt_end(0.5):
    ready()
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2_000_000_000)
"""
TIDY = """
try:
    with prompt_end(0.5):
        ready()
        time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    print("tidied")
    sys.exit(3)
"""
CONFUSED = """
try:
    with prompt_end(9):
        ready()
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            raise ImportError("half of a module")
except KeyboardInterrupt:
    sys.exit(3)
"""
IN_AN_IMPORT = """
import pathlib, tempfile
folder = pathlib.Path(tempfile.mkdtemp())
(folder / "slow.py").write_text("import time, __main__; __main__.ready(); time.sleep(2)")
sys.path.insert(0, str(folder))
try:
    with prompt_end(20):
        import slow
        print("imported")
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(3)
"""
IN_A_DEL = """
class Slow:
    def __del__(self):
        ready()
        for _ in range(20):
            time.sleep(0.1)
        print("deleted")
try:
    with prompt_end(20):
        Slow()
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(3)
"""
UNDER_NOHUP = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
with prompt_end(0.5):
    ready()
    time.sleep(2)
print("whole")
"""


def stopped(code: str, number: signal.Signals) -> tuple[int, str, str]:
    process = subprocess.Popen(
        [sys.executable, "-c", START + code], preexec_fn=listen,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
        time.sleep(0.5)  # it is in the midst of it
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, out, err


def listen() -> None:
    """Where the tests run in the background, Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("code", [DEAF, IN_C], ids=["swallowed", "in C"])
def test_a_process_that_does_not_hear_ends_all_the_same(code, number):
    assert stopped(code, number) == (130, "", f"{INTERRUPTED}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_hears_tidies_up(number):
    assert stopped(TIDY, number) == (3, "tidied\n", "")


def test_what_fails_because_of_it_is_an_interrupt():
    assert stopped(CONFUSED, signal.SIGTERM) == (3, "", "")
    assert stopped(CONFUSED.replace("raise Imp", "print('on') or Imp"), signal.SIGINT)[0] == 3


@pytest.mark.parametrize("number", [signal.SIGINT, BY_NIGHT])
def test_an_import_ends_first(number):
    """A library's C++ code would abort the process."""
    code, out, err = stopped(IN_AN_IMPORT, number)
    assert (code, out.removeprefix("imported\n"), err) == (3, "", "")
    failed = stopped(IN_AN_IMPORT.replace("prompt_end(20)", "prompt_end(0.5)"), number)
    assert failed == (130, "", f"{INTERRUPTED}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, BY_NIGHT])
def test_a_del_ends_first(number):
    """Python would print the exception and go on."""
    assert stopped(IN_A_DEL, number) == (3, "deleted\n", "")


@pytest.mark.night
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_ends_with_its_import_is_interrupted(number):
    whole = IN_AN_IMPORT.replace('        print("imported")\n        time.sleep(60)\n', "")
    assert stopped(whole, number) == (3, "", "")
    failing = whole.replace("time.sleep(2)", "time.sleep(2); raise ImportError")
    assert stopped(failing, number) == (3, "", "")


def test_an_ignored_signal_stays_ignored():
    assert stopped(UNDER_NOHUP, signal.SIGINT) == (0, "whole\n", "")


def test_all_is_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyboardInterrupt), prompt_end(30):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


COMMAND = (
    "task=bbq controls=few side_effects=none limit=12 backend.batch_size=4 collect.shuffles=20"
    " layers=[1,3] cache=cache hydra.run.dir=run"
)


def patience() -> float:
    """Seconds that a process may take to end: 5, and as much again on a machine with nothing else
    to do, more where it has."""
    return 5 + 5 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def typed(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "src.main", *COMMAND.split()],
        cwd=home, preexec_fn=listen, env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.night
@pytest.mark.long
def test_a_run_that_is_stopped_at_any_moment_goes_on(tmp_path):
    """Four times, from the first import to the report."""
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        for link in ("src", "conf"):
            (tmp_path / name / link).symlink_to(ROOT / link)
    begun = time.monotonic()
    whole = typed(tmp_path / "whole")
    assert whole.communicate()[0] is None and whole.returncode == 0
    lasted, dice = time.monotonic() - begun, random.Random(0)
    home = tmp_path / "stopped"
    said = set()
    for n in range(4):
        process = typed(home)
        time.sleep((n + dice.random()) / 4 * lasted)
        process.send_signal((signal.SIGINT, signal.SIGTERM)[n % 2])
        sent = time.monotonic()
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - sent < patience(), n
        if process.returncode == 0:  # it was done
            continue
        # A signal in the first milliseconds is not Python's yet.
        assert process.returncode in (130, -15, -2), (n, err)
        assert "Traceback" not in err or process.returncode < 0, err
        # A library may print more when the process ends.
        spoke = process.returncode != 130 or INTERRUPTED in err.splitlines()
        said.add(INTERRUPTED if spoke else err)
        damaged = re.compile(r".*\.corrupt-.*")
        assert not [f for f in home.glob("cache/*/*") if damaged.fullmatch(f.name)]
    assert said == {INTERRUPTED}
    last = typed(home)
    _, err = last.communicate()
    assert last.returncode == 0, err
    for name in ("metrics.json", "features.csv"):
        assert (home / "run" / name).read_bytes() == (tmp_path / "whole/run" / name).read_bytes()
    answers = [pd.read_parquet(tmp_path / n / "run/answers.parquet") for n in ("whole", "stopped")]
    pd.testing.assert_frame_equal(*answers)
