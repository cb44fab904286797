"""The package that ``pip install .`` gives: its files, and its command in an empty folder."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from corrsteer.wording import command

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


SCRIPT = "import sys; sys.argv[0] = 'corrsteer'; from corrsteer.cli import main; sys.exit(main())"
"""What pip makes of the command's entry."""


def type_(
    words: str, cwd: Path, package: Path, start: tuple[str, ...] = ("-c", SCRIPT)
) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(package)}
    typed = [sys.executable, *start, *words.split()]
    return subprocess.run(typed, cwd=cwd, env=env, capture_output=True, text=True)


@pytest.mark.long
def test_the_command_is_that_of_the_checkout(tmp_path):
    words = "task=mmlu coef=2 --cfg job"
    ended = type_(words, tmp_path, ROOT / "src")
    assert ended.returncode == 0, ended.stderr
    checkout = type_(words, ROOT, ROOT / "src", ("-m", "src.main"))
    assert yaml.safe_load(ended.stdout) == yaml.safe_load(checkout.stdout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("report none", "error: there is no folder none; give the folder of a run or sweep"),
        ("reprot none", "invalid choice: 'reprot'"),
        ("task=bqq", "error: task=bqq does not exist (did you mean bbq?)"),
        ("--hlep", "type corrsteer --help"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_command(words, line, tmp_path):
    ended = type_(words, tmp_path, ROOT / "src")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert line in ended.stderr


def test_messages_name_what_was_typed(monkeypatch):
    for script, said in (
        ("/usr/bin/corrsteer", "corrsteer"),
        ("src/main.py", "python -m src.main"),
    ):
        monkeypatch.setattr(sys, "argv", [script])
        assert command() == said


def test_the_version_is_one():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == PROJECT["version"]
    assert f"## {PROJECT['version']}, " in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.night
def test_the_package_holds_what_the_command_needs(tmp_path):
    """All settings and bundled files, as they go into a wheel; with them it composes settings."""
    source, package = tmp_path / "source", tmp_path / "package"
    subprocess.run(["git", "clone", "-q", "--shared", ROOT, source], check=True)
    setup = [sys.executable, "-c", "from setuptools import setup; setup()", "-q"]
    subprocess.run([*setup, "build", "--build-lib", package], cwd=source, check=True)
    for kept, there in (("conf", "corrsteer/conf"), ("src/corrsteer/bundled", "corrsteer/bundled")):
        home, installed = source / kept, package / there
        files = {f.relative_to(home): f.read_bytes() for f in home.rglob("*") if f.is_file()}
        for name, content in files.items():
            assert (installed / name).read_bytes() == content
    (tmp_path / "empty").mkdir()
    ended = type_("task=bbq --cfg job --resolve", tmp_path / "empty", package)
    assert ended.returncode == 0, ended.stderr
    assert str(package / "corrsteer" / "bundled") in ended.stdout


def test_the_project_names_the_command():
    assert PROJECT["scripts"] == {"corrsteer": "corrsteer.cli:main"}
    assert importlib.metadata.version("corrsteer")
