"""Counts the steered plans that a test split has answered: showing the best of many is no evidence.

A test split is a model with its test questions, however they are asked; one question more or fewer
make another split. Controls are not counted,
and choices made on validation are free: they never ask a test question.
"""

from __future__ import annotations

from corrsteer.methods.protocol import Fitted
from corrsteer.report.record import Odometer, Record
from corrsteer.run.build import Parts
from corrsteer.stats.joint import best_of
from corrsteer.store.keys import canonical, digest
from corrsteer.store.odometer import note


def counted(parts: Parts, fitted: Fitted, record: Record) -> Record:
    """The record, with how many plans its test split has answered by now, this one among them."""
    if fitted.arm.intervention is None:
        return record
    bench = parts.bench
    asked = [[e.id, e.gold, *e.options] for e in bench.asking.splits["test"]]
    split = digest(canonical([bench.model_key, sorted(asked)]))
    plans = note(bench.store.root, split, digest(canonical(fitted.arm.key())))
    null = record.controls.get("random")
    best = best_of(null.gains, plans) if null else None
    return record.model_copy(update={"odometer": Odometer(plans=plans, best_null_gain=best)})
