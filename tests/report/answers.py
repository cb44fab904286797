"""Answers made by hand, and what is measured of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from corrsteer.records import Example, RankedFeature
from corrsteer.report.record import Record, SideEffects
from corrsteer.stages.evaluate import evaluate, with_side_effects
from corrsteer.steering.arms import Arm
from tests.report.fabricated_run import record_of

BASE = "r" * 50 + "w" * 40 + "x" * 10
BETTER = "r" * 48 + "w" * 2 + "r" * 20 + "w" * 20 + "r" * 5 + "x" * 5  # 25 fixed, 2 broken
RANDOM = [BASE, "w" + BASE[1:], BASE[:-1] + "r", BASE, BASE]


def frame(states: str) -> pd.DataFrame:
    """r right, w wrong, x invalid, g wrong and gibberish."""
    return pd.DataFrame(
        {
            "id": [f"s{i}" for i in range(len(states))],
            "answer": list(states),
            "parsed": pd.array([None if s == "x" else s for s in states], dtype="string"),
            "score": [float(s == "r") for s in states],
            "invalid": [s == "x" for s in states],
            "degenerate": pd.array([{"g": "gibberish"}.get(s) for s in states], dtype="string"),
        }
    )


def feature(layer: int, r: float, ceiling: float) -> RankedFeature:
    return RankedFeature(layer, 1, 7, r, ceiling, 0.5, 0.3, 0.4, 0.2, 1.0, 0.5, 0.0, r, 0.01, 1.0)


def examples(n: int, meta: Callable[[int], dict] = lambda i: {}) -> list[Example]:
    return [Example(f"s{i}", "p", "A", ("x", "y", "z"), meta(i)) for i in range(n)]


def measured(
    base: str,
    steered: str,
    random: Sequence[str],
    *,
    chosen: Sequence[RankedFeature] = (),
    length_r: float = 0.0,
    meta: Callable[[int], dict] = lambda i: {},
    effects: SideEffects | None = None,
    **controls: str,
) -> Record:
    """The record of a run with these answers. ``controls``: of one arm, by kind."""
    arms = [Arm("baseline", "baseline"), Arm("steered", "steered")]
    arms += [Arm(f"random_{n}", "random") for n, _ in enumerate(random, start=1)]
    arms += [Arm(kind, kind) for kind in controls]
    answers = [base, steered, *random, *controls.values()]
    test = {arm.name: frame(states) for arm, states in zip(arms, answers, strict=True)}

    def own(_: Sequence[Example], answers: pd.DataFrame) -> dict[str, float]:
        return {"rate": float(answers["score"].mean())}

    results = evaluate(
        test,
        arms,
        examples(len(base), meta),
        chosen or [feature(0, 0.4, 0.1)],
        task_metrics=own,
    )
    record = record_of(with_side_effects(results, effects))
    about: dict[str, Any] = {
        "selection": record.selection.model_copy(update={"length_r": length_r}),
        "stability": {"resamples": 50},
        "versions": {},
        "side_effects": effects,
    }
    return record_of(results, **about, ser=record.ser)
