"""``python -m corrsteer``: its commands, and what it says when one is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from corrsteer.__main__ import main
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
    for name in ("report", "cache", "track", "dashboard"):
        assert any(line.split()[:1] == [name] for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("", "COMMAND"),
        ("reprot x", "invalid choice: 'reprot'"),
        ("report", "FOLDER"),
        ("report {place}/none", "there is no folder {place}/none"),
        ("report {place}", "no finished run in {place}"),
        ("track {place}/none", "there is no folder {place}/none"),
        ("track {place}", ""),
        ("cache {place}/none", "there is no cache folder {place}/none"),
        ("cache --delete", "--delete needs --older-than"),
        ("cache --older-than soon", "'soon'"),
        ("cache --older-than 0.5", "must be at least 1, not 0.5"),
        ("cache --older-than soon", "must be a number such as 30, not 'soon'"),
        ("dashboard", "FOLDER|ENTITY/PROJECT"),
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
