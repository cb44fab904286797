"""Whether answers fall apart near the best dial: unreadable or degenerate ones, dial by dial.

Collapsed is a dial at which more than ``COLLAPSED`` more of the answers are so than without
steering, by the lower end of the interval of the paired difference (Tango 1998); sound, at which
fewer are by its upper end. Beside stand random directions of the same norms. Of several seeds and
directions the mean of each question counts, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from corrsteer.report.numbers import interval, points, short
from corrsteer.report.study_arms import Arms, Job
from corrsteer.report.study_rules import REFUTED, SUPPORTED, UNDECIDED, Asked
from corrsteer.report.tables import read_answers
from corrsteer.stats.intervals import difference_ci
from corrsteer.stats.seeds import over_seeds
from corrsteer.steering.arms import BASELINE, STEERED

COLLAPSED, NEAR = 0.05, 2.0
"""Share of answers, and how far above the best dial one must not lie."""


class Excess(NamedTuple):
    """How many more of the answers are unreadable or degenerate than without steering."""

    share: float
    ci: tuple[float, float]


@dataclass(frozen=True)
class Fell:
    facts: Mapping[str, Mapping[str, float | None]]
    """Of every dial."""
    said: Mapping[str, Any]
    """Fields of a study: answer, sentence, number, ci."""


def dial_names(found: Arms) -> str:
    """The arm of the dial that validation chose, in most seeds; of equals the smallest."""
    chosen = [
        (job.record.coef, name)
        for name, some in found.items()
        for jobs in some.values()
        for job in jobs
        if job.chosen
    ]
    counts = Counter(chosen)
    best = max(counts.values(), default=0)
    return min((c for c in chosen if counts[c] == best), default=(0.0, "coef"))[1]


def collapse(found: Arms, asked: Asked, missing: Sequence[str] = ()) -> Fell:
    """``missing``: arms that were asked for and have no job that is done."""
    jobs = {name: [job for js in some.values() for job in js] for name, some in found.items()}
    dials = {name: some[0].record.coef for name, some in jobs.items()}
    answers = {name: [_answers(job) for job in some] for name, some in jobs.items()}
    plan = {name: excess(some, STEERED) for name, some in answers.items()}
    drawn = {name: excess(some, "direction") for name, some in answers.items()}
    both = {"Fallen apart": plan, "Fallen apart, random directions": drawn}
    facts = {
        name: {title: e.share if (e := some[name]) else None for title, some in both.items()}
        for name in dials
    }
    head = f"{asked.claim[:1].upper()}{asked.claim[1:]}"
    if asked.reference not in dials:
        nothing = f"{head}: {UNDECIDED}, since no job is done."
        return Fell(facts, {"answer": UNDECIDED, "sentence": nothing})
    best, spread = dials[asked.reference], _spread(jobs[asked.reference])
    plan_at, drawn_at = ({dials[n]: e for n, e in x.items() if e} for x in (plan, drawn))
    return Fell(facts, said(head, best, plan_at, drawn_at, spread, missing))


def excess(answers: Sequence[pd.DataFrame], kind: str) -> Excess | None:
    """Of all arms of a kind together, over several seeds each question once; None without one."""
    found = []
    for table in answers:
        bad = table.assign(bad=table["invalid"].astype(bool) | table["degenerate"].notna())
        wide = bad.pivot(index="id", columns="arm", values="bad").astype(float)
        names = [name for name in wide if name.split("_")[0] == kind]
        if names:
            found.append(wide[names].mean(axis=1) - wide[BASELINE])
    if not found:
        return None
    more = pd.concat(found).groupby(level=0).mean().to_numpy()
    return Excess(float(more.mean()), difference_ci(more))


def said(
    head: str,
    best: float,
    plan: Mapping[float, Excess],
    drawn: Mapping[float, Excess],
    spread: str,
    missing: Sequence[str] = (),
) -> dict[str, Any]:
    """Undecided while a dial is ``missing``, or the best lies at an end of those tried: another
    one may be better."""
    fell = first_collapsed(plan)
    near = {d: e for d, e in plan.items() if best < d <= NEAR * best}
    answer = UNDECIDED
    if fell is not None and best <= fell <= NEAR * best:
        answer = SUPPORTED
    elif max(plan) >= NEAR * best and near and all(e.ci[1] < COLLAPSED for e in near.values()):
        answer = REFUTED
    held = ""
    if missing:
        held = f"no job of {', '.join(missing)} is done"
    elif answer != UNDECIDED and len(plan) > 1 and best in {min(plan), max(plan)} - {0.0}:
        held = "the best dial lies at an end of its range"
    if held:
        answer = UNDECIDED
    shown = fell if answer == SUPPORTED else max(near, default=best)
    assert shown is not None
    e = plan[shown]
    where = f"does not collapse up to {short(max(plan))}, best dial {short(best)}"
    if fell is not None:
        times = f", {short(fell / best)} times its best dial {short(best)}" if best else ""
        where = f"collapses at {short(fell)}{times}"
    if drawn:
        other = first_collapsed(drawn)
        told = f"collapse at {short(other)}" if other else f"do not up to {short(max(drawn))}"
        where += f"; random directions of equal norm {told}"
    numbers = (
        f"{where}; at {short(shown)} {points(e.share)} points {interval(e.ci)} more answers cannot"
        f" be read or are degenerate{spread}{f'; {held}' if held else ''}"
    )
    if answer == UNDECIDED and not held:
        half = 100 * (e.ci[1] - e.ci[0]) / 2
        numbers += f"; smallest share the data could have shown: {half:.1f} points"
    return {
        "answer": answer,
        "sentence": f"{head}: {answer} ({numbers}).",
        "number": e.share,
        "ci": e.ci,
        "held": held,
    }


def first_collapsed(some: Mapping[float, Excess]) -> float | None:
    """The smallest dial that has surely collapsed."""
    return min((d for d, e in some.items() if e.ci[0] > COLLAPSED), default=None)


def _spread(jobs: Sequence[Job]) -> str:
    """Of the accuracy over seeds, steered beside unsteered."""
    both = [
        over_seeds([job.record.arms[arm].accuracy for job in jobs])[1]
        for arm in (STEERED, BASELINE)
    ]
    if any(sd is None for sd in both):
        return ""
    steered, unsteered = (100 * float(sd) for sd in both if sd is not None)
    where = f"standard deviation over {len(jobs)} seeds"
    return f"; {where} {steered:.1f} points, unsteered {unsteered:.1f}"


def _answers(job: Job) -> pd.DataFrame:
    draws = [name for name, arm in job.record.arms.items() if arm.kind == "direction"]
    columns = ["id", "arm", "invalid", "degenerate"]
    return read_answers(job.home, columns, splits=["test"], arms=[BASELINE, STEERED, *draws])
