"""Folders that hold results already, as with ``hydra.run.dir=.`` or ``hydra.sweep.dir=mine``.

The same command may be typed again: it goes on, and what the last one said of its end is forgotten
first, so no old result can stand beside a new one. Another command is refused: its jobs would have
the numbers of the old ones, and files that it does not write itself would be taken for its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from corrsteer.errors import ConfigError, DataError
from corrsteer.report.record import FILE as RECORD
from corrsteer.store.runfolder import STATUS, RunFolder, jobs

WRITTEN = (
    "config.yaml", RECORD, "features.csv", "classes.csv", "answers.parquet", "contexts.json",
    "report.html", "ablations.csv", "trials.csv", "plan", "multirun.yaml", "summary.csv",
    "verdict.md",
)  # fmt: skip
"""What runs and sweeps leave in their folders."""


def take_run(folder: Path, words: Sequence[str]) -> None:
    """Raises ConfigError where a run in this folder would mix with what it holds. ``words``: what
    was typed, without Hydra's own settings."""
    if (folder / STATUS).exists():
        try:
            status = RunFolder(folder).status()
        except DataError:
            status = {"state": "done"}
        before = status.get("overrides")
        results = any(os.path.lexists(folder / name) for name in WRITTEN if name != "config.yaml")
        ended_well = results or status.get("state") == "done"
        if before != list(words) and ended_well:  # what failed early has no results
            raise _refused(folder, "run", before)
    else:
        _check_foreign(folder, "run")


def take_sweep(folder: Path, words: Sequence[str]) -> None:
    """The same for a sweep. Forgets how its jobs ended where the same command is typed again."""
    if (folder / "multirun.yaml").exists():
        before = _words_of(folder / "multirun.yaml")
        if before != list(words) and jobs(folder):
            raise _refused(folder, "sweep", before)
        for path in (*(folder / str(n) for n in jobs(folder)), *_shared(folder)):
            RunFolder(path).forget()
        (folder / "summary.csv").unlink(missing_ok=True)
        return
    _check_foreign(folder, "sweep")
    if folder.is_dir() and jobs(folder):
        raise _refused(folder, "sweep", None)


def _shared(folder: Path) -> list[Path]:
    """Folders of the shared stage and its shares (:mod:`corrsteer.sweep.pieces`)."""
    return [file.parent for file in (folder / "shared").glob(f"**/{STATUS}")]


def _words_of(file: Path) -> list[str] | None:
    try:
        return [str(word) for word in OmegaConf.load(file).hydra.overrides.task]
    except Exception:  # whatever YAML and OmegaConf say of a file that no sweep has written so
        return None


def _check_foreign(folder: Path, kind: str) -> None:
    there = [name for name in (STATUS, *WRITTEN) if os.path.lexists(folder / name)]
    if there:
        raise ConfigError(
            f"{folder / there[0]} is there already, and no {kind} of this program wrote it: type"
            f" another hydra.{kind}.dir, or move it away"
        )


def _refused(folder: Path, kind: str, before: Sequence[str] | None) -> ConfigError:
    what = f" ({' '.join(before)})" if before else ""
    return ConfigError(
        f"{folder} holds another {kind}{what}, whose results would stand beside this one's: type"
        f" another hydra.{kind}.dir, or delete it"
    )
