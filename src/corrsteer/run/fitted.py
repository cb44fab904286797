"""What a method found, checked as soon as it is found: whatever else comes of it, in an hour or at
the end of a run, is then not the method's fault; and before, whether a task's answers can be made
as it makes them. Costs nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from corrsteer.config import DECODINGS
from corrsteer.errors import ConfigError, DataError
from corrsteer.methods.protocol import Fitted, Method, Observed
from corrsteer.models.protocol import Backend
from corrsteer.records import POSITIVE, Question, RankedFeature
from corrsteer.report.record import Search
from corrsteer.selectors.protocol import Selector
from corrsteer.stages.bench import Bench
from corrsteer.steering.arms import STEERED, Arm
from corrsteer.steering.plan import Plan, PlanEntry
from corrsteer.steering.protocol import Operator
from corrsteer.tasks.protocol import Task

OWN_TABLES = ("features", "classes", "ablations", "answers", "divergence")
"""Files of a run that no method may write over."""


def checked(fitted: Fitted, method: Method, bench: Bench) -> Fitted:
    """``fitted`` as it is. Raises DataError, naming the method and the field, for what is no
    ``Fitted`` that a run can go on with."""
    for field, wrong in _wrong(fitted, bench):
        raise DataError(f"strategy {method.name}: what fit gives is wrong: {field} {wrong}")
    return fitted


def _wrong(fitted: object, bench: Bench) -> Iterator[tuple[str, str]]:
    if not isinstance(fitted, Fitted):
        yield "it", f"must be a Fitted, not {type(fitted).__name__}"
        return
    yield from _wrong_arm(fitted.arm)
    for field, kind in (("observed", Observed), ("search", Search | None)):
        if not isinstance(getattr(fitted, field), kind):
            yield field, f"must be {kind}, not {type(getattr(fitted, field)).__name__}"
    for field in ("ranked", "chosen"):
        features = getattr(fitted, field)
        if not isinstance(features, tuple | list) or not all(
            isinstance(f, RankedFeature) for f in features
        ):
            yield field, "must be a tuple of RankedFeature"
    for name, table in fitted.tables.items():
        if not re.fullmatch(r"\w[\w.-]*", str(name)) or name in OWN_TABLES:
            yield (
                f"tables[{name!r}]",
                (
                    "must be named by a plain file name without its end, other than"
                    f" {', '.join(OWN_TABLES)}"
                ),
            )
        if not isinstance(table, pd.DataFrame):
            yield f"tables[{name!r}]", f"must be a DataFrame, not {type(table).__name__}"
    if fitted.plan is not None:
        yield from _wrong_plan(fitted.plan, bench)


def _wrong_arm(arm: object) -> Iterator[tuple[str, str]]:
    if not isinstance(arm, Arm):
        yield "arm", f"must be an Arm, not {type(arm).__name__}"
        return
    if (arm.name, arm.kind) != (STEERED, STEERED):
        yield "arm", f"must have the name and the kind {STEERED!r}, not {arm.name!r}, {arm.kind!r}"
    decodings = [name for name in DECODINGS if name != "auto"]
    if arm.decoding is not None and arm.decoding not in decodings:
        yield "arm.decoding", f"is {arm.decoding!r}; it must be None or {', '.join(decodings)}"
    if not isinstance(arm.prefix, str):
        yield "arm.prefix", f"must be a text, not {type(arm.prefix).__name__}"
    if not (isinstance(arm.stop, tuple) and all(isinstance(t, str) and t for t in arm.stop)):
        yield "arm.stop", f"must be a tuple of texts, none of them empty, not {arm.stop!r}"
    for name in ("key", "changes_prompt", "needs"):
        if arm.intervention is not None and not hasattr(arm.intervention, name):
            yield "arm.intervention", f"is no Intervention: it has no {name}"


def _wrong_plan(plan: Plan, bench: Bench) -> Iterator[tuple[str, str]]:
    if not plan.entries:
        yield "plan.entries", "are none: there is nothing to steer with"
    if not isinstance(plan.coef, int | float) or not math.isfinite(plan.coef):
        yield "plan.coef", f"is {plan.coef!r}; it must be a finite number"
    if lacking := sorted(plan.needs - bench.backend.supports()):
        yield "plan", f"needs {', '.join(lacking)}, which the backend does not support"
    _, width = bench.spec.shape()
    for n, entry in enumerate(plan.entries):
        field = f"plan.entries[{n}]"
        if not isinstance(entry, PlanEntry):
            yield field, f"must be a PlanEntry, not {type(entry).__name__}"
            continue
        if entry.layer not in bench.layers:
            yield f"{field}.layer", f"is {entry.layer}; the run's are {list(bench.layers)}"
        vector = entry.vector
        if not isinstance(vector, np.ndarray) or vector.dtype != np.float32:
            what = getattr(vector, "dtype", type(vector).__name__)
            yield f"{field}.vector", f"must be a NumPy array of float32, not {what}"
        elif vector.shape != (width,):
            yield f"{field}.vector", f"has the shape {list(vector.shape)}; it must be [{width}]"
        elif not np.isfinite(vector).all():
            yield f"{field}.vector", "is not finite (nan or inf)"


def check_selector(selector: Selector, operator: Operator, backend: Backend) -> None:
    """Refuse features that the operator cannot lower, and a selector that needs what the backend
    does not support."""
    if lacking := sorted(getattr(selector, "needs", frozenset()) - backend.supports()):
        raise ConfigError(
            f"selector {type(selector).__name__} needs {', '.join(lacking)}, which backend"
            f" {type(backend).__name__} does not support: type backend=local, or another selector"
        )
    sign = getattr(selector, "sign", POSITIVE)
    if sign != POSITIVE and getattr(operator, "only_raises", False):
        raise ConfigError(
            f"selector.sign={sign}: features of wrong answers are taken away, and operator"
            f" {type(operator).__name__} would raise them: type operator=add, or"
            " selector.sign=positive"
        )


def check_decoding(method: Method, task: Task, questions: Sequence[Question]) -> None:
    """Refuse a method whose answers are made in a way that the task's prompts do not allow."""
    if (decoding := getattr(method, "decoding", None)) is None:
        return
    try:
        task.decoding(decoding, questions)
    except ConfigError as error:
        raise ConfigError(
            f"strategy {method.name}-{method.variant} cannot answer task {task.name}, type"
            f" another strategy ({error})"
        ) from None
