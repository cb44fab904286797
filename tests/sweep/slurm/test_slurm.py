"""``hydra/launcher=slurm`` on a real SLURM of four logical nodes, killed in every way it can be.

The first test is the real thing, disturbed. In the others the nodes run a pipeline that waits
until the test says ``go``, so that nothing depends on how fast this machine is.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from corrsteer.config import resolved_yaml
from corrsteer.run.pipeline import run
from corrsteer.store.runfolder import RunFolder
from tests.command import result
from tests.test_config import composed

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
SMALL = (
    "controls=few side_effects=none limit=40 collect.shuffles=20 layers=[2] cache=cache"
    " hydra.sweep.dir=sweep"
)
ON_SLURM = "hydra/launcher=slurm hydra.launcher.cpus_per_task=1 hydra.launcher.mem_gb=1"

# Python imports a module of this name at its start: on the nodes it takes the pipeline's place.
STUB = """
import sys, types

def stage(cfg, folder, index=None):
    import os, time
    with (folder / "lives").open("a") as file:
        file.write(f"{os.getpid()}" + chr(10))
    if cfg.coef == 404 and folder.parent.name == "shared":
        raise RuntimeError("no room for the SAEs")
    end = time.monotonic() + 120  # a test that was killed leaves its jobs behind
    if folder.parent.name == "sweep" and 10 <= cfg.coef < 100:
        while not (folder / "go").exists() and time.monotonic() < end:
            time.sleep(0.05)
    if folder.parent.name == "sweep":
        from tests.report.fabricated_run import fabricate_run
        fabricate_run(folder.parent / "made" / folder.name, coef=cfg.coef, n_test=20)
        for file in (folder.parent / "made" / folder.name).iterdir():
            if file.name != "status.json":
                file.rename(folder / file.name)
    return 0.0

pipeline = sys.modules["corrsteer.run.pipeline"] = types.ModuleType("corrsteer.run.pipeline")
pipeline.run = pipeline.share = pipeline.answer_shard = pipeline.collect_shard = stage
"""


class Sweep:
    """A sweep that was typed: its process, its folder, and its ids in the cluster's queue."""

    def __init__(self, cluster, home: Path, words: str, stub: bool = True) -> None:
        self.cluster, self.home, self.folder = cluster, home, home / "sweep"
        for name in ("src", "conf"):
            if not (home / name).exists():
                (home / name).symlink_to(ROOT / name)
        paths = [ROOT / "src", ROOT]
        if stub:
            (home / "stub").mkdir(exist_ok=True)
            (home / "stub" / "sitecustomize.py").write_text(STUB)
            paths.append(home / "stub")
        self.env = os.environ | cluster.env
        self.env |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "HF_HUB_OFFLINE": "1"}
        self.log = home / "typed.txt"
        command = [sys.executable, "-m", "src.main", *shlex.split(words)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=home, env=self.env, stdout=log, stderr=log)

    def shown(self) -> str:
        return self.log.read_text()

    def end(self) -> int:
        return self.process.wait(timeout=240)

    def until(self, what: str, ready: Callable[[], object], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                queue = self.cluster.run("squeue", "--states=all", check=False)
                pytest.fail(f"{what}?\n{self.shown()}\n{queue}")
            time.sleep(0.05)

    def ids(self) -> dict[str, str]:
        file = self.folder / "slurm" / "jobs.json"
        self.until("submitted", lambda: file.exists() or self.process.poll() is not None)
        return json.loads(file.read_text())

    def status(self, job: str) -> dict:
        file = self.folder / job / "status.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def lives(self, job: str) -> list[int]:
        file = self.folder / job / "lives"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def go(self, *jobs: str) -> None:
        for job in jobs:
            (self.folder / job / "go").touch()

    def output(self, job: str) -> str:
        return (self.folder / "slurm" / f"{self.ids()[job]}_0_log.out").read_text()


@pytest.fixture
def typed(cluster, tmp_path):
    sweeps = []

    def type_(words: str, stub: bool = True) -> Sweep:
        sweeps.append(Sweep(cluster, tmp_path, words, stub))
        return sweeps[-1]

    yield type_
    for sweep in sweeps:
        sweep.process.kill()
        sweep.process.wait()
    cluster.run("scancel", "--user", str(os.getuid()))


@pytest.mark.night
def test_two_tasks_at_three_dials_collect_twice_whatever_happens(typed, cluster):
    """The node of one job is taken by a job of higher priority."""
    words = "-m task=bbq,mmlu coef=0.5,1,2 hydra/launcher=slurm hydra.launcher.cpus_per_task=1"
    sweep = typed(f"{words} {SMALL}", stub=False)
    ids = sweep.ids()

    sweep.until("a job is at work", lambda: sweep.status("0").get("state") == "running")
    node = cluster.run("squeue", "--noheader", f"--jobs={ids['0']}", "--format=%N").strip()
    high = ["--partition=high", f"--nodelist={node}", "--exclusive", "--output=/dev/null"]
    cluster.run("sbatch", *high, "--wrap=true")
    # Meanwhile the same in one process, undisturbed and from nothing.
    for job, (task, coef) in {"0": ("bbq", 0.5), "4": ("mmlu", 1)}.items():
        alone = sweep.home / f"alone-{job}"
        alone.mkdir()
        RunFolder(alone).start([])
        small = [*SMALL.split()[:5], f"cache={sweep.home / 'other'}"]
        cfg = composed(f"task={task}", f"coef={coef}", *small)
        RunFolder(alone).write_config(resolved_yaml(cfg))
        run(cfg, alone)
    assert sweep.end() == 0, sweep.shown()
    assert "Requeued job" in sweep.output("0"), sweep.output("0")

    # One collection of each task's one layer; six jobs, one report.
    logs = {log.parent: log.read_text() for log in sweep.folder.rglob("log.txt")}
    collected = {str(f.relative_to(sweep.folder)) for f in logs if "miss collect" in logs[f]}
    assert collected == {"shared/0", "shared/3"}
    assert len(list((sweep.home / "cache" / "collect").glob("*/manifest.json"))) == 2
    summary = pd.read_csv(sweep.folder / "summary.csv")
    assert summary["state"].tolist() == 6 * ["done"]
    assert summary["coef"].tolist() == [0.5, 1, 2, 0.5, 1, 2]
    assert sweep.shown().count("report: sweep/report.html") == 1
    assert "6 done" in sweep.shown()

    for job in ("0", "4"):
        for name in ("metrics.json", "features.csv", "answers.parquet", "contexts.json"):
            on_slurm, expected = sweep.folder / job / name, sweep.home / f"alone-{job}" / name
            assert result(on_slurm) == result(expected), f"{job}/{name}"


@pytest.mark.night
def test_jobs_that_are_killed_for_good_fail_alone_and_say_why(typed, cluster):
    limits = ["timeout_min=5", "signal_delay_s=5", "max_num_timeout=1"]
    own = " ".join(f"hydra.launcher.{limit}" for limit in limits)
    sweep = typed(f"-m coef=1,10,11,12,13 {ON_SLURM} {own} hydra.sweep.dir=sweep")
    ids = sweep.ids()
    waiting = ("1", "2", "3", "4")
    sweep.until("four jobs wait", lambda: all(sweep.lives(job) for job in waiting))
    cluster.run("scancel", ids["1"])
    os.kill(sweep.lives("2")[0], signal.SIGKILL)
    cluster.run("scancel", "--signal=USR2", ids["3"])
    # By SLURM itself, as when a node is lost: this job knows nothing of it, and goes on.
    cluster.run("scontrol", "requeue", ids["4"])
    sweep.until("it is out of time", lambda: sweep.status("3")["state"] == "requeued")
    sweep.until("they go on", lambda: all(len(sweep.lives(job)) == 2 for job in "34"))
    assert sweep.status("3")["state"] == "running"
    cluster.run("scancel", "--signal=USR2", ids["3"])
    sweep.go("4")
    assert sweep.end() == 1
    errors = [line for line in sweep.shown().splitlines() if line.startswith("error: ")]
    expected = {
        "1": "killed: CANCELLED.*",
        "2": r"killed: FAILED \(NonZeroExitCode\); see sweep/slurm/.*",
        "3": "out of time 2 times, each after 5 minutes: type the command again.*timeout_min=20",
    }
    assert len(errors) == len(expected), sweep.shown()
    for line, (job, why) in zip(errors, expected.items(), strict=True):
        assert re.fullmatch(rf"error: job {job} \(coef=1\d.*\) failed: {why}", line), line
        assert sweep.status(job)["state"] == "failed"
    assert (sweep.folder / "slurm" / f"{ids['2']}_0_log.err").exists()
    states = pd.read_csv(sweep.folder / "summary.csv")["state"].tolist()
    assert states == ["done", "failed", "failed", "failed", "done"]
    page = (sweep.folder / "report.html").read_text()
    assert "CANCELLED" in page
    assert "out of time" in page


@pytest.mark.night
def test_a_job_does_not_compute_alone_what_its_shared_stage_could_not(typed):
    sweep = typed(f"-m coef=404,2 seed=0,1 {ON_SLURM} hydra.sweep.dir=sweep")
    assert sweep.end() == 1
    why = "the shared stage failed: RuntimeError: no room for the SAEs; see sweep/shared/0/log.txt"
    assert sweep.status("0")["error"] == sweep.status("2")["error"] == why
    assert not sweep.lives("0") and not sweep.lives("2")
    assert sweep.shown().count(why) == 2


@pytest.mark.night
def test_ctrl_c_leaves_the_jobs_in_the_queue(typed, cluster, monkeypatch):
    """Four shards answer, then four collect, then what the jobs share is put together. All is
    submitted by what takes itself for a job, and must not hand on what was meant for that one."""
    for name, value in (("SLURM_JOB_ID", "1"), ("SLURM_MEM_PER_CPU", "7"), ("SLURM_NTASKS", "3")):
        monkeypatch.setenv(name, value)
    sweep = typed(f"-m coef=10,11 collect.shards=4 {ON_SLURM} hydra.sweep.dir=sweep")
    ids = sweep.ids()
    sweep.until("the jobs wait", lambda: sweep.lives("0") and sweep.lives("1"))
    sweep.process.send_signal(signal.SIGINT)
    assert sweep.end() == 130
    mains = list(dict.fromkeys(job_id.split("_")[0] for job_id in ids.values()))
    block = f"follow: squeue --jobs={','.join(mains)};.*\ncancel: scancel {' '.join(mains[:-1])}\n"
    assert re.search(f"the jobs go on\n{block}interrupted\n$", sweep.shown()), sweep.shown()
    queue = cluster.run("squeue", "--noheader", "--format=%T", f"--jobs={','.join(mains)}")
    assert sorted(queue.split()) == ["PENDING", "RUNNING", "RUNNING"]

    sweep.go("0", "1")
    sweep.until("the report is there", (sweep.folder / "report.html").exists)
    assert pd.read_csv(sweep.folder / "summary.csv")["state"].tolist() == ["done", "done"]
    shards = [[f"shared/0/{kind}-{n}" for n in range(4)] for kind in ("answer", "collect")]
    before = ""
    for wave in (*shards, ["shared/0"], ["0", "1"]):
        assert before < min(sweep.status(piece)["started"] for piece in wave)
        before = max(sweep.status(piece)["ended"] for piece in wave)


def test_a_sweep_need_not_be_followed(typed, cluster):
    sweep = typed(f"-m coef=10 {ON_SLURM} hydra.launcher.follow=false hydra.sweep.dir=sweep")
    assert sweep.end() == 0
    assert "cancel: scancel" in sweep.shown().splitlines()[-1]
    job, report = sweep.ids().values()
    queue = cluster.run("squeue", "--noheader", "--format=%i", f"--jobs={job},{report}")
    assert sorted(queue.split()) == [job, report]


def test_what_sbatch_refuses_is_one_line(typed):
    sweep = typed(f"-m coef=1,2 {ON_SLURM} hydra.launcher.partition=gpus hydra.sweep.dir=sweep")
    assert sweep.end() == 2
    assert sweep.shown().count("\n") == 1
    assert re.match("error: sbatch refused the jobs: .*invalid partition", sweep.shown())


def test_the_first_arrays_are_cancelled_where_a_later_one_is_refused(typed, cluster):
    sweep = typed(
        f"-m coef=1,10 {ON_SLURM} hydra.launcher.report.partition=gpus hydra.sweep.dir=sweep"
    )
    assert sweep.end() == 2
    assert "refused" in sweep.shown()
    alive = "PENDING,RUNNING"
    sweep.until(
        "the queue is empty", lambda: not cluster.run("squeue", "--noheader", f"--states={alive}")
    )
