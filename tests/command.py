"""A command as people type it: in a process of its own, or in this one, which spares the start.

Both run ``src/main.py`` as ``python -m`` does, with what is typed in ``sys.argv``; so a command in
this process goes through Hydra, the run folder and the exit code like one in its own.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import runpy
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TYPED = ["python", "-m", "src.main"]


def result(file: Path) -> object:
    """What a file of a run holds, but for how many plans had answered the test split by then: the
    cache counts those of all jobs, and they come in any order."""
    if file.name != "metrics.json":
        return file.read_bytes()
    return {k: part for k, part in json.loads(file.read_bytes()).items() if k != "odometer"}


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one line of a command that was refused."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert (self.code, len(lines)) == (2, 1), self.err
        assert "Traceback" not in self.err
        return lines[0]


def in_its_own_process(command: str, cwd: Path = ROOT, **env: str) -> Ended:
    words = shlex.split(command)
    assert words[:3] == TYPED
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=cwd, env=os.environ | env, capture_output=True, text=True,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


def in_this_process(command: str, cwd: Path = ROOT) -> Ended:
    words = shlex.split(command)
    assert words[:3] == TYPED
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        warnings.catch_warnings(),
        _as_it_was(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        sys.argv = ["src/main.py", *words[3:]]
        sys.path.insert(0, str(cwd))
        try:
            # Tests import src.main, too; it is run anew here.
            warnings.filterwarnings("ignore", "'src.main' found in sys.modules", RuntimeWarning)
            runpy.run_module("src.main", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Ended(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _as_it_was(cwd: Path) -> Iterator[None]:
    """Work in ``cwd``; afterwards nothing of a command is left: folder, environment, logging,
    modules that it imported from there."""
    root = logging.getLogger()
    before = Path.cwd(), sys.argv, list(sys.path), dict(os.environ)
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in root.manager.loggerDict}
    os.chdir(cwd)
    try:
        yield
    finally:
        os.chdir(before[0])
        sys.argv, sys.path[:] = before[1], before[2]
        os.environ.clear()
        os.environ.update(before[3])
        for name, module in list(sys.modules.items()):
            if os.path.dirname(getattr(module, "__file__", None) or "") == str(cwd):
                del sys.modules[name]
        for logger in (root, *map(logging.getLogger, list(root.manager.loggerDict))):
            for handler in list(logger.handlers):
                if isinstance(handler, logging.FileHandler) and handler not in handlers:
                    handler.close()
            if logger is not root:
                if logger.name.startswith("corrsteer"):
                    logger.handlers.clear()
                    logger.propagate = True
                was = levels.get(logger.name, logging.NOTSET)
                if logger.level != was:  # setting it empties every logger's cache
                    logger.setLevel(was)
        root.handlers[:] = handlers
        root.setLevel(level)
