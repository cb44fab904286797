"""Whether a model is the one that a plan was made for.

A plan keeps the model's fingerprint: ``id@commit`` of the Hub, ``gguf@sha256`` of a file, or a
sha256 over the files of a folder. Two of one kind say yes or no, two of different kinds nothing.
Cost: a folder's files are read, once per process (a second for a gigabyte).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrsteer import hub

if TYPE_CHECKING:
    from corrsteer.steering.plan import Plan

_COMMIT = re.compile("[0-9a-f]{40}")


def made_for(plan: Plan) -> Mapping[str, Any]:
    """What a plan says of its model: name, architecture, revision, fingerprint; empty of one that
    was made by hand."""
    return plan.about.get("model") or {}


def is_other(plan: Plan, model: Any) -> bool:
    """Whether a model of transformers is known to be another than the plan's: by the place that it
    was loaded from, where it says one that is still there."""
    own = made_for(plan).get("fingerprint")
    path = str(getattr(model.config, "_name_or_path", "") or "")
    if not own or not path:
        return False
    if hub.is_local(path):
        found = of_folder(Path(path), kind(own))
    else:
        commit = getattr(model.config, "_commit_hash", None)
        found = f"{path}@{commit}" if commit and kind(own) == "hub" else None
    return found not in (None, own)


def kind(fingerprint: str) -> str:
    """How a fingerprint was made: gguf, hub or files."""
    place, at, _ = fingerprint.partition("@")
    return "files" if not at else "gguf" if place == "gguf" else "hub"


def of_folder(folder: Path, like: str) -> str | None:
    """The fingerprint of a model's folder, of the kind ``like``; None where it has none of that
    kind, as only a snapshot in the Hub's cache has ``id@commit``."""
    if not (folder / "config.json").is_file():
        return None
    place = folder.absolute()
    if like == "hub":
        home = place.parent.parent.name
        if not (_COMMIT.fullmatch(place.name) and home.startswith("models--")):
            return None
        return f"{home.removeprefix('models--').replace('--', '/')}@{place.name}"
    if like == "gguf":
        return None
    files = (f for f in place.iterdir() if f.is_file())
    return _of_files(place, tuple(sorted((f.name, f.stat().st_mtime_ns) for f in files)))


@lru_cache(maxsize=8)
def _of_files(folder: Path, state: tuple[tuple[str, int], ...]) -> str:
    """``state``: what a change of the files would change."""
    return hub.fingerprint(str(folder), folder)
