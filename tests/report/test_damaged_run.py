"""A run folder that was damaged, cut or edited: its report is one line that names the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from corrsteer.__main__ import main
from corrsteer.report.sweep_page import write_sweep_report
from corrsteer.sweep.close import failed_jobs
from tests.report.fabricated_run import fabricate_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    fabricate_run(folder, n_test=40, side_effects=False, transfer=())
    return folder


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A copy whose files can be replaced, but not written through."""
    folder = tmp_path / "run"
    (folder / "plan").mkdir(parents=True)
    for file in (f for f in whole.rglob("*") if f.is_file()):
        os.link(file, folder / file.relative_to(whole))
    return folder


def replaced(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def half(path: Path) -> None:
    content = path.read_bytes()
    replaced(path, content[: len(content) // 2])


def empty(path: Path) -> None:
    replaced(path, b"")


def noise(path: Path) -> None:
    replaced(path, bytes(range(256)) * 40)


def gone(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_json(value: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        replaced(path, json.dumps(value).encode())

    return write


def edited(**changes: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        as_json(json.loads(path.read_text()) | changes)(path)

    return write


def table(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        read, suffix = (pd.read_csv, "csv") if path.suffix == ".csv" else (pd.read_parquet, "")
        frame = change(read(path))
        path.unlink()
        frame.to_csv(path, index=False) if suffix else frame.to_parquet(path, index=False)

    return write


def in_first_card(**changes: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        first, *rest = json.loads(path.read_text())
        as_json([first | changes, *rest])(path)

    return write


WHATEVER = [half, empty, noise, gone, a_folder]
DEEP = "[" * 100_000
CASES = [
    *((name, damage) for name in (
        "metrics.json", "features.csv", "answers.parquet", "contexts.json", "status.json",
    ) for damage in WHATEVER if (name, damage) != ("status.json", gone)),
    *(("config.yaml", damage) for damage in (noise, gone, a_folder)),
    *(("plan/plan.json", damage) for damage in (half, empty, noise, a_folder, as_json([1]))),
    *(("contexts.json", as_json(value)) for value in ({}, 7, None, [7], [{}])),
    ("contexts.json", in_first_card(contexts=[{"tokens": ["a"]}])),
    ("contexts.json", in_first_card(contexts=7)),
    ("contexts.json", in_first_card(layer=None, contexts=[
        {"tokens": ["a", 5], "activations": [1, 2], "peak": 0}])),
    ("contexts.json", lambda path: replaced(path, DEEP.encode())),
    ("metrics.json", lambda path: replaced(path, DEEP.encode())),
    ("status.json", lambda path: replaced(path, DEEP.encode())),
    *(("status.json", as_json(value)) for value in ([], 7, None, {}, {"state": 7})),
    ("status.json", edited(started="yesterday")),
    ("status.json", edited(overrides="coef=1")),
    ("status.json", edited(seconds="long")),
    ("features.csv", table(lambda t: t.drop(columns="r"))),
    ("features.csv", table(lambda t: t.assign(r="high"))),
    ("features.csv", table(lambda t: t.assign(layer=t["layer"].astype(float)))),
    ("features.csv", table(lambda t: t.assign(chosen="maybe"))),
    ("answers.parquet", table(lambda t: t.drop(columns="gold"))),
    ("answers.parquet", table(lambda t: t.assign(score="1"))),
    ("answers.parquet", table(lambda t: t.assign(answer=None))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_the_report_of_a_damaged_run_is_one_line_that_names_the_file(run, name, damage, capsys):
    damage(run / name)
    assert main(["report", str(run)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and name in err


def test_files_that_do_not_fit_together_are_one_line(run, capsys):
    in_first_card(promotes=7)(run / "contexts.json")
    assert main(["report", str(run)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: the files of") and err.count("\n") == 1


@pytest.mark.long
@pytest.mark.parametrize("damage", WHATEVER)
def test_a_damaged_job_does_not_take_the_sweep_with_it(tmp_path, damage, capsys):
    for n in (0, 1):
        fabricate_run(tmp_path / str(n), n_test=40, coef=n + 1, side_effects=False, transfer=())
    (tmp_path / "multirun.yaml").touch()
    damage(tmp_path / "1" / "metrics.json")
    assert main(["report", str(tmp_path)]) == 0
    assert "unreadable" in capsys.readouterr().out


@pytest.mark.long
def test_numbered_folders_of_the_user_are_no_jobs(tmp_path):
    for n in (0, 1):
        fabricate_run(tmp_path / str(n), n_test=40, coef=n + 1, side_effects=False, transfer=())
    for name in ("2024", "²", "007", "9" * 30, "3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo").touch()
    (tmp_path / "4").touch()
    (tmp_path / "5").symlink_to("0")
    write_sweep_report(tmp_path)
    assert pd.read_csv(tmp_path / "summary.csv")["job"].tolist() == [0, 1]
    assert failed_jobs(tmp_path) == []
    (tmp_path / "1" / "status.json").write_text("{")
    [line] = failed_jobs(tmp_path)
    assert "status.json is damaged" in line
