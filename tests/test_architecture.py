"""Who may import whom, and what must stay out of the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "corrsteer"

BASE = {"errors", "records", "layers", "hub"}
PARTS = {
    "tasks", "scorers", "models", "saes", "selectors", "strategies", "stats", "trackers",
}  # fmt: skip
MAY_IMPORT = {
    "errors": set(),
    "records": set(),
    "layers": {"errors"},
    "hub": {"errors"},
    **{part: BASE for part in PARTS},
    "config": BASE,
    "locks": set(),
    "store": BASE | {"config", "locks"},
    "listing": {"store"},
    "stages": BASE | PARTS | {"runfolder", "store"},
    "planfile": BASE,
    "progress": set(),
    "runfolder": {"locks"},
    "resume": BASE | PARTS | {"store"},
    "cached": BASE | PARTS | {"planfile", "progress", "resume", "store", "stages"},
    "measured": BASE | PARTS | {"cached", "progress", "stages"},
    "job": BASE | PARTS | {"cached", "config", "measured", "stages", "store"},
    "effects": BASE | {"cached", "job", "measured", "stages"},
    "about": BASE | PARTS | {"cached", "job", "stages"},
    "search": BASE | PARTS | {"config", "job", "stages"},
    "tracking": {"config", "runfolder", "stages"},
    "dashboard": {"errors", "trackers"},
    "pipeline": BASE
    | {"about", "config", "effects", "job", "planfile", "resume", "stages", "tracking"},
    "runs": BASE | {"config", "runfolder", "stages", "tracking"},
    "sweeps": BASE | {"config", "pipeline", "runfolder", "runs"},
    "processes": BASE | {"sweeps"},
    "slurm": BASE | {"stages", "sweeps", "tracking"},
    "main": {"config", "runs", "pipeline"},
}
STAGES = {"generate", "collect", "select", "validate", "evaluate", "report"}
ONLY_IN = {"nnsight": "models", "sae_lens": "saes", "wandb": "trackers/wandb.py"}
HEAVY = {"torch", "nnsight", "sae_lens", "wandb", "transformers", "transformer_lens"}
# Imported while a command is still being checked; wandb.py and local.py by the config that names
# them. Packages stand for all their modules.
IMPORTED_AT_CONFIG_TIME = [
    "config", "store", "runs", "records", "errors", "layers", "models.spec", "models.local",
    "models.remote", "models.loaded", "hub", "saes", "tasks", "scorers", "strategies", "selectors",
    "trackers", "sweeps", "processes", "slurm",
]  # fmt: skip


def sources() -> list[Path]:
    return [ROOT / "src" / "main.py", *sorted(PACKAGE.rglob("*.py"))]


def unit(file: Path) -> str:
    """What the table above calls the place a file is in; "" for the package itself."""
    if file == ROOT / "src" / "main.py":
        return "main"
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py").removesuffix("__init__")


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, full dotted name) of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def wrong_imports(file: Path) -> list[str]:
    wrong = []
    here = unit(file)
    assert here in MAY_IMPORT or here == "", f"say in MAY_IMPORT what {here} may import"
    place = file.relative_to(ROOT).as_posix()
    for line, name in imports(file):
        top, _, rest = name.partition(".")
        there = rest.split(".")[0]
        if top == "src":
            wrong.append(f"{place}:{line} imports the application, {name}")
        if top == "corrsteer" and there != here and there not in MAY_IMPORT.get(here, ()):
            wrong.append(f"{place}:{line} {here} must not import {name}")
        others = set(rest.split(".")) & (STAGES - {file.stem}) if there == "stages" else set()
        if here == "stages" and file.stem in STAGES and others:
            wrong.append(f"{place}:{line} a stage must not import another, {name}")
        if top in ONLY_IN and not place.startswith(f"src/corrsteer/{ONLY_IN[top]}"):
            wrong.append(f"{place}:{line} only {ONLY_IN[top]} may import {top}")
    return wrong


def test_imports_point_one_way():
    assert [line for file in sources() for line in wrong_imports(file)] == []


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("tasks/x.py", "from corrsteer.scorers.choice import Choice"),
        ("stats/x.py", "def f():\n    import corrsteer.report.run_page"),
        ("records.py", "from corrsteer.errors import DataError"),
        ("stages/collect.py", "from corrsteer.config import canonical"),
        ("stages/collect.py", "from corrsteer.stages.answers import generate"),
        ("stages/report.py", "from corrsteer import pipeline"),
        ("cached.py", "from corrsteer.run.pipeline import run"),
        ("runs.py", "from src.main import main"),
        ("pipeline.py", "def f():\n    import nnsight.intervention"),
        ("models/x.py", "from sae_lens import SAE"),
        ("trackers/none.py", "import wandb"),
    ],
)
def test_the_check_finds_a_wrong_import(place, code, tmp_path, monkeypatch):
    file = tmp_path / "src" / "corrsteer" / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "src" / "corrsteer")
    assert len(wrong_imports(file)) == 1


def test_a_command_is_checked_without_heavy_imports():
    names = []
    for name in IMPORTED_AT_CONFIG_TIME:
        path = PACKAGE / name.replace(".", "/")
        modules = [f"{name}.{file.stem}" for file in path.glob("*.py") if path.is_dir()]
        names += [m.removesuffix(".__init__") for m in modules or [name]]
    code = "\n".join(
        [
            "import importlib, sys",
            f"for name in {names!r}:",
            "    importlib.import_module('corrsteer.' + name)",
            f"    heavy = {HEAVY!r} & set(sys.modules)",
            "    assert not heavy, f'{name} imports {heavy}'",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_src_is_no_package():
    assert not (ROOT / "src" / "__init__.py").exists()


def test_no_file_names_a_place_of_one_machine():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    places = [f"/{folder}/".encode() for folder in ("work", "root", "home")]
    found = [
        name
        for name in listed.stdout.decode().split("\0")
        if name
        and (ROOT / name).is_file()
        and any(place in (ROOT / name).read_bytes() for place in places)
    ]
    assert found == []
