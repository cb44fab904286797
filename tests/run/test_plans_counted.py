"""Which steered plans a test split is said to have answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from corrsteer.records import Example
from corrsteer.run.odometer import counted
from corrsteer.stats.joint import best_of
from corrsteer.steering.arms import Arm, baseline, steered
from tests.report.made_up import NULL, made_up

TEST = [Example(f"q{n}", f"Question {n}? Answer:", "A", ("x", "y")) for n in range(5)]


@dataclass(frozen=True)
class Plan:
    dial: float
    changes_prompt: bool = False
    needs: frozenset[str] = frozenset()

    def key(self) -> dict[str, Any]:
        return {"plan": {"dial": self.dial}}


def count(
    root: Path,
    arm: Arm,
    test: list[Example] = TEST,
    model: str = "m",
    random: list[float] | None = NULL,
) -> tuple[int, float | None] | None:
    asking = SimpleNamespace(splits={"test": test})
    store = SimpleNamespace(root=root)
    bench = SimpleNamespace(asking=asking, store=store, model_key={"model": model})
    parts: Any = SimpleNamespace(bench=bench)
    fitted: Any = SimpleNamespace(arm=arm)
    found = counted(parts, fitted, made_up(random=random)).odometer
    return (found.plans, found.best_null_gain) if found else None


def test_plans_count_once_whoever_asks_and_however(tmp_path: Path) -> None:
    one, two = steered(Plan(1.0)), steered(Plan(2.0))
    asked_otherwise = [replace(e, prompt=f"Well: {e.prompt}") for e in TEST]
    assert count(tmp_path, one) == (1, best_of(NULL, 1))
    assert count(tmp_path, two) == (2, best_of(NULL, 2))
    assert count(tmp_path, one, asked_otherwise[::-1]) == (2, best_of(NULL, 2))
    assert count(tmp_path, steered(Plan(3.0)), random=None) == (3, None)


@pytest.mark.parametrize(
    "other",
    [{"model": "another"}, {"test": TEST[:4]}, {"test": [replace(e, id=f"x{e.id}") for e in TEST]}],
)
def test_another_model_or_other_questions_are_another_split(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    count(tmp_path, steered(Plan(1.0)))
    found = count(tmp_path, steered(Plan(2.0)), **other)
    assert found and found[0] == 1


def test_what_steers_nothing_is_not_counted(tmp_path: Path) -> None:
    assert count(tmp_path, baseline()) is None
    found = count(tmp_path, steered(Plan(1.0)))
    assert found and found[0] == 1
