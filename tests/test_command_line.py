"""``python -m corrsteer``: its commands, and what it says when one is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from corrsteer.__main__ import main
from corrsteer.store.runfolder import RunFolder
from tests.report.fabricated_run import fabricate_run

ROOT = Path(__file__).parents[1]


def type_(*words: str, code: str = "") -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code else ["-m", "corrsteer"]
    return subprocess.run(
        [sys.executable, *start, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )


def test_help_names_the_commands_and_imports_nothing_of_weight():
    code = """
import runpy, sys
try:
    runpy.run_module("corrsteer", run_name="__main__", alter_sys=True)
finally:
    heavy = {"torch", "pandas", "hydra", "omegaconf", "rich", "wandb", "pydantic", "numpy"}
    print("heavy", sorted(heavy & set(sys.modules)))
"""
    done = type_("--help", code=code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy []"
    for name in ("report", "cache", "track", "dashboard", "export", "verify", "inspect", "dial"):
        assert any(line.split()[:1] == [name] for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("", "COMMAND"),
        ("reprot x", "invalid choice: 'reprot'"),
        ("task=bbq limit=8", "task=bbq is a setting of a run: corrsteer task=bbq"),
        ("report", "FOLDER"),
        ("report {place}/none", "there is no folder {place}/none"),
        ("report {place}", "no finished run in {place}"),
        ("track {place}/none", "there is no folder {place}/none"),
        ("track {place}", "no finished run in {place}: give the folder of a run or sweep"),
        ("cache {place}/none", "there is no cache folder {place}/none"),
        ("cache --delete", "--delete needs --older-than"),
        ("cache --older-than soon", "'soon'"),
        ("cache --older-than 0.5", "must be at least 1, not 0.5"),
        ("cache --older-than soon", "must be a number such as 30, not 'soon'"),
        ("dashboard", "FOLDER|ENTITY/PROJECT"),
        ("dial {place}/none", "there is no folder {place}/none; give the folder of a run or plan"),
        ("dial {place} --port 70000", "must be a whole number from 0 to 65535, not '70000'"),
        ("dashboard {place}", "no run in {place}"),
    ],
)
def test_a_wrong_command_is_one_line(tmp_path, capsys, words, part):
    try:
        code = main(words.format(place=tmp_path).split())
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    assert (code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert captured.err.startswith("error: ")
    assert part.format(place=tmp_path) in captured.err


def test_what_is_no_run_names_one(tmp_path, capsys):
    run = tmp_path / "outputs" / "runs" / "one"
    run.mkdir(parents=True)
    fabricate_run(run, n_test=20)
    for folder in (tmp_path, tmp_path / "outputs" / "runs", run / "plan"):
        for command in ("report", "track"):
            assert main([command, str(folder)]) == 2
            assert f"such as {run}" in capsys.readouterr().err


def test_a_run_that_failed_says_why(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    folder.start([])
    folder.failed("layer 9 is out of range")
    assert main(["report", str(tmp_path)]) == 2
    line = capsys.readouterr().err
    assert "it is failed (layer 9 is out of range); type its command again" in line


def test_a_run_that_was_not_tracked_says_how_to_track_it(tmp_path, capsys):
    fabricate_run(tmp_path, n_test=20)
    for tracker in ("corrsteer.trackers.none.NoTracker", "corrsteer.trackers.wandb.Wandb"):
        mode = "\n  mode: disabled" if "wandb" in tracker else ""
        (tmp_path / "config.yaml").write_text(f"tracker:\n  _target_: {tracker}{mode}\n")
        assert main(["track", str(tmp_path)]) == 2
        assert "was not tracked: run it with tracker=wandb" in capsys.readouterr().err


def test_what_is_no_cache_names_one(tmp_path, capsys):
    (tmp_path / "outputs" / "cache").mkdir(parents=True)
    for place in (tmp_path, tmp_path / "outputs"):
        assert main(["cache", str(place)]) == 2
        assert (
            f"is no stage cache: give the folder of one, such as {tmp_path / 'outputs/cache'}"
            in (capsys.readouterr().err)
        )


def test_every_argument_has_a_help_text(capsys):
    first = dict.fromkeys(("report", "cache", "track", "dashboard"), "FOLDER")
    first |= {"export": "RUN", "verify": "PLAN", "inspect": "PLAN"}
    for command, name in first.items():
        with pytest.raises(SystemExit):
            main([command, "--help"])
        words = capsys.readouterr().out.partition("arguments:\n")[2].split()
        assert words[0].startswith(name) and words[1] != "options:", command


def test_a_report_is_written_again(tmp_path, capsys):
    fabricate_run(tmp_path / "run", n_test=20)
    assert main(["report", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'run' / 'report.html'}\n"
    assert (tmp_path / "run" / "report.html").stat().st_size > 0


def test_the_report_of_a_sweep_comes_with_its_table(tmp_path, capsys):
    for job, coef in enumerate((0.5, 2.0)):
        fabricate_run(tmp_path / str(job), coef=coef, n_test=20)
    (tmp_path / "multirun.yaml").touch()
    assert main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "coef" in out and "0.5" in out and "gain" in out
    assert f"report: {tmp_path / 'report.html'}" in out


def test_a_reader_that_has_enough_ends_it_quietly(tmp_path):
    (tmp_path / "collect").mkdir()
    command = f"{sys.executable} -m corrsteer cache {tmp_path} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.stdout in ("141\n", "0\n")  # 0: it was faster
    assert done.stderr == ""
