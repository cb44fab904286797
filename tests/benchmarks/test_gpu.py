"""``benchmarks/gpu.sh``: tiny numbers end in a table, and what fails ends nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = [
    "plain generate", "plan.steer, every layer", "program, no plan", "program, every layer steered",
    "collecting, every layer",
]  # fmt: skip


def typed(*words, **env):
    return subprocess.run(
        [ROOT / "benchmarks" / "gpu.sh", *map(str, words)],
        env=os.environ | {"PYTHON": sys.executable} | env,
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.night
def test_the_script_leaves_numbers_and_a_table(tmp_path):
    done = typed("--small", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "new" / "results.json").read_text())
    assert [(p["name"], p["status"]) for p in found["parts"]] == [("speed", 0), ("bbq", 0)]
    cases = found["speed"]["cases"]
    assert list(cases) == CASES
    assert cases[CASES[0]]["times_plain"] == 1 and cases["program, no plan"]["same_answers"] == 1
    for case in cases.values():
        assert case["tokens"] == 64 and case["tokens_per_s"] > 0 and case["times_plain"] > 0
    run = found["runs"]["bbq"]
    assert run["n"] == 24 and 0 < run["accuracy"]["baseline"] < 1
    table = (tmp_path / "new" / "results.md").read_text()
    assert table in done.stdout
    assert all(f"| {name} |" in table for name in (*CASES, "bbq", "speed"))
    left = {file.name for file in (tmp_path / "new").iterdir()}
    assert left == {"results.json", "results.md", "speed.json", "parts.tsv", "speed.log", "bbq.log",
                    "runs"}  # fmt: skip


@pytest.mark.night
def test_a_case_that_fails_ends_no_other(tmp_path, monkeypatch):
    from benchmarks import speed

    def full(*_, **__):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(speed, "Plain", full)
    monkeypatch.setattr(speed, "collect", full)
    assert speed.main(["--small", "--out", str(tmp_path)]) == 1
    cases = json.loads((tmp_path / speed.FILE).read_text())["cases"]
    assert set(cases) == set(CASES)
    for name in CASES:
        failed = name in (*CASES[:2], CASES[4])
        assert cases[name].get("failed") == ("RuntimeError: out of memory" if failed else None)
        assert "times_plain" not in cases[name]
    assert cases["program, no plan"]["tokens_per_s"] > 0


def test_no_folder_that_holds_something_is_touched(tmp_path):
    (tmp_path / "runs").mkdir()
    for words, message in (
        ((tmp_path,), f"error: {tmp_path} is not empty: give a new folder"),
        (("--smal",), "error: --smal is unknown: --small, --data DATA, --limit N,"),
        (("--data",), "error: --data needs a value"),
    ):
        done = typed(*words)
        assert done.returncode == 2 and message in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["runs"]


def test_without_time_a_part_is_said_to_be_missing(tmp_path):
    done = typed("--small", tmp_path / "new", GPU_SECONDS="1")
    assert done.returncode == 1
    found = json.loads((tmp_path / "new" / "results.json").read_text())
    assert [p["failed"] for p in found["parts"]] == ["out of time"] * 2
    assert "| bbq | 0 | out of time |" in done.stdout


def test_smollm2_is_steered_on_the_tasks_that_are_there(tmp_path):
    """By a stand-in for Python that says what it was asked."""
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\necho "$@"\n')
    stand_in.chmod(0o755)
    for folder in ("data/ifeval", "data/unknown"):
        (tmp_path / folder).mkdir(parents=True)
    for name, more, task in (
        ("one", ("--data", tmp_path / "data"), "task=ifeval data=" + str(tmp_path / "data/ifeval")),
        ("two", (), "task=bbq data=bundled"),
    ):
        done = typed("--limit", 9, *more, tmp_path / name, PYTHON=str(stand_in))
        assert done.returncode == 0, done.stderr
        (log,) = {f.stem for f in (tmp_path / name).glob("*.log")} - {"speed"}
        said = (tmp_path / name / f"{log}.log").read_text()
        assert "model=smollm2_135m_it limit=9" in said
        assert task in said and f"hydra.run.dir={tmp_path}/{name}/runs/{log}" in said


def test_the_table_tells_of_what_failed(tmp_path):
    from benchmarks import summary

    (tmp_path / "parts.tsv").write_text("speed\t1\t12\nbbq\t0\t30\nmmlu\t2\t3\n")
    (tmp_path / "speed.log").write_text("Traceback\nRuntimeError: no memory\n\n")
    (tmp_path / "speed.json").write_text('{"cases": {')
    (tmp_path / "runs" / "bbq").mkdir(parents=True)
    (tmp_path / "runs" / "bbq" / "metrics.json").write_text("{}")
    found = summary.gathered(tmp_path)
    assert found["speed"] is None and "cannot read" in found["runs"]["bbq"]["failed"]
    told = [part.get("failed") for part in found["parts"]]
    assert told == ["RuntimeError: no memory", None, "it said nothing"]
    assert "| speed | 12 | RuntimeError: no memory |\n| bbq | 30 | done |" in summary.table(found)
