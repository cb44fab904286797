"""How many different plans have answered one test split, whichever run asked.

Showing the best of many plans that were tried on one test split is how this field fools itself, so
the cache counts them: ``<root>/odometer/split-<split>/<plan>``, an empty file each. A name is made
at once or is there already, so jobs need no lock, and nothing is ever read but names. It is no
entry (:mod:`corrsteer.store.listing`), so only who empties the whole cache sets it back. Other
names, of an editor or a file manager, are no plans.
"""

from __future__ import annotations

import re
from pathlib import Path

from corrsteer.store.files import one_line

ODOMETER = "odometer"
_PLAN = re.compile("[0-9a-f]{32}")  # a digest


def note(root: Path, split: str, plan: str) -> int:
    """Note that ``plan`` has answered the test split ``split`` (digests); how many have by now."""
    folder = root / ODOMETER / f"split-{split}"
    with one_line("write", root):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / plan).touch()
        return sum(1 for name in folder.iterdir() if _PLAN.fullmatch(name.name))
