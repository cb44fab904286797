"""What a sweep that compares rivals asks, and what each of its jobs paid; see
:mod:`corrsteer.report.compare`. Reads job folders only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from corrsteer.records import RIGHT
from corrsteer.report.record import Record
from corrsteer.report.sweep_table import QUESTION
from corrsteer.report.tables import read_answers, read_table, records
from corrsteer.steering.arms import BASELINE, STEERED

BROKEN, OFF_TARGET, KL = "broken per fixed", "off-target", "KL"
PRICES = (BROKEN, OFF_TARGET, KL)
Seed = tuple[object, ...]
RESTRICTED = "Prompt-constrained"
"""The method that restricts answers to option letters: unrelated prompts have none."""
SHUFFLED = "shuffled"
"""``strategy.data`` of the control of :mod:`corrsteer.methods.finetuned`."""


@dataclass(frozen=True)
class Asked:
    """``margin``: as a fraction of 1."""

    claim: str
    subject: str
    margin: float


@dataclass(frozen=True)
class Job:
    """One job that is done; its folder is read when its answers are asked for. ``chosen``: by
    validation, among those that differ in the dial alone."""

    number: int
    folder: Path
    record: Record
    chosen: bool
    match: float | None = None
    """The validation accuracy that its checkpoint was to come nearest to; None: the best one."""
    turns: bool = False
    """Whether its strategy reads the dial: an adapter's does, too, which has no operator."""
    control: bool = False
    """Whether it was trained on answers of other questions (``strategy.data=shuffled``): no rival,
    since all that it can learn is the form of an answer."""

    @property
    def method(self) -> str:
        return self.record.method_name

    @property
    def validation(self) -> float:
        return self.record.validation[STEERED].accuracy

    @property
    def coef(self) -> float:
        return self.record.coef

    @property
    def dial(self) -> str:
        """As it is shown; empty for what has none, such as a prompt."""
        return f"{self.coef:g}" if self.turns or self.record.operator or self.coef != 1 else ""

    def answers(self, arm: str) -> pd.DataFrame:
        columns = ["id", "split", "arm", "score", "invalid"]
        return read_answers(self.folder, columns, splits=["test"], arms=[arm])

    def cost(self) -> Mapping[str, Any]:
        try:
            content = json.loads((self.folder / "method.json").read_text(encoding="utf-8"))
            return content if isinstance(content, dict) else {}
        except (OSError, ValueError):
            return {}

    def paid(self, price: str) -> pd.DataFrame | None:
        """Columns paid and per, by the unit's id; None where the price was not measured."""
        if price == KL:
            if not (self.folder / "divergence.csv").exists():
                return None
            table = read_table(self.folder / "divergence.csv", ["arm", "text", "kl", "positions"])
            own = table[table["arm"] == STEERED].set_index("text")
            frame = own.rename(columns={"kl": "paid", "positions": "per"})[["paid", "per"]]
            return frame if len(frame) else None
        if price == OFF_TARGET:
            if self.method == RESTRICTED:
                return None  # it was not applied there, so nothing could change
            rows = read_answers(
                self.folder, ["id", "arm", "answer"], ["unrelated"], [BASELINE, STEERED]
            )
            if not len(rows):
                return None
            by_arm = rows.pivot(index="id", columns="arm", values="answer")
            changed = (by_arm[BASELINE] != by_arm[STEERED]).astype(float)
            return pd.DataFrame({"paid": changed, "per": 1.0})
        base, now = (self.right(arm) for arm in (BASELINE, STEERED))
        change = now - base.loc[now.index]
        return pd.DataFrame({"paid": (change < 0).astype(float), "per": (change > 0).astype(float)})

    def right(self, arm: str) -> pd.Series:
        """0 or 1 by the question's id."""
        rows = self.answers(arm).set_index("id")
        right = (rows["score"] >= RIGHT) & ~rows["invalid"].astype(bool)
        return right.astype(float)


Question = Sequence[tuple[Seed, Job]]
"""Jobs of one question under one model, with their seeds."""


def questions(
    folder: Path, table: pd.DataFrame, results: Mapping[int, Record]
) -> tuple[Asked | None, list[Question]]:
    """What a sweep asks, and its jobs that are done, by question; None and nothing of a sweep that
    compares no rivals. ``table``: of :func:`corrsteer.report.sweep_table.sweep_table`."""
    done = table[table["state"] == "done"]
    what = asked(folder, done["job"].tolist())
    if what is None:
        return None, []
    every: list[Question] = []
    for _, some in done.groupby(list(QUESTION), sort=False):
        jobs = []
        for row in records(some):
            n = row["job"]
            strategy = _strategy(folder / str(n))
            match = _number(strategy.get("match"))
            # A checkpoint for a pair is no answer to which setting of a method is the best one.
            own = bool(row["chosen"]) and match is None
            seed = tuple(str(row[name]) for name in ("seed", "splits_seed"))
            turns, dealt = "coef" in strategy, strategy.get("data") == SHUFFLED
            jobs.append((seed, Job(n, folder / str(n), results[n], own, match, turns, dealt)))
        every.append(jobs)
    return what, every


def _strategy(home: Path) -> Mapping[str, Any]:
    """Its settings; empty where they cannot be read."""
    try:
        content = yaml.safe_load((home / "config.yaml").read_text(encoding="utf-8"))
        return dict(content["strategy"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def asked(folder: Path, jobs: Sequence[int]) -> Asked | None:
    """What the sweep's configs say; None for a sweep that compares no rivals."""
    for job in jobs:
        try:
            text = (folder / str(job) / "config.yaml").read_text(encoding="utf-8")
            found = yaml.safe_load(text)["study"]
            return Asked(str(found["claim"]), str(found["subject"]), float(found["margin"]) / 100)
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            continue
    return None


def shares(jobs: Sequence[Job], axis: str) -> pd.Series:
    """Of one method's jobs of several seeds: what was paid for each prompt or question, from 0 to
    1, as a mean over the seeds that asked it."""
    frames = [frame["paid"] for job in jobs if (frame := job.paid(axis)) is not None]
    return pd.concat(frames).groupby(level=0).mean()


def share_of(job: Job, axis: str) -> float:
    """The mean of :func:`shares` of one job, as its record says."""
    effects = job.record.side_effects
    if axis == OFF_TARGET and effects is not None and effects.off_target is not None:
        return effects.off_target.arms[STEERED].rate
    return job.record.flips.broken / job.record.flips.n
