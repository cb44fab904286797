"""A finished run of a tiny random model with SAEs, without the seconds that a real one takes, and
the server of it on a free port of this machine."""

from __future__ import annotations

import csv
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from corrsteer.config import resolved_yaml
from corrsteer.models.spec import Model
from corrsteer.steering.plan import Plan, PlanEntry
from corrsteer.store.runfolder import RunFolder
from tests.conftest import LAYERS, WIDTH
from tests.test_config import composed

HOSTILE = "<script>window.broken_out = 1</script>\u202e<img src=x onerror=alert(1)>"
PROMPTS = ["A long question about the weather?\nAnswer:", "Is it A or B?\nAnswer:", HOSTILE]


def plan_of(coef: float = 1.0, layers=range(LAYERS), **how) -> Plan:
    rng = np.random.default_rng(0)
    entries = tuple(
        PlanEntry(n, 10 + n, 0.1 * n, 2.5, 2 * rng.normal(size=WIDTH).astype(np.float32))
        for n in layers
    )
    return Plan(entries, coef, **how)


def made_run(folder: Path, model: Path, saes: Path, plan: Plan) -> Path:
    folder.mkdir(parents=True)
    cfg = composed(
        "model=folder", f"model.path={model}", "model.dtype=float32", "backend.device=cpu",
        "task=bbq", f"sae.path={saes}", "task.max_new_tokens=12",
    )  # fmt: skip
    (folder / "config.yaml").write_text(resolved_yaml(cfg))
    told = {
        "name": "tiny",
        "architecture": "llama",
        "fingerprint": Model("m", str(model)).fingerprint(),
    }
    replace(plan, about={"model": told, "saes": {}}).save(folder / "plan")
    rows = [
        {"id": f"q-{n}", "split": "test", "arm": arm, "prompt": prompt}
        for arm in ("baseline", "steered")
        for n, prompt in enumerate(PROMPTS)
    ]
    pd.DataFrame(rows).to_parquet(folder / "answers.parquet")
    context = {"tokens": ["a", HOSTILE], "activations": [0.0, 1.0], "peak": 1}
    cards = [
        {
            "layer": e.layer, "feature": e.feature, "class": "structural", "class_why": HOSTILE,
            "description": HOSTILE, "neuronpedia": "javascript:alert(1)", "promotes": [HOSTILE],
            "suppresses": [], "contexts": [context],
        }
        for e in plan.entries
    ]  # fmt: skip
    (folder / "contexts.json").write_text(json.dumps(cards))
    with (folder / "features.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["layer", "feature", "freq"])
        table.writerows([e.layer, e.feature, 0.5] for e in plan.entries)
    state = RunFolder(folder)
    state.start([])
    state.done()
    return folder


@pytest.fixture(scope="session")
def run(tiny_llama, tiny_saes, tmp_path_factory) -> Path:
    """Not to be written to."""
    return made_run(tmp_path_factory.mktemp("dial") / "run", tiny_llama, tiny_saes, plan_of())


@dataclass(frozen=True)
class Served:
    loaded: Any
    worker: Any
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def served(folder: Path, *, key: str | None = None, waiting: int = 32) -> Iterator[Served]:
    from corrsteer.serve.app import application
    from corrsteer.serve.command import _listening, server_of
    from corrsteer.serve.source import load, read
    from corrsteer.serve.worker import Worker

    loaded, worker = load(read(folder, None), 64), Worker(waiting)
    worker.start(loaded.begin)
    place = _listening(0)
    server = server_of(application(loaded, worker, most=100, key=key), worker)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Served(loaded, worker, place.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(10)
        worker.close()
        place.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def server(run) -> Iterator[Served]:
    yield from served(run)
