"""The notebook of docs/: executed, small, and its code runs as it stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
# A run of seconds in place of one of minutes.
FEW = "limit=60 layers=[1,3] backend.device=cpu collect.shuffles=20 collect.resamples=20"


def outputs(notebook) -> list[list[str]]:
    """Kinds of what each cell of code gave."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [sorted({one["output_type"] for one in cell["outputs"]}) for cell in cells]


def test_it_is_executed_and_small():
    text = NOTEBOOK.read_text()
    notebook = json.loads(text)
    counts = [c["execution_count"] for c in notebook["cells"] if c["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    kinds = {kind for some in outputs(notebook) for kind in some}
    assert kinds == {"stream", "execute_result"}
    assert len(text) < 20_000 and "image/" not in text
    assert str(Path.home()) not in text and "\\u001b" not in text


@pytest.mark.night
def test_its_code_runs_as_it_stands(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    for name in ("src", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setenv("NOTEBOOK_RUN", "outputs/mine")
    monkeypatch.setenv("NOTEBOOK_ARGS", FEW)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stored = outputs(notebook)
    for cell in notebook["cells"]:
        cell["outputs"] = []
    there = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=there).execute()
    assert outputs(notebook) == stored
    assert (tmp_path / "outputs" / "mine" / "plan" / "plan.json").is_file()
