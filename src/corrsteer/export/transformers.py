"""For transformers alone: the plan, and a short module that steers with it and needs no corrsteer
(:mod:`corrsteer.export.steer`). Token for token the same as the program's own answers."""

from __future__ import annotations

import shutil
from pathlib import Path

from corrsteer.export.source import Source

STEER = Path(__file__).with_name("steer.py")


def write(source: Source, folder: Path, out: Path) -> list[str]:
    """``vectors.safetensors``, ``plan.json`` and ``steer.py``."""
    source.plan.save(folder)
    shutil.copyfile(STEER, folder / "steer.py")
    return [
        f"use it: sys.path.insert(0, {str(out)!r}); from steer import steer; with steer(model):"
    ]
