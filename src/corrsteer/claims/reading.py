"""What readers of sweeps share: the jobs that validation chose, numbers as found, their tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from corrsteer.claims.record import Found, Number, Table, Unit, Word
from corrsteer.errors import DataError
from corrsteer.report.record import Record, read_record
from corrsteer.report.sweep_table import sweep_table
from corrsteer.report.sweep_verdict import Verdict, verdicts
from corrsteer.stats.intervals import SIGNIFICANT, t_ci
from corrsteer.store.runfolder import RunFolder, jobs

POWER = 0.8


def done_jobs(folder: Path) -> tuple[list[Verdict], dict[int, Record]]:
    """Of a sweep: the verdict of every setting, and the records of its jobs that are done. Raises
    DataError where none is."""
    table = sweep_table(folder)
    done = table[table["state"] == "done"]
    results = {int(n): read_record(folder / str(n)) for n in done["job"]}
    if not results:
        raise DataError(f"no job of {folder} is done")
    return verdicts(table, results), results


def read_yaml(file: Path) -> dict[str, Any]:
    """Empty where there is no such file, or no mapping in it."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def words_of(folder: Path) -> list[str]:
    """What was typed for a sweep."""
    overrides = read_yaml(folder / "multirun.yaml").get("hydra", {}).get("overrides", {})
    return [str(word) for word in overrides.get("task", [])]


def counted(folder: Path) -> dict[str, Any]:
    """``jobs``: how many of a sweep are done, and how many were asked for; ``lacking``: values that
    were to be varied and of which none is done, such as seed=2."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    params = read_yaml(folder / "multirun.yaml").get("hydra", {}).get("sweeper", {}).get("params")
    asked = [f"{name}={value}" for name, value in (params or {}).items()]
    varied = {}
    for one in OverridesParser.create().parse_overrides([*asked, *words_of(folder)]):
        values = list(one.sweep_string_iterator()) if one.is_sweep_override() else []
        varied[one.key_or_group] = [f"{one.key_or_group}={value}" for value in values]
    statuses = [_status(folder / str(n)) for n in jobs(folder)]
    done = [status for status in statuses if status.get("state") == "done"]
    seen = {word.lstrip("+") for status in done for word in status.get("overrides", [])}
    of = math.prod(len(values) for values in varied.values() if values)
    return {
        "jobs": (len(done), max(of, len(statuses))),
        "lacking": [word for values in varied.values() for word in values if word not in seen],
    }


def _status(home: Path) -> dict[str, Any]:
    try:
        return RunFolder(home).status()
    except DataError:  # a job's damaged file does not take the others with it
        return {}


def of_mean(
    what: str, values: Sequence[float], unit: Unit, sentence: str, table: Table, least: float = 0.0
) -> Found:
    """A claim that the mean of ``values`` [N] is above ``least``: by Student's interval. The
    smallest effect is what a t test would find with 80 % power; both need two values."""
    mean, ci = float(np.mean(values)), t_ci(values)
    answer: Word = "undecided"
    if ci is not None and ci[0] > least:
        answer = "supported"
    elif ci is not None and ci[1] < least:
        answer = "refuted"
    if ci is not None and unit == "percent":  # a share, which Student's interval does not know
        ci = max(ci[0], 0.0), min(ci[1], 1.0)
    number = Number(what=what, value=mean, ci=ci, unit=unit)
    return Found(
        answer=answer, sentence=sentence, number=number, smallest=detectable(values), table=table
    )


def detectable(values: Sequence[float]) -> float | None:
    """The smallest mean that a two-sided t test at 5 % would tell from 0 with 80 % power, from the
    spread of ``values``; None for a single one, or for values without spread."""
    from scipy.stats import t

    n = len(values)
    if n < 2 or not (sd := float(np.std(values, ddof=1))):
        return None
    quantiles = t.ppf(1 - SIGNIFICANT / 2, n - 1) + t.ppf(POWER, n - 1)
    return float(quantiles * sd / math.sqrt(n))
