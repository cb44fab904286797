"""``import corrsteer``: what it costs, what it has, and the example of the README."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from corrsteer.steering.plan import Plan, PlanEntry, load_plan

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "transformers", "nnsight", "sae_lens", "hydra", "pandas")


def python(*words: str, cwd: Path = ROOT) -> str:
    """What a fresh interpreter prints."""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_costs_next_to_nothing():
    code = f"""
import sys, time
start = time.process_time()
import corrsteer
spent = time.process_time() - start
print(spent, [name for name in {HEAVY} if name in sys.modules])
"""
    spent, modules = python("-c", code).split(maxsplit=1)
    assert float(spent) < 0.3
    assert modules.strip() == "[]"


def test_it_has_what_it_says_and_nothing_else():
    code = """
import corrsteer
from corrsteer import Plan, load_plan
import corrsteer.steering.plan as plan
assert (Plan, load_plan) == (plan.Plan, plan.load_plan)
assert sorted(corrsteer.__all__) == ["Plan", "load_plan"]
assert {"Plan", "load_plan"} <= set(dir(corrsteer))
try:
    corrsteer.lod_plan
except AttributeError as error:
    print(error)
"""
    assert python("-c", code) == "module 'corrsteer' has no attribute 'lod_plan'\n"


def test_a_plan_is_read_without_torch(tmp_path):
    plan = Plan((PlanEntry(1, 5, 0.25, 2.0, np.arange(4, dtype=np.float32)),), 0.5)
    plan.save(tmp_path / "run" / "plan")
    code = """
import sys, corrsteer
plan = corrsteer.load_plan(sys.argv[1])
print(plan.coef, {n: v.tolist() for n, v in plan.turned_to(2.0).vectors().items()})
print("torch" in sys.modules)
"""
    shown = python("-c", code, str(tmp_path / "run"))
    assert shown == "0.5 {1: [0.0, 2.0, 4.0, 6.0]}\nFalse\n"


@pytest.mark.night
def test_the_example_of_the_readme(tmp_path):
    """Its command makes the plan, with fewer samples, and its five lines answer under it."""
    section = (ROOT / "README.md").read_text().split("## From Python\n")[1].split("\n## ")[0]
    (command,) = [line.split() for line in section.splitlines() if line.startswith("    python ")]
    code = section.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line]) == 5
    for name in ("src", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    few = ["limit=60", "controls=few", "side_effects=none", "layers=[1,3]", "backend.device=cpu"]
    few += ["collect.shuffles=20", "collect.resamples=20"]
    python(*command[1:], *few, cwd=tmp_path)
    printed = python("-c", code, cwd=tmp_path)

    plan = load_plan(tmp_path / "outputs" / "mine")
    assert plan.coef == 2.0 and plan.about["model"]["architecture"] == "llama"
    (prompt,) = [
        ast.literal_eval(line.split(" = ")[1])
        for line in code.splitlines()
        if line.startswith("question")
    ]
    model = Local("cpu").load(Model("bundled", str(ROOT / "src/corrsteer/bundled/model")))
    (without,), (answer,) = model.generate([prompt], [None, plan], max_new_tokens=8)
    assert printed == f"{[{'generated_text': prompt + answer.text}]}\n"
    assert (without.text, answer.text) == (" A", " B")  # as the README says
