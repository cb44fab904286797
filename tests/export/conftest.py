"""A finished run of a tiny random model, as a main job leaves it, in a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corrsteer.run.build import asked
from corrsteer.run.results import answers_table
from corrsteer.stages.answers import answers_frame, generate, score
from corrsteer.steering.arms import baseline, steered
from corrsteer.steering.plan import Plan, PlanEntry
from corrsteer.store.runfolder import RunFolder
from tests.conftest import LAYERS, WIDTH
from tests.test_config import composed

QUESTIONS = 12


def plan_of(coef: float = 1.5, layers=range(LAYERS), width: int = WIDTH, **how) -> Plan:
    rng = np.random.default_rng(0)
    entries = tuple(
        PlanEntry(n, 10 + n, 0.1 * n, 2.5, 2 * rng.normal(size=width).astype(np.float32))
        for n in layers
    )
    return Plan(entries, coef, **how)


def finish(folder: Path) -> None:
    state = RunFolder(folder)
    state.start([])
    state.done()
    (folder / "metrics.json").write_text("{}")


def finished_run(folder: Path, model: Path, plan: Plan) -> Path:
    """With config, plan, status and answers of the unsteered model and of the plan."""
    folder.mkdir(parents=True)
    rows = folder.parent / "rows.jsonl"
    rows.write_text(
        "\n".join(json.dumps({"q": f"Say {'the ' * n}{n * n}", "answer": "a"}) for n in range(40))
    )
    cfg = composed(
        "model=folder", f"model.path={model}", "model.dtype=float32", "backend.device=cpu",
        "task=custom", "scorer@task.scorer=contains", f"task.path={rows}", "task.prompt='{q}'",
        "task.max_new_tokens=6", "splits.selection=4", "splits.validation=4",
        f"splits.test={QUESTIONS}", "sae.path=none",
    )  # fmt: skip
    from corrsteer.config import resolved_yaml

    (folder / "config.yaml").write_text(resolved_yaml(cfg))
    spec, backend, asking = asked(cfg)
    told = {"name": "tiny", "architecture": spec.architecture(), "fingerprint": spec.fingerprint()}
    replace(plan, about={"model": told}).save(folder / "plan")
    loaded, examples = backend.load(spec), asking.splits["test"]
    arms = [baseline(), steered(plan)]
    batches = loaded.batches([e.prompt for e in examples])
    made = generate(loaded, examples, arms, batches=batches, max_new_tokens=6)
    frames = []
    for arm in arms:
        frame = answers_frame(examples, [made[arm.name][i] for i in range(len(examples))])
        scored = score(frame, examples, asking.task.scorer)
        frames.append(("test", arm.name, scored.assign(prompt=[e.prompt for e in examples])))
    answers_table(frames).to_parquet(folder / "answers.parquet", index=False)
    finish(folder)
    return folder


@pytest.fixture(scope="session")
def run_of(tiny_model, tmp_path_factory) -> Callable[[str], Path]:
    """``run_of(family)``: the folder of a finished run; not to be written to."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            place = tmp_path_factory.mktemp(f"run_{family}") / "run"
            made[family] = finished_run(place, tiny_model(family), plan_of())
        return made[family]

    return folder
