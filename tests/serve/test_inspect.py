"""The model provider for Inspect, through its command line, on a task of ours.

Inspect asks for older packages than ours: ``make inspect`` gives it an environment of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from tests.export.conftest import QUESTIONS, finished_run, plan_of

pytestmark = pytest.mark.night

ROOT = Path(__file__).parents[2]
OWN = ROOT / ".inspect" / "bin" / "python"
# Test questions of a run, and a wrapper that tells how many were answered together.
TASK = """
import json
import pandas as pd
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import includes

import corrsteer.serve.together as together

answered, sizes = together.answered, []


def counted(stepper, plan, rows, *how):
    sizes.append(len(rows))
    with open({sizes!r}, "w") as file:
        json.dump(sizes, file)
    return answered(stepper, plan, rows, *how)


together.answered = counted


@task
def ours():
    table = pd.read_parquet({answers!r})
    table = table[(table["split"] == "test") & (table["arm"] == "steered")]
    pairs = zip(table["id"], table["prompt"])
    samples = [Sample(input=prompt, target={letter!r}, id=name) for name, prompt in pairs]
    return Task(dataset=MemoryDataset(samples), scorer=includes(ignore_case=False))
"""


@pytest.fixture(scope="module")
def inspect_python() -> str:
    if find_spec("inspect_ai") is not None:
        return sys.executable
    if OWN.is_file():
        return str(OWN)
    pytest.skip("Inspect is not installed: make inspect")


@pytest.fixture(scope="module")
def run(tiny_llama, tmp_path_factory) -> Path:
    return finished_run(tmp_path_factory.mktemp("inspect") / "run", tiny_llama, plan_of())


def evaluated(python, folder, *words) -> dict:
    """The log of ``inspect eval``."""
    command = [python, "-m", "inspect_ai", "eval", "task.py", "--log-format", "json"]
    command += ["--log-dir", "logs", "--display", "none", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    (log,) = [json.loads(f.read_text()) for f in (folder / "logs").glob("*.json")] or [None]
    assert log is not None, done.stdout + done.stderr
    return log


def test_its_accuracy_and_answers_are_those_of_the_run(inspect_python, run, tmp_path):
    table = pd.read_parquet(run / "answers.parquet")
    steered = table[(table["split"] == "test") & (table["arm"] == "steered")].set_index("id")
    # The letter that is in about half of the answers.
    holds = {c: steered["answer"].str.contains(c, regex=False).mean() for c in "etaoinshrdlu"}
    letter = min(holds, key=lambda c: abs(holds[c] - 0.5))
    assert 0 < holds[letter] < 1
    names = {"answers": str(run / "answers.parquet"), "sizes": str(tmp_path / "sizes.json")}
    (tmp_path / "task.py").write_text(TASK.format(**names, letter=letter))
    log = evaluated(inspect_python, tmp_path, "--model", f"corrsteer/{run}", "-M", "batch_size=8")
    assert log["status"] == "success", log.get("error")
    found = {s["id"]: s["output"]["choices"][0]["message"]["content"] for s in log["samples"]}
    assert found == steered["answer"].to_dict()
    unsteered = table[(table["split"] == "test") & (table["arm"] == "baseline")]
    assert found != unsteered.set_index("id")["answer"].to_dict()
    (score,) = log["results"]["scores"]
    assert score["metrics"]["accuracy"]["value"] == pytest.approx(holds[letter])
    sizes = json.loads((tmp_path / "sizes.json").read_text())
    assert sum(sizes) == QUESTIONS and max(sizes) == 8 and len(sizes) < QUESTIONS / 2
