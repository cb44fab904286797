"""The jobs of an experiment by arm and seed, and what is known of an arm besides its gain.

An arm is a method, or what was typed for the settings in ``study.by``. Reads the folders of the
jobs: some milliseconds each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from corrsteer.errors import DataError
from corrsteer.report.record import Record
from corrsteer.report.settings import DIAL, settings
from corrsteer.report.tables import read_answers, read_features, read_json, read_table
from corrsteer.steering.arms import STEERED
from corrsteer.store.runfolder import RunFolder

Seed = tuple[object, ...]
"""Task, seed and what the splits were dealt by."""
ALIKE = 0.01
"""Two total norms are equal if they differ by no more than this share."""
LEFT = "study.widen"
"""What counts down in the settings of jobs that are added (:mod:`corrsteer.report.widening`)."""


@dataclass(frozen=True)
class Job:
    """A job that is done. ``chosen``: its dial is the one that validation chose for its setting;
    ``turns``: its strategy reads the dial; ``left``: how often the range may be widened beyond
    it."""

    home: Path
    record: Record
    chosen: bool
    turns: bool = True
    left: int = 0

    @property
    def validation(self) -> float:
        """Its steered accuracy there."""
        return self.record.validation[STEERED].accuracy

    @property
    def norm(self) -> float | None:
        """The length of what is added at a position: a gate's measured dose, else that of the
        plan's vectors; None where an operator does not just add them."""
        if self.record.operator != "Add":
            return None
        return self.record.gate_use.dose if self.record.gate_use else self.length

    @property
    def length(self) -> float | None:
        """The sum of the lengths of all its vectors at its dial; None without a plan."""
        try:
            content = read_json(self.home / "plan" / "plan.json")
            return float(abs(content["coef"]) * sum(e["norm"] for e in content["entries"]))
        except (DataError, KeyError, TypeError):
            return None


Arms = Mapping[str, Mapping[Seed, Sequence[Job]]]
"""By name and seed, the jobs that differ in the dial alone."""
Picked = Mapping[Seed, Job]


def arms(
    folder: Path, done: pd.DataFrame, results: Mapping[int, Record], by: Sequence[str]
) -> Arms:
    """``done``: rows of a sweep's table. Of several settings of one arm the first, and only jobs
    with the model of the first job; of methods (``by`` empty) also with its selector."""
    found: dict[str, dict[Seed, list[Job]]] = {}
    first_of: dict[tuple[str, Seed], object] = {}
    first: Record | None = None
    for row in done.sort_values("job").itertuples():
        number = int(str(row.job))
        record = results[number]
        first = first or record
        if record.model != first.model or not (by or record.selector == first.selector):
            continue
        home = folder / str(number)
        name = _typed(home, by) if by else record.method_name
        dealt = None if pd.isna(row.splits_seed) else row.splits_seed
        seed: Seed = (record.task, row.seed, dealt)
        if first_of.setdefault((name, seed), row.setting) == row.setting:
            jobs = found.setdefault(name, {}).setdefault(seed, [])
            own = settings(home)
            jobs.append(Job(home, record, bool(row.chosen), reads_dial(own), left(own)))
    return found


def left(own: Mapping[str, Any]) -> int:
    """How often a study may widen its range beyond a job's dial. ``own``: its settings."""
    value = own.get(LEFT)
    return value if type(value) is int else 0


def reads_dial(own: Mapping[str, Any]) -> bool:
    """Whether ``coef`` is what a job's strategy turns: not where it has none, or a range to search,
    nor under a search. Where its settings do not say, it is."""
    if any(name.startswith("search.") for name in own):
        return False
    named = [name for name in own if name.startswith("strategy.")]
    return not named or own.get("strategy.coef") == own.get(DIAL)


def _typed(home: Path, by: Sequence[str]) -> str:
    words = RunFolder(home).status().get("overrides", [])
    return _named(dict(word.lstrip("+").split("=", 1) for word in words if "=" in word), by)


def asked_arms(folder: Path, by: Sequence[str]) -> list[str]:
    """The arms that the sweep was asked for, done or not: what its experiment lists for the
    settings in ``by``, or what was typed for them. None of them is known of methods (``by``
    empty), nor where the sweep does not say."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        content = yaml.safe_load((folder / "multirun.yaml").read_text(encoding="utf-8"))["hydra"]
        words = [f"{name}={value}" for name, value in (content["sweeper"]["params"] or {}).items()]
        words += map(str, content["overrides"]["task"])
        values: dict[str, list[str]] = {}
        for one in OverridesParser.create().parse_overrides(words):
            if one.key_or_group in by:
                swept = one.is_sweep_override()
                some = one.sweep_string_iterator() if swept else [one.get_value_string()]
                values[one.key_or_group] = list(some)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, HydraException):
        return []
    if not values:
        return []
    return [_named(dict(zip(values, some, strict=True)), by) for some in product(*values.values())]


def _named(given: Mapping[str, str], by: Sequence[str]) -> str:
    if list(by) == ["coef"]:
        return f"coef {given.get('coef', 'as set')}"
    return " ".join(given[name] for name in by if name in given) or "as set"


def picked(some: Mapping[Seed, Sequence[Job]]) -> Picked:
    """By seed, the job that validation chose; where the dial itself tells arms apart, the only
    one."""
    found = {}
    for seed, jobs in some.items():
        chosen = [job for job in jobs if job.chosen] or (jobs if len(jobs) == 1 else [])
        if chosen:
            found[seed] = chosen[0]
    return found


def at_equal_norm(
    some: Mapping[Seed, Sequence[Job]], others: Mapping[Seed, Sequence[Job]]
) -> dict[Seed, tuple[Job, Job]]:
    """By seed, a job of ``some`` and one of ``others`` whose vectors are together as long as those
    of the better of the two that were chosen, by validation, of equal ones those of ``others``.
    Seeds without such a pair are left out."""
    found = {}
    one, other = picked(some), picked(others)
    for seed in one.keys() & other.keys():
        best = max((other[seed], one[seed]), key=lambda job: job.validation)
        pair = [_as_long(jobs[seed], best.norm) for jobs in (some, others)]
        if pair[0] is not None and pair[1] is not None:
            found[seed] = pair[0], pair[1]
    return found


def lacking_as_long(
    some: Mapping[Seed, Sequence[Job]], others: Mapping[Seed, Sequence[Job]]
) -> list[tuple[Job, Job]]:
    """Of every seed that :func:`at_equal_norm` has to leave out for want of a dial: a job of the
    arm that lacks it, and the one that was chosen of the other. None where the better one is not
    steered, nor where the two are not equally long at the dials that both have: there a dial more
    would not tell."""
    found = []
    one, other = picked(some), picked(others)
    for seed in one.keys() & other.keys():
        best = max((other[seed], one[seed]), key=lambda job: job.validation)
        lacks = some if best is other[seed] else others
        norms = [{j.record.coef: j.norm for j in arm[seed]} for arm in (some, others)]
        shared = [c for c in norms[0].keys() & norms[1].keys() if c]
        alike = [_is_as_long(norms[0][c], norms[1][c]) for c in shared]
        turned = best.norm and lacks[seed][0].turns
        if turned and alike and all(alike) and _as_long(lacks[seed], best.norm) is None:
            found.append((lacks[seed][0], best))
    return found


def _is_as_long(norm: float | None, wanted: float | None) -> bool:
    if norm is None or not wanted:
        return False
    return abs(norm - wanted) <= ALIKE * wanted


def _as_long(jobs: Sequence[Job], wanted: float | None) -> Job | None:
    return next((job for job in jobs if _is_as_long(job.norm, wanted)), None)


def test_answers(picks: Picked) -> dict[Seed, pd.DataFrame]:
    """The steered answers to the test split."""
    columns = ["id", "split", "arm", "score", "invalid"]
    return {
        seed: read_answers(job.home, columns, splits=["test"], arms=[STEERED])
        for seed, job in picks.items()
    }


def controls_of(picks: Picked) -> dict[str, float]:
    """By kind, the largest p-value of the seeds that the arm is no better than the best draw."""
    found: dict[str, float] = {}
    for job in picks.values():
        for kind, control in job.record.controls.items():
            found[kind] = max(found.get(kind, 0.0), control.paired_p)
    return found


def facts(picks: Picked, reference: Picked) -> dict[str, float | None]:
    """What a table says of an arm besides, in the mean over seeds; None where it is not known."""
    use = [u for job in picks.values() if (u := job.record.gate_use)]
    held = [x for job in picks.values() for x in _column(job, "held_out", "auroc")]
    shared = [
        len(own & other) / len(own)
        for seed, job in picks.items()
        if seed in reference
        and (own := _chosen(job))
        and (other := _chosen(reference[seed])) is not None
    ]
    return {
        "Norm": _mean(n for job in picks.values() if (n := job.length) is not None),
        "Duty": _mean(u.duty for u in use),
        "Dose": _mean(u.dose for u in use),
        "AUROC of the gate": _mean(u.auroc for u in use if u.auroc is not None),
        "Held-out AUROC": _mean(held),
        "Features shared": _mean(shared),
        "Active features": _mean(r for j in picks.values() if (r := rise(j)) is not None),
        "Norm ratio": _mean(_largest(job, STEERED) for job in picks.values()),
        "Norm ratio, random directions": _mean(_largest(j, "direction") for j in picks.values()),
    }


def rise(job: Job) -> float | None:
    """How many more features are active at a position, measured again under the plan, in the mean
    over layers."""
    effects = job.record.side_effects
    if effects is None or effects.activity is None or not effects.activity.layers:
        return None
    return float(np.mean([row.l0_after - row.l0_before for row in effects.activity.layers]))


def _largest(job: Job, kind: str) -> float:
    """The largest ratio of a layer, in the mean over arms of the kind; NaN where none is known."""
    try:
        table = read_table(job.home / "norms.csv", ["arm", "layer", "ratio"])
    except DataError:
        return float("nan")
    some = table[table["arm"].str.split("_").str[0] == kind]
    return float(some.groupby("arm")["ratio"].max().mean()) if len(some) else float("nan")


def _column(job: Job, table: str, column: str) -> list[float]:
    try:
        found = read_table(job.home / f"{table}.csv", [column])[column].dropna()
    except DataError:
        return []
    return [float(x) for x in found]


def _chosen(job: Job) -> set[tuple[int, int]] | None:
    try:
        table = read_features(job.home)
    except DataError:
        return None
    some = table[table["chosen"]]
    return set(zip(some["layer"].tolist(), some["feature"].tolist(), strict=True))


def _mean(values: Iterable[float]) -> float | None:
    known = [x for x in values if not np.isnan(x)]
    return float(np.mean(known)) if known else None
