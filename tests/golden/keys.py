"""The cache keys of every kind of run (the bases of tests/run/test_cache_keys.py), by label.

``python -m tests.golden.keys`` writes ``keys.json`` anew: only where a key had to move, since all
that was cached under the old one is lost to its owner.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from tests.run import test_cache_keys as cases
from tests.test_config import composed

GOLDEN = Path(__file__).with_suffix(".json")


def measured(place: Path, scratch: Path) -> dict[str, dict[str, str]]:
    """Base -> label -> key. ``place``: what :func:`tests.run.test_cache_keys.furnish` filled."""
    found = {}
    for base, words in cases.BASES.items():
        typed = cases.typed(place, *words, *cases.SMALL)
        cfg = composed(*typed, f"cache={scratch / base / 'cache'}")
        found[base] = cases.run(cfg, scratch / base / "run", place)
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        place = Path(home) / "place"
        place.mkdir()
        cases.furnish(place)
        os.chdir(home)
        GOLDEN.write_text(json.dumps(measured(place, Path(home) / "runs"), indent=1) + "\n")
