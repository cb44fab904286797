"""The table of a sweep: one row per job, with its controls, its price and whether it was chosen.

Reads only the jobs' folders: some ten milliseconds per job.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from corrsteer.errors import DataError
from corrsteer.report.judgement import own_nulls
from corrsteer.report.numbers import layer_text
from corrsteer.report.record import ABSTAINS, Record, read_record
from corrsteer.report.settings import DIAL, SEEDS, labels, leaves, splits_seed
from corrsteer.report.sweep_choice import validation_answers, with_choice
from corrsteer.report.tables import control_kinds
from corrsteer.stats.intervals import holm
from corrsteer.steering.arms import BASELINE, BOUND, NULL, SECOND, STEERED
from corrsteer.store.runfolder import RunFolder, jobs

SETTINGS = (
    "task", "model", "method", "variant", "selector", "operator", "gate", "positions", "layers",
    "seed", "token_source", "pooling", "coef",
)  # fmt: skip
QUESTION = ("task", "model", "question")
"""Jobs that share these answer the same question, with whatever plans."""
ALIKE = ("setting", "seed", "splits_seed")
"""Jobs that share these differ in the dial alone: validation chooses one of them."""


def sweep_table(folder: Path) -> pd.DataFrame:
    """One row per job of a sweep, in job order; also the content of ``summary.csv``.

    ``state`` is that of the job's ``status.json``, "missing" for a job without a folder or status,
    "unreadable" for one with incomplete files. Accuracies and gains are fractions of 1 and absent
    for jobs that are not done. ``setting`` is what tells jobs apart besides dial and seed
    (:func:`corrsteer.report.settings.labels`); ``chosen`` marks, among those of one setting and
    seed, the one that validation chooses, and the columns after it say how sure that is
    (:func:`corrsteer.report.sweep_choice.with_choice`). ``p_holm`` is McNemar's p, corrected for
    the number of done jobs; ``null_p`` that of the random features and ``shuffled_p`` that of
    shuffled outcomes, uncorrected. ``random_gain_max`` and ``control_KIND`` are the best gains of
    each kind of control, ``control_best`` that of any. ``kept_*``: on validation, the layers that a
    method kept, the sum of their gains alone, the gain together, and the difference. ``gate_*``:
    how often a gate is open, what is added then, and what its signal knows.
    ``overrides`` are those the jobs do not share. Raises :class:`DataError` without any job.
    """
    numbers = jobs(folder)
    if not numbers:
        raise DataError(f"no jobs in {folder}: give the folder of a sweep, which holds 0/, 1/, ...")
    answered: dict[int, pd.DataFrame] = {}
    rows = [_job(folder, n, answered) for n in range(max(numbers) + 1)]
    begun = [set(row["overrides"]) for row in rows if row["overrides"]]
    shared = set.intersection(*begun) if begun else set()
    for row in rows:
        row["overrides"] = " ".join(o for o in row["overrides"] or [] if o not in shared)
    table = pd.DataFrame(rows, columns=_columns()).astype(dict.fromkeys(_COUNTS, "Int64"))
    done = table["state"] == "done"
    configs = {int(n): leaves(folder / str(n)) for n in table.loc[done, "job"]}
    known = [name for name in SETTINGS if name not in (DIAL, *SEEDS)]
    table.loc[done, "setting"] = labels(table[done], configs, known)
    table = with_choice(table, answered, ALIKE).assign(p_holm=float("nan"))
    table.loc[done, "p_holm"] = holm(table.loc[done, "mcnemar_p"].astype(float).tolist())
    return table


def _job(folder: Path, number: int, answered: dict[int, pd.DataFrame]) -> dict[str, Any]:
    """One row of the sweep table, without the columns that need the other jobs. Of a job that is
    done, its answers to the validation split go into ``answered``."""
    row: dict[str, Any] = dict.fromkeys(_columns())
    row["job"] = number
    home = folder / str(number)
    if not (home / "status.json").exists():
        return row | {"state": "missing"}
    try:
        status = RunFolder(home).status()
        row |= {"state": status["state"], "overrides": status.get("overrides")}
        row |= {"seconds": status["seconds"], "error": status.get("error")}
        given = dict(o.split("=", 1) for o in status.get("overrides", []) if "=" in o)
        row |= {"task": given.get("task")}
        # Not a number when it is the very mistake that made the job fail.
        row |= {name: pd.to_numeric(given.get(name), errors="coerce") for name in ("seed", "coef")}
        if status["state"] == "done":
            record = read_record(home)
            answered[number] = validation_answers(home)
            row |= _settings(record) | _results(record)
            row["splits_seed"] = splits_seed(home)
    except DataError as error:
        return row | {"state": "unreadable", "error": str(error)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        # A job that was killed while writing must not take the report of the others with it.
        return row | {"state": "unreadable", "error": f"{type(error).__name__}: {error}"}
    return row


def _settings(record: Record) -> dict[str, Any]:
    values = {name: getattr(record, name) for name in SETTINGS}
    # What calibration found is no setting: jobs of other dials must stay beside each other.
    values["operator"] = record.operator.removesuffix(ABSTAINS)
    return values | {"layers": layer_text(record.layers), "question": _question(record)}


def _question(record: Record) -> str:
    """Jobs with the same one asked the same rows in the same way, and scored them alike."""
    asked, scorer = record.asked.model_dump(), record.scorer.model_dump()
    return json.dumps([record.data.fingerprint, asked, scorer])


_COUNTS = (
    "seed", "splits_seed", "n", "fixed", "broken", "fixed_from_invalid", "broken_to_invalid",
    "noise_features", "changed_texts", "changed_texts_same_outcome", "random_draws",
    "random_at_least_as_good", "plans_on_test",
)  # fmt: skip


def _columns() -> list[str]:
    controls = [_control_column(kind) for kind in control_kinds()]
    return [
        "job", "state", "overrides", "setting", *SETTINGS, "splits_seed", "question",
        "validation_baseline", "validation_steered", "n", "baseline", "steered",
        "gain", "gain_low", "gain_high", "fixed", "fixed_from_invalid", "broken",
        "broken_to_invalid", "ser", "mcnemar_p", "margin_shift", "margin_low", "margin_high",
        "random_draws", "random_at_least_as_good",
        "null_p", "shuffled_p", *controls, "control_best", "constrained",
        "steered_constrained_gain", "plans_on_test", "noise_features",
        "changed_texts", "changed_texts_same_outcome", "off_target_rate", "off_target_ser", "kl",
        *_LAYERS, *_GATE,
        "seconds", "error",
    ]  # fmt: skip


_GATE = ("gate_duty", "gate_dose", "gate_auroc")
_LAYERS = ("kept_layers", "kept_alone_gain", "kept_joint_gain", "kept_interaction")


def _layer_choice(record: Record) -> dict[str, Any]:
    """On validation, of the layers that a method kept: their gains alone in sum, and together."""
    made = record.choice
    if made is None:
        return dict.fromkeys(_LAYERS)
    values = layer_text(made.kept) or "none", made.singles, made.joint, made.interaction
    return dict(zip(_LAYERS, values, strict=True))


def _control_column(kind: str) -> str:
    return "random_gain_max" if kind == "random" else f"control_{kind}"


def _bounds(record: Record) -> tuple[float | None, float | None]:
    """Of the shift of the margin."""
    return (record.margin.ci if record.margin else None) or (None, None)


def _results(record: Record) -> dict[str, Any]:
    flips, effects = record.flips, record.side_effects
    unrelated = effects.off_target if effects else None
    neutral = effects.neutral if effects else None
    null, nulls = record.controls.get(NULL), own_nulls(record)
    both = record.constrained_gain
    constrained = [arm.accuracy for arm in record.arms.values() if arm.kind == "constrained"]
    return {
        "validation_baseline": record.validation[BASELINE].accuracy,
        "validation_steered": record.validation[STEERED].accuracy,
        "n": record.arms[STEERED].n,
        "baseline": record.arms[BASELINE].accuracy,
        "steered": record.arms[STEERED].accuracy,
        "gain": record.gain,
        "gain_low": record.gain_ci[0],
        "gain_high": record.gain_ci[1],
        "fixed": flips.fixed,
        "fixed_from_invalid": record.format.fixed_from_invalid,
        "broken": flips.broken,
        "broken_to_invalid": record.format.broken_to_invalid,
        "ser": flips.ser,
        "mcnemar_p": flips.mcnemar_p,
        "margin_shift": record.margin.shift if record.margin else None,
        **dict(zip(("margin_low", "margin_high"), _bounds(record), strict=True)),
        "random_draws": len(null.gains) if null else None,
        "random_at_least_as_good": null.at_least_as_good if null else None,
        "null_p": null.p if null else None,
        "shuffled_p": nulls.get(SECOND),
        **{_control_column(kind): record.best_gain(kind) for kind in control_kinds()},
        "control_best": _best_control(record),
        "constrained": max(constrained, default=None),
        "steered_constrained_gain": both.gain if both else None,
        "plans_on_test": record.odometer.plans if record.odometer else None,
        "noise_features": record.noise.below_ceiling,
        "changed_texts": record.changes.text,
        "changed_texts_same_outcome": record.changes.text_same_outcome,
        "off_target_rate": unrelated.arms[STEERED].rate if unrelated else None,
        "off_target_ser": record.ser.off_target,
        "kl": neutral.arms[STEERED].kl if neutral else None,
        **_layer_choice(record),
        **_gate_use(record),
    }


def _gate_use(record: Record) -> dict[str, float | None]:
    use = record.gate_use
    return {name: getattr(use, name.removeprefix("gate_"), None) for name in _GATE}


def _best_control(record: Record) -> float | None:
    """None without controls; a bound is none."""
    return max((c.best for kind, c in record.controls.items() if kind != BOUND), default=None)
