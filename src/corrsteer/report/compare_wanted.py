"""Which checkpoints a comparison of rivals lacks: of a method that was trained, the one whose
accuracy on validation is nearest the subject's, where no job of the sweep is as near unless by a
higher dial.

Jobs answer with the checkpoint that did best; what the others do on validation is in their
``training.csv``. Reads job folders only; nothing of the test split is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from corrsteer.report.compare import by_method, by_validation, is_control
from corrsteer.report.compare_jobs import Job, questions
from corrsteer.report.record import read_record
from corrsteer.report.sweep_table import sweep_table
from corrsteer.report.tables import read_training


@dataclass(frozen=True)
class Wanted:
    """A job like ``job``, with the checkpoint that has this ``accuracy`` on validation."""

    job: int
    accuracy: float


def wanted(folder: Path) -> list[Wanted]:
    """Of every question, rival and seed at most one; none for a sweep that compares no rivals.
    Raises DataError for a folder without jobs."""
    table = sweep_table(folder)
    done = table.loc[table["state"] == "done", "job"]
    what, every = questions(folder, table, {int(n): read_record(folder / str(n)) for n in done})
    found = []
    for jobs in every:
        methods = by_method(jobs)
        assert what is not None
        subject = by_validation(methods.pop(what.subject, {}))
        for rival in methods.values():
            if is_control(rival):
                continue
            for seed, some in rival.items():
                if seed in subject:
                    found += nearer(some, subject[seed].validation)
    return found


def nearer(jobs: Sequence[Job], target: float) -> list[Wanted]:
    """The checkpoint whose accuracy on validation is nearest to ``target``, of equally near ones
    the least trained, if it is nearer than each of the jobs, or as near as one that is turned
    above 1: less training is the gentler way to the same accuracy. Of no training there is no
    checkpoint: that is the model as it is."""

    def away(accuracy: float) -> float:
        return round(abs(accuracy - target), 12)

    tried = [
        (away(row["accuracy"]), row["epoch"], job.number, row["accuracy"])
        for job in jobs
        for row in read_training(job.folder) or []
        if row["epoch"] > 0
    ]
    if not tried:
        return []
    near, _, number, accuracy = min(tried)
    least = min((away(j.validation), abs(j.coef)) for j in jobs)
    return [Wanted(number, accuracy)] if (near, 1.0) < least else []
