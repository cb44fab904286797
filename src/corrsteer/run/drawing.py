"""The test split, answered: steering, its controls, and as many draws of a null as are needed.

Draws are made in chunks, which share one pass over the prompts, and end early where steering turns
out to be nothing special (:mod:`corrsteer.stats.draws`). Those of shuffled outcomes are made where
random features leave a claim open. Answers of finished draws are in the
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
from corrsteer.stats.draws import chunk_end, counted, monte_carlo_p
from corrsteer.stats.intervals import SIGNIFICANT
from corrsteer.steering.arms import BASELINE, KINDS, NULL, SECOND, STEERED, Arm
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


def tested(
    bench: Bench,
    asking: Asking,
    arms: Sequence[Arm],
    stop: int | None,
    look: int | None = None,
) -> Tested:
    """``arms``: all that were asked for, ``steered`` among them. ``stop``: so many draws of a kind
    that do as well as steering end the drawing of that kind; None: none do. ``look``: so many of
    shuffled outcomes are made where random features rule a claim out, all elsewhere; None: all."""
    drawn = {kind: [arm for arm in arms if arm.kind == kind] for kind in NULLS}
    asked = {kind: len(of_kind) for kind, of_kind in drawn.items() if of_kind}
    fixed = [arm for arm in arms if arm.kind not in NULLS]
    restricted = [arm for arm in fixed if arm.kind == "constrained"]
    (steered,) = (arm for arm in fixed if arm.name == STEERED)
    both = [replace(steered, name=LETTERS_ONLY, decoding=arm.decoding) for arm in restricted]
    _say_cost(len(asking.splits["test"]), len(fixed) + len(both), asked, stop, look)
    # Draws of one-token answers cost so little beside their prompts that all are made at once; not
    # where every draw has to read the prompts itself.
    short = asking.decoding == "constrained" or asking.task.max_new_tokens == 1
    if steered.intervention is not None and steered.intervention.changes_prompt:
        short = False
    together = None if short else stop
    test: Frames = {}
    made = dict.fromkeys(drawn, 0)

    def as_good(kind: str) -> list[bool]:
        of_kind = drawn[kind][: made[kind]]
        return [_right(test[arm.name]) >= _right(test[STEERED]) for arm in of_kind]

    def may_claim() -> bool:
        """Whether all random features are drawn and leave it open that steering helps."""
        if not test or made[NULL] < len(drawn[NULL]):
            return False
        gains = _right(test[STEERED]) > _right(test[BASELINE])
        return gains and monte_carlo_p(as_good(NULL), stop) <= SIGNIFICANT

    chunk = [*fixed, *both]
    while True:
        enough = len(arms) if look is None or may_claim() else look
        for kind, of_kind in drawn.items():
            end = chunk_end(made[kind], len(of_kind), together)
            if kind == SECOND:
                end = min(end, enough)
            chunk += of_kind[made[kind] : end]
            made[kind] = end
        if not chunk:
            break
        test |= answers(bench, asking, "test", chunk)
        chunk = []
        for kind, of_kind in drawn.items():
            good = as_good(kind)
            if stop is not None and sum(good) >= stop:
                made[kind] = counted(good, stop)
                drawn[kind] = of_kind[: made[kind]]
    for kind, n in asked.items():
        drawn[kind] = drawn[kind][: made[kind]]
        if made[kind] < n:
            ended = stop is not None and sum(as_good(kind)) >= stop
            log.info(
                "%s: %s, so the other %d are not made",
                KINDS[kind].label.lower(),
                f"{stop} of {made[kind]} draws do at least as well as steering"
                if ended
                else "random features leave no claim open",
                n - made[kind],
            )
    counting = [arm for arm in arms if arm.kind not in NULLS or arm in drawn[arm.kind]]
    letters = [(test[arm.name], test[LETTERS_ONLY]) for arm in restricted]
    return Tested(
        counting, {arm.name: test[arm.name] for arm in counting}, asked, next(iter(letters), None)
    )


def _right(answers: pd.DataFrame) -> int:
    return int((answers["score"] >= RIGHT).sum())


def _say_cost(
    questions: int, fixed: int, asked: Mapping[str, int], stop: int | None, look: int | None
) -> None:
    draws = ", ".join(f"{n} of {KINDS[kind].plural}" for kind, n in asked.items())
    enough = {kind: look if kind == SECOND and look is not None else stop for kind in asked}
    least = fixed + sum(min(n, enough[kind] or n) for kind, n in asked.items())
    most = fixed + sum(asked.values())
    log.info(
        "test split: %s x %d questions%s%s",
        f"{most} arms" if least == most else f"{least} to {most} arms",
        questions,
        f", draws: {draws}" if draws else "",
        f"; drawing ends at {stop} that do as well as steering" if stop and least < most else "",
    )
