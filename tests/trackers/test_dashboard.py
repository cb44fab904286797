"""The dashboard's command line up to the server, which no test can reach."""

from __future__ import annotations

import json
import sys

import pytest

from corrsteer.trackers import dashboard
from corrsteer.trackers.dashboard import place


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    folder = tmp_path / "2026_bbq"
    (folder / "0").mkdir(parents=True)
    (folder / "multirun.yaml").touch()
    track(folder, {"project": "mine", "mode": "offline", "group": None})
    return folder


def track(folder, tracker):
    (folder / "0" / "config.yaml").write_text(json.dumps({"tracker": tracker}))


def test_a_folder_names_its_project_and_group(sweep):
    assert place(str(sweep)) == (None, "mine", "2026_bbq")
    assert place(str(sweep / "0")) == (None, "mine", "2026_bbq")
    track(sweep, {"project": "mine", "group": "ours"})
    assert place(str(sweep)) == (None, "mine", "ours")
    assert place("team/other") == ("team", "other", None)
    assert place("other") == (None, "other", None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "type python -m corrsteer dashboard FOLDER"),
        (["{sweep}"], "wandb has no API key: type wandb login"),
        (["{sweep}/.."], "no run in"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(sweep, arguments, words, capsys):
    assert dashboard.main([text.format(sweep=sweep) for text in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_wrong_key(sweep, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert dashboard.main([str(sweep)]) == 2
    assert "WANDB_API_KEY invalid" in capsys.readouterr().err.splitlines()[-1]


def test_runs_that_were_not_tracked(sweep, capsys):
    track(sweep, {"_target_": "corrsteer.trackers.none.NoTracker"})
    assert dashboard.main([str(sweep)]) == 2
    assert "was not tracked: run it with tracker=wandb" in capsys.readouterr().err


def test_the_extra_that_is_missing(sweep, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert dashboard.main([str(sweep)]) == 2
    assert "pip install 'corrsteer[wandb-dashboard]'" in capsys.readouterr().err
