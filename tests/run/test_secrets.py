"""Keys and tokens of the environment are nowhere in what a command says or leaves."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from corrsteer.run import pipeline
from tests.command import ROOT, in_this_process

pytestmark = pytest.mark.long

NAMES = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "NDIF_API_KEY", "WANDB_API_KEY", "OPENAI_API_KEY",
)  # fmt: skip
SMALL = (
    "task=bbq controls=few side_effects=none limit=12 collect.shuffles=20 collect.resamples=20"
    " layers=[1] cache=cache"
)
BUG = "def scored(example, text):\n    raise RuntimeError('a bug')\n"


@pytest.mark.night
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("hydra.run.dir=run", 0),
        ("hydra.run.dir=run backend=ndif backend.host=http://127.0.0.1:9", 2),
        ("hydra.run.dir=run data=no/such/folder", 2),
        ("hydra.run.dir=run task.scorer=bug.scored", 2),
        ("hydra.run.dir=run seed=500", 1),
        ("-m coef=1,2 hydra.sweep.dir=run backend=ndif backend.host=http://127.0.0.1:9", 1),
        pytest.param("hydra.run.dir=run tracker=wandb", 0, marks=pytest.mark.night),
    ],
    ids=[
        "done",
        "no server",
        "no data",
        "a bug of the user's",
        "a bug",
        "a sweep that fails",
        "tracked",
    ],
)
def test_a_job_tells_nobody_its_users_keys(tmp_path, words, code, monkeypatch):
    for name in ("src", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bug.py").write_text(BUG)
    secrets = {
        name: f"{n}secret{name.lower().replace('_', '')}" * 2 for n, name in enumerate(NAMES)
    }
    for name, secret in secrets.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    if code == 1 and "seed=500" in words:
        monkeypatch.setattr(pipeline, "build", broken)
    ended = in_this_process(f"python -m src.main {SMALL} {words}", cwd=tmp_path)
    assert ended.code == code, ended.err
    said = {"stdout": ended.out.encode(), "stderr": ended.err.encode()}
    left = {str(file): file.read_bytes() for file in written(tmp_path)}
    refused = not (tmp_path / "run").exists()  # before anything was computed
    assert not refused or code == 2
    assert refused or any(name.endswith("log.txt") for name in left)
    for place, content in (said | left).items():
        for name, secret in secrets.items():
            assert secret.encode() not in content, f"{name} is in {place}"


def broken(cfg: Any) -> None:
    raise RuntimeError(f"a bug, {len(os.environ)} variables")


def written(home: Path) -> list[Path]:
    files = [*home.glob("run/**/*"), *home.glob("cache/**/*"), *home.glob("wandb/**/*")]
    return [file for file in files if file.is_file()]
