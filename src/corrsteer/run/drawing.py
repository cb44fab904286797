"""The test split, answered: steering, its controls, and as many draws of a null as are needed.

Draws are made in chunks, which share one pass over the prompts, and end early where steering turns
out to be nothing special (:mod:`corrsteer.stats.draws`). Answers of finished draws are in the
store: a run that was killed goes on with them, and one that asks for more adds to them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from corrsteer.records import RIGHT
from corrsteer.stages.answers import answers
from corrsteer.stages.bench import Asking, Bench
from corrsteer.stats.draws import chunk_end, counted
from corrsteer.steering.arms import KINDS, STEERED, Arm
from corrsteer.steering.controls import NULLS

log = logging.getLogger(__name__)

Frames = dict[str, pd.DataFrame]
LETTERS_ONLY = "steered_constrained"
"""Name of the arm that is both steered and restricted to option letters."""


@dataclass(frozen=True)
class Tested:
    """``answers``: scored, by the names of ``arms``, which are those that count. ``asked``: draws
    by kind, more than the arms where drawing ended early. ``letters``: answers without and with
    steering, restricted to option letters; None where there are none."""

    arms: list[Arm]
    answers: Frames
    asked: Mapping[str, int]
    letters: tuple[pd.DataFrame, pd.DataFrame] | None


def tested(bench: Bench, asking: Asking, arms: Sequence[Arm], stop: int | None) -> Tested:
    """``arms``: all that were asked for, ``steered`` among them. ``stop``: so many draws of a kind
    that do as well as steering end the drawing of that kind; None: none do."""
    drawn = {kind: [arm for arm in arms if arm.kind == kind] for kind in NULLS}
    asked = {kind: len(of_kind) for kind, of_kind in drawn.items() if of_kind}
    fixed = [arm for arm in arms if arm.kind not in NULLS]
    restricted = [arm for arm in fixed if arm.kind == "constrained"]
    (steered,) = (arm for arm in fixed if arm.name == STEERED)
    both = [replace(steered, name=LETTERS_ONLY, decoding=arm.decoding) for arm in restricted]
    _say_cost(len(asking.splits["test"]), len(fixed) + len(both), asked, stop)
    # Draws of one-token answers cost so little beside their prompts that all are made at once.
    short = asking.decoding == "constrained" or asking.task.max_new_tokens == 1
    together = None if short else stop
    test: Frames = {}
    made = dict.fromkeys(drawn, 0)
    chunk = [*fixed, *both]
    while True:
        for kind, of_kind in drawn.items():
            end = chunk_end(made[kind], len(of_kind), together)
            chunk += of_kind[made[kind] : end]
            made[kind] = end
        if not chunk:
            break
        test |= answers(bench, asking, "test", chunk)
        chunk = []
        for kind, of_kind in drawn.items():
            good = [
                _right(test[arm.name]) >= _right(test[STEERED]) for arm in of_kind[: made[kind]]
            ]
            if stop is not None and sum(good) >= stop:
                made[kind] = counted(good, stop)
                drawn[kind] = of_kind[: made[kind]]
    for kind, n in asked.items():
        if len(drawn[kind]) < n:
            log.info(
                "%s: %d of %d draws do at least as well as steering, so the other %d are not made",
                *(KINDS[kind].label.lower(), stop, len(drawn[kind]), n - len(drawn[kind])),
            )
    counting = [arm for arm in arms if arm.kind not in NULLS or arm in drawn[arm.kind]]
    letters = [(test[arm.name], test[LETTERS_ONLY]) for arm in restricted]
    return Tested(
        counting, {arm.name: test[arm.name] for arm in counting}, asked, next(iter(letters), None)
    )


def _right(answers: pd.DataFrame) -> int:
    return int((answers["score"] >= RIGHT).sum())


def _say_cost(questions: int, fixed: int, asked: Mapping[str, int], stop: int | None) -> None:
    draws = ", ".join(f"{n} of {KINDS[kind].plural}" for kind, n in asked.items())
    least = fixed + sum(n if stop is None else min(n, stop) for n in asked.values())
    most = fixed + sum(asked.values())
    log.info(
        "test split: %s x %d questions%s%s",
        f"{most} arms" if least == most else f"{least} to {most} arms",
        questions,
        f", draws: {draws}" if draws else "",
        f"; drawing ends at {stop} that do as well as steering" if least < most else "",
    )
