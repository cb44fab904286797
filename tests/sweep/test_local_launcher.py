"""``hydra/launcher=local``: a sweep in two processes is the sweep, and survives the loss of one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from corrsteer.config import resolved_yaml
from corrsteer.run.pipeline import run
from corrsteer.store.runfolder import RunFolder
from tests.command import result
from tests.test_config import composed

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SMALL = (
    "controls=few",
    "side_effects=none",
    "limit=40",
    "backend.batch_size=8",
    "collect.shuffles=20",
    "layers=[2]",
)

# Python imports a module of this name at its start: in the processes of the sweep it takes the
# pipeline's place. A job at a dial of 10 or more takes two minutes.
STUB = """
import sys, types

def stage(cfg, folder, index=None):
    import os, time
    with (folder / "lives").open("a") as file:
        file.write(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}")
    print("said by a job", file=sys.stderr)
    if folder.parent.name == "sweep" and cfg.coef >= 10:
        time.sleep(120)
    if cfg.coef == 4:
        raise RuntimeError("a bug")
    return 0.0

pipeline = sys.modules["corrsteer.run.pipeline"] = types.ModuleType("corrsteer.run.pipeline")
pipeline.run = pipeline.share = pipeline.answer_shard = pipeline.collect_shard = stage
report = types.ModuleType("corrsteer.report.sweep_page")
sys.modules["corrsteer.report.sweep_page"] = report
report.write_sweep_report = lambda folder: 1 / 0
"""


def start(home: Path, words: str, stub: bool = True) -> subprocess.Popen[str]:
    for name in ("src", "conf"):
        if not (home / name).exists():
            (home / name).symlink_to(ROOT / name)
    paths = [str(ROOT / "src")]
    if stub:
        (home / "stub").mkdir()
        (home / "stub" / "sitecustomize.py").write_text(STUB)
        paths.append(str(home / "stub"))
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [sys.executable, "-m", "src.main", "-m", *words.split()],
        cwd=home, env=env | {"PYTHONPATH": os.pathsep.join(paths)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def status(folder: Path) -> dict:
    file = folder / "status.json"
    return json.loads(file.read_text()) if file.exists() else {}


def pid(folder: Path) -> int:
    """Of the process that runs a job, when it does."""
    deadline = time.monotonic() + 60
    while not (folder / "lives").exists() or not (folder / "lives").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int((folder / "lives").read_text().split()[0])


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: job")]


@pytest.mark.night
def test_a_sweep_in_two_processes_is_the_same_sweep(tmp_path):
    """Also where each of the two collects one half."""
    words = f"coef=0.5,2 {' '.join(SMALL)} hydra/launcher=local hydra.launcher.processes=2"
    own = "collect.shards=2 cache=cache hydra.sweep.dir=sweep"
    together = start(tmp_path, f"{words} {own}", stub=False)
    out, err = together.communicate(timeout=300)
    assert together.returncode == 0, err

    sweep = tmp_path / "sweep"
    assert len(list((tmp_path / "cache" / "collect").glob("*/manifest.json"))) == 1
    logs = {str(log.parent.relative_to(sweep)): log.read_text() for log in sweep.rglob("log.txt")}
    assert len(logs) == 7
    assert [name for name in logs if "cache miss collect" in logs[name]] == ["shared/0"]
    halves = [logs[f"shared/0/collect-{n}"] for n in range(2)]
    assert [re.findall(r"collect layer 2.*: (\d+) samples", text) for text in halves] == [
        ["24"],
        ["16"],
    ]
    # One line for every piece that ended, and the table.
    lines = err.splitlines()
    assert lines[0] == "sweep sweep: 2 jobs and 1 shared stage, 2 at once"
    stages = ["shared/0/answer", "shared/0/answer", "shared/0/collect", "shared/0/collect"]
    assert [line.split("-")[0] for line in lines[1:5]] == stages
    assert lines[5].startswith("shared/0: done in ")
    assert sorted(line.split(" ")[1] for line in lines[6:]) == list("01")
    assert "report: sweep/report.html" in out

    for job, coef in enumerate((0.5, 2)):
        alone = tmp_path / f"alone-{job}"
        alone.mkdir()
        RunFolder(alone).start([])
        cfg = composed("task=bbq", f"coef={coef}", *SMALL, f"cache={tmp_path / 'other'}")
        RunFolder(alone).write_config(resolved_yaml(cfg))
        run(cfg, alone)
        for name in ("metrics.json", "answers.parquet", "contexts.json"):
            in_sweep, expected = sweep / str(job) / name, alone / name
            assert result(in_sweep) == result(expected), f"{job}/{name}"
        # Sums of two halves differ from one sum in the last digits.
        tables = [pd.read_csv(folder / "features.csv") for folder in (sweep / str(job), alone)]
        pd.testing.assert_frame_equal(*tables, rtol=1e-9)


def test_a_job_whose_process_is_killed_fails_alone(tmp_path):
    sweep = tmp_path / "sweep"
    words = "coef=10,1,4,2 hydra/launcher=local hydra.launcher.processes=2 hydra.sweep.dir=sweep"
    together = start(tmp_path, words)
    os.kill(pid(sweep / "0"), signal.SIGKILL)
    _, err = together.communicate(timeout=60)
    assert together.returncode == 1
    lines = re.fullmatch(
        r"error: job 0 \(coef=10\) failed: killed by signal 9; see (sweep/local/\d+.txt)\n"
        r"error: job 2 \(coef=4\) failed: RuntimeError: a bug",
        "\n".join(errors(err)),
    )
    assert lines, err
    assert "said by a job" in (tmp_path / lines[1]).read_text()
    assert "said by a job" not in err
    assert [status(sweep / job)["state"] for job in "0123"] == ["failed", "done", "failed", "done"]
    threads = (sweep / "1" / "lives").read_text().split()[1]
    assert threads == str(max(1, len(os.sched_getaffinity(0)) // 2))


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        *(pytest.param(n, marks=pytest.mark.night) for n in (signal.SIGTERM, signal.SIGKILL)),
    ],
)
def test_an_interrupt_ends_the_processes_and_is_on_record(tmp_path, number):
    """Also where this process has no time to tell the others."""
    sweep = tmp_path / "sweep"
    words = "coef=10,11,12 hydra/launcher=local hydra.launcher.processes=2 hydra.sweep.dir=sweep"
    together = start(tmp_path, words)
    pids = [pid(sweep / job) for job in "01"]
    together.send_signal(number)
    together.communicate(timeout=60)
    assert together.returncode == (-9 if number == signal.SIGKILL else 130)
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{p}") for p in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{p}") for p in pids)
    for job in "01":
        assert (status(sweep / job)["state"], status(sweep / job)["error"]) == (
            "failed",
            "interrupted",
        )
    assert not (sweep / "2").exists()
