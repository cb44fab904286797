"""Dials that a study lacks: where validation prefers an end of an arm's range, the next one beyond.

Upwards the dial is doubled, downwards halved and the last time 0, the unsteered model; each end as
often as ``study.widen`` says. It counts down in the settings of the jobs that are added, so what a
folder holds tells what is left, however often the command was typed. An arm whose best dial lies
inside its range gets none: then a range is as wide as this arm needs, unless accuracy falls and
rises again beyond it.

Once no end is preferred, an arm that lacks the dial at which it is compared with the reference at
equal norm gets that.

Only the validation split is looked at. A few of its questions may prefer an end by luck, which
costs a job and no more: the accuracy of the best of many dials is too high where it was chosen, and
that number decides nothing; the test questions, which do, chose none of them.

Cost: reading a sweep once, some ten milliseconds per job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from corrsteer.errors import DataError
from corrsteer.report.record import read_record
from corrsteer.report.settings import COPIES, DIAL, settings
from corrsteer.report.study import asked_in
from corrsteer.report.study_arms import LEFT, Job, arms, lacking_as_long, left, reads_dial
from corrsteer.report.sweep_choice import most_accurate
from corrsteer.report.sweep_table import ALIKE, sweep_table
from corrsteer.store.runfolder import RunFolder


@dataclass(frozen=True)
class Dial:
    """A job like ``job``, at the dial ``coef``. ``left``: how often the range may be widened beyond
    it."""

    job: int
    coef: float
    left: int


def lacking(folder: Path) -> list[Dial]:
    """Dials to add, none that was begun, whatever became of it. Raises DataError for a folder
    without jobs."""
    table = sweep_table(folder)
    done = table[table["state"] == "done"]
    begun = {(_arm(folder, n), c) for n, c in zip(table["job"], table["coef"], strict=True)}
    for look in (_at_ends, _at_equal_norm):
        found = look(folder, done)
        if new := [dial for dial in found if (_arm(folder, dial.job), dial.coef) not in begun]:
            return new
    return []


def _at_ends(folder: Path, done: pd.DataFrame) -> list[Dial]:
    found = []
    for _, same in done.groupby(list(ALIKE), sort=False, dropna=False):
        number_of = dict(zip(same["coef"].astype(float), same["job"].astype(int), strict=True))
        best = set(same.loc[most_accurate(same), "coef"].astype(float))
        chosen = float(same.loc[same["chosen"], "coef"].iloc[0])
        for end in preferred(list(number_of), chosen, best):
            own = settings(folder / str(number_of[end]))
            if (times := left(own)) and reads_dial(own):
                dial = beyond(end, list(number_of), times)
                found.append(Dial(number_of[end], dial, times - 1))
    return found


def preferred(dials: Sequence[float], chosen: float, best: set[float]) -> list[float]:
    """Ends of several dials that are ``chosen``, or alone the ``best``, but not 0, the unsteered
    model."""
    if len(dials) < 2:
        return []
    wanted = {chosen, *(best if len(best) == 1 else ())}
    return [end for end in (min(dials), max(dials)) if end in wanted and end != 0]


def beyond(end: float, dials: Sequence[float], left: int) -> float:
    """The dial to add beyond an end of several; ``left``: how often it may be widened, this time
    included."""
    outer = max(dials) if end > 0 else min(dials)
    if end == outer:
        return 2 * end
    return end / 2 if left > 1 else 0.0


def _at_equal_norm(folder: Path, done: pd.DataFrame) -> list[Dial]:
    numbers = [int(n) for n in done["job"]]
    asked = asked_in(folder, numbers)
    if asked is None or not asked.reference:
        return []
    found = arms(folder, done, {n: read_record(folder / str(n)) for n in numbers}, asked.by)
    reference = found.get(asked.reference, {})
    pairs: list[tuple[Job, Job]] = []
    for name, some in found.items():
        if name != asked.reference:
            pairs += lacking_as_long(some, reference)
    made = (Dial(int(one.home.name), better.record.coef, better.left) for one, better in pairs)
    return list(dict.fromkeys(made))


def _arm(folder: Path, number: int) -> frozenset[str]:
    """What was typed for a job, but for its dial."""
    try:
        words = RunFolder(folder / str(number)).status().get("overrides", [])
    except DataError:
        words = []
    return frozenset(word for word in words if word.partition("=")[0] != "coef")


def at_dial(own: Mapping[str, Any], dial: Dial) -> dict[str, Any]:
    """The settings of such a job that differ from its model's. ``own``: those, by dotted name."""
    copies = [name for name, x in own.items() if COPIES.fullmatch(name) and x == own[DIAL]]
    return {**dict.fromkeys((DIAL, *copies), dial.coef), LEFT: dial.left}
