"""A test split knows how many different plans have answered it."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from corrsteer.errors import ConfigError
from corrsteer.store.entries import Store
from corrsteer.store.listing import items
from corrsteer.store.odometer import ODOMETER, note


def test_a_plan_counts_once_for_each_split(tmp_path: Path) -> None:
    p, q, r = ("1" * 32, "2" * 32, "e" * 32)
    assert [note(tmp_path, "a", plan) for plan in (p, q, p, r)] == [1, 2, 2, 3]
    assert note(tmp_path, "b", p) == 1


def test_what_is_no_plan_is_not_counted(tmp_path: Path) -> None:
    note(tmp_path, "a", "1" * 32)
    for name in (".DS_Store", "notes.txt", f"{'1' * 32}~", "1" * 31, "G" * 32):
        (tmp_path / ODOMETER / "split-a" / name).touch()
    assert note(tmp_path, "a", "2" * 32) == 2


def _note_all(root: Path) -> int:
    return max(note(root, "split", f"{k:032x}") for k in range(200))


def test_jobs_that_count_at_once_lose_none(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        assert max(pool.map(_note_all, [tmp_path] * 4)) == 200


def test_the_store_leaves_it_alone(tmp_path: Path) -> None:
    note(tmp_path, "0" * 32, "1" * 32)
    Store(tmp_path)
    assert note(tmp_path, "0" * 32, "1" * 32) == 1
    assert [item for item in items(tmp_path) if item.path.parent.name == ODOMETER] == []


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ODOMETER).write_text("in the way")
    with pytest.raises(ConfigError, match="cannot write the cache folder"):
        note(tmp_path, "a", "p")
