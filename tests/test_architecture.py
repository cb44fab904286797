"""Who may import whom, and what must stay out of the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "corrsteer"

# A name is a room, a module beside the rooms, or one module of a room (room.module), which stands
# for values that others may have without the rest of its room.
GROUND = {
    "errors", "records", "layers", "hub", "progress", "seams", "wording", "config", "report.record",
    "report.evidence",
}  # fmt: skip
PARTS = {"tasks", "scorers", "models", "saes", "selectors"}  # these never import each other
BELOW_STAGES = GROUND | PARTS | {"store", "stats", "steering"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "records": set(),
    "progress": set(),
    "layers": {"errors"},
    "hub": {"errors"},
    "seams": {"errors"},
    "wording": set(),
    "config": {"errors", "records", "layers", "hub", "seams", "wording"},
    "report.evidence": set(),
    "report.record": {"errors", "records", "report.evidence"},
    "store": GROUND,
    "stats": GROUND,
    "steering": GROUND | {"store", "stats"},
    **dict.fromkeys(PARTS, GROUND | {"steering", "store.keys"}),
    "models": GROUND | {"steering", "store.keys", "store.entries"},  # GGUF keeps what it unpacks
    "stages": BELOW_STAGES,
    "methods": BELOW_STAGES | {"stages"},
    "report": GROUND | {"store.runfolder", "stats", "steering.arms"},
    "trackers": GROUND | {"store.runfolder", "report", "stats"},
    "run": BELOW_STAGES | {"stages", "methods", "report", "trackers"},
    "export": BELOW_STAGES | {"stages", "run.build"},
    "serve": BELOW_STAGES | {"export.source"},
    "claims": GROUND | {"report", "stats", "steering.arms", "store.keys", "store.runfolder"},
    "sweep": GROUND | {"store", "run", "report", "trackers"},
    "__main__": GROUND | {"claims", "export", "report", "serve", "store", "sweep", "trackers"},
    "main": {"run"},
    "cli": {"__main__", "run"},
    "hydra_plugins": GROUND | {"sweep"},
    "": GROUND | {"steering", "models"},  # the front door: corrsteer/__init__.py
}
SHARED_BY_STAGES = "bench"
"""A stage imports no other, and this one, which holds the values of all stages, imports none."""
ONLY_IN = {
    "nnsight": "corrsteer/models/",
    "peft": "corrsteer/models/training.py",
    "sae_lens": "corrsteer/saes/",
    "wandb": "corrsteer/trackers/wandb.py",
    "lm_eval": "corrsteer/tasks/harness.py",
}
HEAVY = {
    "torch",
    "nnsight",
    "sae_lens",
    "wandb",
    "transformers",
    "transformer_lens",
    "lm_eval",
    "peft",
}
CONFIG_TIME = [
    "config", "errors", "records", "layers", "hub", "progress", "seams", "wording", "report.record",
    "store", "sweep", "run.app", "run.main", "run.typed", "cli", "saes", "tasks", "scorers",
    "steering", "selectors", "trackers", "__main__",
]  # fmt: skip
"""Imported while a command is still being checked, beside what ``conf/`` names; rooms stand for all
their modules."""
LONGEST = 400  # lines of a file: a longer one usually holds two things


def sources() -> list[Path]:
    return sorted((ROOT / "src").rglob("*.py"))


def unit(file: Path) -> str:
    """What MAY_IMPORT calls the place a file is in."""
    inside = file.relative_to(ROOT / "src").with_suffix("").parts
    if inside[0] != "corrsteer":
        return inside[0]
    if inside[1:] == ("__init__",):
        return ""
    module = ".".join(inside[1:])
    return module if module in MAY_IMPORT else inside[1]


def in_type_checking(tree: ast.AST) -> set[ast.AST]:
    """All that only type checkers run."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }


def imports(file: Path, *, running: bool = False) -> Iterator[tuple[int, str]]:
    """(line, full dotted name) of every import in a file, wherever it stands. ``running``: but for
    those under TYPE_CHECKING."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    left_out = in_type_checking(tree) if running else set()
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def may_import(here: str, name: str) -> bool:
    """``name``: of a module in the package, or of something in it, without the package's name."""
    room, _, rest = name.partition(".")
    return bool({room, f"{room}.{rest.split('.')[0]}"} & (MAY_IMPORT[here] | {here}))


def wrong_imports(file: Path) -> list[str]:
    wrong = []
    here = unit(file)
    assert here in MAY_IMPORT, f"say in MAY_IMPORT what {here} may import"
    place = file.relative_to(ROOT / "src").as_posix()
    for line, name in imports(file):
        top, _, rest = name.partition(".")
        if top == "src":
            wrong.append(f"{place}:{line} imports the application, {name}")
        if top == "corrsteer" and not may_import(here, rest):
            wrong.append(f"{place}:{line} {here} must not import {name}")
        if here == "stages" and rest.startswith("stages."):
            other = rest.split(".")[1]
            if file.stem == SHARED_BY_STAGES != other:
                wrong.append(f"{place}:{line} what stages share must not import one, {name}")
            elif other not in (file.stem, SHARED_BY_STAGES):
                wrong.append(f"{place}:{line} a stage must not import another, {name}")
        if top in ONLY_IN and not place.startswith(ONLY_IN[top]):
            wrong.append(f"{place}:{line} only {ONLY_IN[top]} may import {top}")
    return wrong


def test_imports_point_one_way():
    assert [line for file in sources() for line in wrong_imports(file)] == []


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("corrsteer/tasks/x.py", "from corrsteer.scorers.choice import Choice"),
        ("corrsteer/tasks/x.py", "from corrsteer.store.entries import Store"),
        ("corrsteer/stats/x.py", "def f():\n    import corrsteer.report.run_page"),
        ("corrsteer/records.py", "from corrsteer.errors import DataError"),
        ("corrsteer/store/x.py", "from corrsteer.steering.arms import Arm"),
        ("corrsteer/store/x.py", "from corrsteer.report.pages import cut"),
        ("corrsteer/steering/x.py", "from corrsteer.stages.bench import Bench"),
        ("corrsteer/stages/collect.py", "from corrsteer.stages.answers import generate"),
        ("corrsteer/stages/bench.py", "from corrsteer.stages.answers import generate"),
        ("corrsteer/stages/collect.py", "from corrsteer.run.build import Job"),
        ("corrsteer/methods/x.py", "from corrsteer.run.build import Job"),
        ("corrsteer/report/x.py", "from corrsteer.steering.operators import Add"),
        ("corrsteer/report/x.py", "from corrsteer.store.entries import Store"),
        ("corrsteer/report/x.py", "from corrsteer import store"),
        ("corrsteer/report/record.py", "from corrsteer.report.pages import cut"),
        ("corrsteer/trackers/x.py", "from corrsteer.run.app import run_in_folder"),
        ("corrsteer/run/x.py", "from corrsteer.sweep.pieces import Piece"),
        ("corrsteer/run/x.py", "from src.main import main"),
        ("corrsteer/run/x.py", "def f():\n    import nnsight.intervention"),
        ("corrsteer/models/x.py", "from sae_lens import SAE"),
        ("corrsteer/trackers/none.py", "import wandb"),
        ("corrsteer/serve/x.py", "from corrsteer.run.build import build"),
        ("corrsteer/tasks/lm_eval.py", "import lm_eval.tasks"),
        ("corrsteer/__init__.py", "from corrsteer.run.pipeline import run"),
        ("corrsteer/__main__.py", "from corrsteer.run.app import run_in_folder"),
        ("main.py", "from corrsteer.report.terminal import print_summary"),
    ],
)
def test_the_check_finds_a_wrong_import(place, code, tmp_path, monkeypatch):
    file = write(tmp_path, place, code, monkeypatch)
    assert len(wrong_imports(file)) == 1


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("corrsteer/report/x.py", "from corrsteer.store.runfolder import RunFolder"),
        ("corrsteer/report/x.py", "from corrsteer.store import runfolder"),
        ("corrsteer/report/x.py", "from corrsteer.report.pages import cut"),
        ("corrsteer/stages/x.py", "from corrsteer.report.record import Flips"),
        ("corrsteer/stages/x.py", "from corrsteer.stages.bench import Bench"),
        ("corrsteer/models/x.py", "import nnsight"),
        ("corrsteer/sweep/x.py", "from corrsteer.report import terminal"),
    ],
)
def test_the_check_passes_a_right_import(place, code, tmp_path, monkeypatch):
    assert wrong_imports(write(tmp_path, place, code, monkeypatch)) == []


def write(root: Path, place: str, code: str, monkeypatch) -> Path:
    """A file in a source tree below ``root``, which is what is checked from now on."""
    file = root / "src" / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    monkeypatch.setitem(globals(), "ROOT", root)
    monkeypatch.setitem(globals(), "PACKAGE", root / "src" / "corrsteer")
    return file


def graph() -> dict[str, set[str]]:
    """Module -> modules of the package that it imports, now or in a function."""
    names = {
        ".".join(file.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(
            ".__init__"
        ): file
        for file in PACKAGE.rglob("*.py")
    }
    edges: dict[str, set[str]] = {}
    for name, file in names.items():
        # A name is a module, or something in one.
        wanted = ((n, n.rpartition(".")[0]) for _, n in imports(file, running=True))
        edges[name] = {next(m for m in two if m in names) for two in wanted if {*two} & {*names}}
    return edges


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, directly or through others."""
    reached = {name: set(edges[name]) for name in edges}
    for middle in edges:
        for name in edges:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    together = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in edges
        if name in reached[name]
    }
    return sorted(map(list, together))


def test_no_modules_import_each_other():
    assert cycles(graph()) == []


def test_a_cycle_is_found(tmp_path, monkeypatch):
    lazy = "def f():\n    from corrsteer import c"
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import corrsteer.room.a"
    for place, code in {
        "__init__": "", "room/__init__": "", "room/a": "from corrsteer.b import x", "b": lazy,
        "c": "import corrsteer.room.a", "d": "from corrsteer.b import x", "e": typed,
    }.items():  # fmt: skip
        write(tmp_path, f"corrsteer/{place}.py", code, monkeypatch)
    assert cycles(graph()) == [["corrsteer.b", "corrsteer.c", "corrsteer.room.a"]]
    assert graph()["corrsteer.e"] == set()


def test_no_file_is_long():
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in sources()}
    assert {f.relative_to(ROOT).as_posix(): n for f, n in lengths.items() if n > LONGEST} == {}


def test_a_command_is_checked_without_heavy_imports():
    modules = []
    for name in CONFIG_TIME:
        place = PACKAGE / name.replace(".", "/")
        files = sorted(place.glob("*.py")) if place.is_dir() else [place]
        modules += [".".join(f.relative_to(PACKAGE).with_suffix("").parts) for f in files]
    targets = {
        target
        for file in (ROOT / "conf").rglob("*.yaml")
        for target in re.findall(r"_target_: corrsteer\.([\w.]+)\.\w+", file.read_text())
    }
    assert {"models.local", "sweep.close", "saes.folder"} <= targets
    modules += sorted(targets)
    code = "\n".join(
        [
            "import importlib, sys",
            f"for name in {modules!r}:",
            "    importlib.import_module(('corrsteer.' + name).removesuffix('.__init__'))",
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
    named = [
        name
        for name in listed.stdout.decode().split("\0")
        if name
        and (ROOT / name).is_file()
        and any(place in (ROOT / name).read_bytes() for place in places)
    ]
    assert named == []
