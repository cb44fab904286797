"""Folders that this process made for a run or a sweep: a command that is refused leaves none.

Hydra makes them before it calls us, so what is not yet there is noted when a command starts. What
was there before, or holds anything but what a run writes before it computes, is never touched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from corrsteer.store.runfolder import ALIVE

OWN = frozenset({"log.txt", "status.json", "config.yaml", "multirun.yaml", ALIVE})
"""Files of a run, or of a sweep, that has computed nothing."""

_JOBS = re.compile(r"\d+|shared|local|(answer|collect|search)-\d+")

_noted: dict[Path, list[Path]] = {}


def note(folder: Path) -> None:
    """To be called before ``folder`` is made: which of it and its parents are not yet there. Of a
    process's earlier commands nothing is removed."""
    _noted.clear()
    place = Path(os.path.abspath(folder))
    _noted[place] = [each for each in (place, *place.parents) if not os.path.lexists(each)]


def unmake(folder: Path) -> None:
    """Remove a folder that was noted and was not there, with the parents that were made for it,
    where it holds nothing but files of ``OWN``, in folders of jobs too."""
    missing = _noted.pop(Path(os.path.abspath(folder)), [])
    if not missing or missing[0].is_symlink() or not missing[0].is_dir():
        return
    inside = list(_inside(missing[0]))
    if not all(_job(entry) or _own(entry) for entry in inside):
        return
    for entry in reversed(inside):
        if _job(entry):
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)
    for place in missing:
        try:
            place.rmdir()
        except OSError:  # somebody else has put something there
            return


def unmake_all() -> None:
    """:func:`unmake` for whatever this process has noted."""
    for folder in list(_noted):
        unmake(folder)


def _own(entry: os.DirEntry[str]) -> bool:
    said = Path(entry.path).parent.name == "local" and entry.name.endswith(".txt")
    return (entry.name in OWN or said) and entry.is_file(follow_symlinks=False)


def _job(entry: os.DirEntry[str]) -> bool:
    """Whether it is the folder of a job, of a shared stage, or of what processes said."""
    return bool(_JOBS.fullmatch(entry.name)) and entry.is_dir(follow_symlinks=False)


def _inside(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All that is in a folder and in its folders of jobs, folders before what is in them."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if _job(entry):
                yield from _inside(Path(entry.path))
