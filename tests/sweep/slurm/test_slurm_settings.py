"""``hydra/launcher=slurm`` without a cluster: what it refuses before anything is submitted, and
what it makes of SLURM's answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from corrsteer.errors import ConfigError
from corrsteer.sweep.local import Processes
from corrsteer.sweep.pieces import Piece, built
from corrsteer.sweep.slurm import Slurm, close_sweep
from corrsteer.sweep.squeue import counts, look

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]


def defaults(option: str) -> dict:
    values = yaml.safe_load((ROOT / "conf" / "hydra" / "launcher" / f"{option}.yaml").read_text())
    assert values.pop("_target_").startswith("hydra_plugins.")
    return values


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"mem_gb": 7.5}, ["mem_gb=7.5", "whole number", "mem_gb=32"]),
        ({"mem_gb": "32GB"}, ["mem_gb=32GB", "whole number"]),
        ({"mem_gb": 0}, ["mem_gb=0", "at least 1"]),
        ({"mem_gb": True}, ["mem_gb=True", "whole number"]),
        ({"cpus_per_task": None}, ["cpus_per_task=None", "whole number"]),
        ({"gpus_per_node": -1}, ["gpus_per_node=-1", "at least 0"]),
        ({"gpus_per_node": "a100:1"}, ["gpus_per_node=a100:1", "whole number"]),
        ({"timeout_min": "4h"}, ["timeout_min=4h", "whole number"]),
        ({"timeout_min": 2, "signal_delay_s": 120}, ["timeout_min=2", "signal_delay_s=120"]),
        ({"signal_delay_s": 0}, ["signal_delay_s=0"]),
        ({"array_parallelism": 0}, ["array_parallelism=0"]),
        ({"max_num_timeout": -1}, ["max_num_timeout=-1"]),
        ({"requeue": "no"}, ["requeue=no", "requeue=true"]),
        ({"follow": None}, ["follow=None", "follow=true"]),
        ({"setup": "module load cuda"}, ["setup=module load cuda", "'[module load cuda]'"]),
        ({"additional": ["gres"]}, ["additional=", "reservation: mine"]),
        ({"memory": 4}, ["hydra.launcher.memory", "mem_gb", "partition"]),
        ({"report": {"memory": 4}}, ["hydra.launcher.report.memory", "mem_gb"]),
        ({"report": {"mem_gb": "4GB"}}, ["mem_gb=4GB", "whole number"]),
        ({"report": {"timeout_min": 1}}, ["timeout_min=1", "signal_delay_s=120"]),
    ],
)
def test_wrong_settings(settings, parts):
    with pytest.raises(ConfigError) as error:
        built(Slurm, defaults("slurm") | settings)
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("processes", [0, -2, 1.5, "all", True])
def test_wrong_settings_of_the_local_launcher(processes):
    with pytest.raises(ConfigError, match=f"hydra.launcher.processes={processes}: .*whole number"):
        built(Processes, {"processes": processes})


@pytest.mark.parametrize(("launcher", "option"), [(Slurm, "slurm"), (Processes, "local")])
def test_every_setting_has_its_line_in_the_config(launcher, option):
    values = defaults(option)
    assert set(values) == {field.name for field in fields(launcher)}
    assert vars(built(launcher, values)) == values
    for name in values:
        rest = {other: value for other, value in values.items() if other != name}
        with pytest.raises(ConfigError, match=f"hydra.launcher.{name} is missing"):
            built(launcher, rest)


@pytest.mark.night
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("coef=1,2", "error: sbatch is not on PATH: .*; type hydra/launcher=local"),
        ("coef=1,nan", r"error: job 1 \(coef=nan\): coef=nan: it must be a finite number"),
        ("coef=1,2 +coeff=3", r"error: job 0 \(coef=1 \+coeff=3\): unknown key coeff"),
        ("coef=1 hydra.launcher.mem_gb=lots", "error: hydra.launcher.mem_gb=lots: it must be"),
        ("coef=1 hydra.launcher.mem=4", "error: unknown key hydra.launcher.mem "),
        ("coef=1 +hydra.launcher.mem=4", "error: unknown key hydra.launcher.mem;"),
    ],
)
def test_a_wrong_command_is_one_line_and_submits_nothing(tmp_path, words, line):
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    (tmp_path / "src").symlink_to(ROOT / "src")
    done = subprocess.run(
        [sys.executable, "-m", "src.main", "-m", *words.split(), "hydra/launcher=slurm"],
        cwd=tmp_path,
        env=os.environ | {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert re.match(line, done.stderr), done.stderr
    assert not list(tmp_path.rglob("status.json"))
    assert not list(tmp_path.rglob("*.pkl"))


@pytest.fixture
def slurm_says(tmp_path, monkeypatch):
    """``slurm_says(squeue="echo ...", sacct="exit 1")``: the commands of a made-up cluster."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    (tmp_path / "bin").mkdir()

    def say(**scripts: str) -> None:
        for name, script in scripts.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / "bin" / name).chmod(0o755)

    return say


def sweep_of(home: Path, *folders: str) -> list[Piece]:
    cfg = OmegaConf.create({"hydra": {"sweep": {"dir": str(home)}, "overrides": {"task": []}}})
    return [Piece("job" if name.isdigit() else "share", name, cfg) for name in folders]


IDS = {"shared/0": "7", "0": "8_0", "1": "8_1", "2": "8_2", "report": "9"}


def test_the_queue_is_asked_once_for_all_jobs(slurm_says, tmp_path):
    slurm_says(squeue=f"echo $* >{tmp_path}/asked; echo '7|COMPLETED|None'; echo '8_0|FAILED|a|b'")
    assert look(IDS) == {"7": ("COMPLETED", "None"), "8_0": ("FAILED", "a|b")}
    assert "--jobs=7,8,9" in (tmp_path / "asked").read_text().split()


def test_a_silent_cluster_is_not_taken_for_an_empty_queue(slurm_says):
    slurm_says(squeue="echo 'slurm_load_jobs error: Unable to contact controller' >&2; exit 1")
    assert look(IDS) is None
    slurm_says(squeue="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert look(IDS) == {}


def test_counts(tmp_path):
    pieces = sweep_of(tmp_path, "shared/0", "0", "1", "2")
    queue = {"7": ("RUNNING", ""), "8_0": ("PENDING", ""), "8_1": ("PENDING", "")}
    for state in ("running", "requeued"):  # what it says itself may be older than the queue
        (tmp_path / "1").mkdir(exist_ok=True)
        (tmp_path / "1" / "status.json").write_text(f'{{"state": "{state}"}}')
        assert counts(pieces, IDS, queue) == "shared stage: 1 running; jobs: 1 failed, 2 waiting"
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "status.json").write_text('{"state": "done"}')
    queue = {"7": ("CANCELLED", ""), "8_0": ("COMPLETING", ""), "8_1": ("OUT_OF_MEMORY", "")}
    assert counts(pieces, IDS, queue) == "1 done, 1 failed, 1 running"


@pytest.mark.parametrize(
    ("squeue", "sacct", "why"),
    [
        ("echo '8_0|OUT_OF_MEMORY|OutOfMemory'", "exit 1",
         "OUT_OF_MEMORY (OutOfMemory), type hydra.launcher.mem_gb=N for more"),
        ("echo '8_0|CANCELLED|None'", "exit 1", "CANCELLED"),
        ("exit 0", "echo NODE_FAIL", "NODE_FAIL"),
        ("exit 1", "echo PREEMPTED; echo TIMEOUT", "TIMEOUT"),
        ("exit 0", "echo 'accounting storage is disabled' >&2; exit 1", "SLURM no longer says why"),
    ],
)  # fmt: skip
def test_why_a_job_was_killed(slurm_says, tmp_path, squeue, sacct, why):
    slurm_says(squeue=squeue, sacct=sacct)
    sweep = tmp_path / "sweep"
    pieces = sweep_of(sweep, "0", "1")
    (sweep / "1").mkdir(parents=True)
    ended = '{"state": "failed", "error": "a bug", "seconds": 1}'
    (sweep / "1" / "status.json").write_text(ended)
    close_sweep(pieces, IDS)
    error = json.loads((sweep / "0" / "status.json").read_text())["error"]
    assert error == f"killed: {why}; see {sweep}/slurm/8_0_0_log.err"
    assert (sweep / "1" / "status.json").read_text() == ended
    assert error.split(";")[0] in (sweep / "report.html").read_text()
