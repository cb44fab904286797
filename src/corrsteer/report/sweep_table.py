"""The table of a sweep: one row per job, with its controls, its price and whether it was chosen.

Reads the jobs' folders and nothing else: a few milliseconds per job.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from corrsteer.errors import DataError
from corrsteer.report.pages import layer_text
from corrsteer.report.tables import CONTROLS, read_json
from corrsteer.stats.intervals import holm
from corrsteer.store.runfolder import RunFolder

SETTINGS = ("task", "model", "variant", "layers", "seed", "token_source", "pooling", "coef")
QUESTION = ("task", "model", "seed", "question")
"""Jobs that share these answer the same question; their validation accuracies are comparable."""


def sweep_table(folder: Path) -> pd.DataFrame:
    """One row per job of a sweep, in job order; also what ``summary.csv`` holds.

    ``state`` is that of the job's ``status.json``, "missing" for a job without a folder or status,
    "unreadable" for one whose files are incomplete. Accuracies and gains are shares of 1 and absent
    for jobs that are not done. ``chosen`` marks, among jobs that answer the same question (task,
    model, seed, rows, prompts, scorer), the one of :func:`best_by_validation`. ``p_holm`` is
    McNemar's p, corrected for the number of done jobs. ``random_gain_max`` and ``control_KIND``
    are the best gains of each kind of control, ``control_best`` that of any.
    ``overrides`` are those the jobs do not share. Raises :class:`DataError` without any job.
    """
    numbers = [int(child.name) for child in folder.glob("*") if child.name.isdigit()]
    if not numbers:
        raise DataError(f"no jobs in {folder}: give the folder of a sweep, which holds 0/, 1/, ...")
    rows = [_job(folder, n) for n in range(max(numbers) + 1)]
    begun = [set(row["overrides"]) for row in rows if row["overrides"]]
    shared = set.intersection(*begun) if begun else set()
    for row in rows:
        row["overrides"] = " ".join(o for o in row["overrides"] or [] if o not in shared)
    table = pd.DataFrame(rows).assign(chosen=False, p_holm=float("nan"))
    table = table.astype(dict.fromkeys(_COUNTS, "Int64"))
    for _, group in table[table["state"] == "done"].groupby(list(QUESTION)):
        best = best_by_validation(group)
        assert best is not None  # a done job has a validation accuracy
        table.loc[best.name, "chosen"] = True
    done = table["state"] == "done"
    table.loc[done, "p_holm"] = holm(table.loc[done, "mcnemar_p"].astype(float).tolist())
    return table


def best_by_validation(table: pd.DataFrame) -> pd.Series | None:
    """The job with the highest steered accuracy on validation, ties to the smaller ``|coef|``.

    ``table``: rows of :func:`sweep_table`. None when no job is done. The test split plays no part.
    """
    done = table[table["validation_steered"].notna()]
    if done.empty:
        return None
    ranked = done.assign(size=done["coef"].abs()).sort_values(
        ["validation_steered", "size", "job"], ascending=[False, True, True]
    )
    return table.loc[ranked.index[0]]


def _job(folder: Path, number: int) -> dict[str, Any]:
    """One row of the sweep table, without the columns that need the other jobs."""
    row: dict[str, Any] = dict.fromkeys(
        ("job", "state", "overrides", *SETTINGS, "question", *_RESULTS, "seconds", "error")
    )
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
            metrics = read_json(home / "metrics.json")
            row |= {name: metrics[name] for name in SETTINGS if name != "layers"}
            row |= {"layers": layer_text(metrics["layers"]), "question": _question(metrics)}
            row |= {name: read(metrics) for name, read in _RESULTS.items()}
    except (OSError, ValueError, KeyError) as error:
        # A job that was killed while writing must not take the report of the others with it.
        return row | {"state": "unreadable", "error": f"{type(error).__name__}: {error}"}
    return row


def _question(metrics: dict[str, Any]) -> str:
    """Jobs with the same one asked the same rows in the same way, and scored them alike."""
    return json.dumps([metrics["data"]["fingerprint"], metrics["asked"], metrics["scorer"]])


_COUNTS = (
    "seed", "n", "fixed", "broken", "noise_features", "changed_texts", "changed_texts_same_outcome",
)  # fmt: skip


def _effect(metrics: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """What steering did to one kind of side effect; empty where it was not measured."""
    measured = (metrics.get("side_effects") or {}).get(part)
    return measured["arms"]["steered"] if measured else {}


def _best_gain(metrics: Mapping[str, Any], kind: str) -> float | None:
    return max(metrics["controls"][kind]["gains"]) if kind in metrics["controls"] else None


_RESULTS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "validation_baseline": lambda m: m["validation"]["baseline"]["accuracy"],
    "validation_steered": lambda m: m["validation"]["steered"]["accuracy"],
    "n": lambda m: m["arms"]["steered"]["n"],
    "baseline": lambda m: m["arms"]["baseline"]["accuracy"],
    "steered": lambda m: m["arms"]["steered"]["accuracy"],
    "gain": lambda m: m["gain"],
    "gain_low": lambda m: m["gain_ci"][0],
    "gain_high": lambda m: m["gain_ci"][1],
    "fixed": lambda m: m["flips"]["fixed"],
    "broken": lambda m: m["flips"]["broken"],
    "ser": lambda m: m["flips"]["ser"],
    "mcnemar_p": lambda m: m["flips"]["mcnemar_p"],
    "random_gain_max": lambda m: _best_gain(m, "random"),
    **{
        f"control_{kind}": partial(_best_gain, kind=kind)
        for kind in CONTROLS
        if kind != "random"  # that is random_gain_max
    },
    "control_best": lambda m: max(max(c["gains"]) for c in m["controls"].values()),
    "beats_all_controls": lambda m: all(c["beats_all"] for c in m["controls"].values()),
    "constrained": lambda m: m["arms"].get("constrained", {"accuracy": None})["accuracy"],
    "noise_features": lambda m: m["noise"]["below_ceiling"],
    "changed_texts": lambda m: (m.get("changes") or {}).get("text"),
    "changed_texts_same_outcome": lambda m: (m.get("changes") or {}).get("text_same_outcome"),
    "off_target_rate": lambda m: _effect(m, "off_target").get("rate"),
    "off_target_ser": lambda m: (m.get("ser") or {}).get("off_target"),
    "kl": lambda m: _effect(m, "neutral").get("kl"),
}
