"""The answer of an experiment to its claim: methods against each other on the same test questions,
each at the dial that validation chose.

Supported: the subject has more right answers than the reference by the exact McNemar test,
corrected for all methods that were compared (Holm), and beats the best draw of its control.
Refuted: it has fewer, by the same test. Else undecided. Over several seeds each question counts
once (:func:`corrsteer.stats.seeds.gain_by_sample`). Reads the folders of a sweep's jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from corrsteer.report.numbers import interval, p_value, points
from corrsteer.report.record import Record
from corrsteer.report.tables import in_words, read_answers
from corrsteer.stats.flips import flip_table
from corrsteer.stats.intervals import SIGNIFICANT, detectable_gain, holm
from corrsteer.stats.seeds import GainBySample, gain_by_sample
from corrsteer.steering.arms import STEERED

SUPPORTED, REFUTED, UNDECIDED = "supported", "refuted", "undecided"


@dataclass(frozen=True)
class Compared:
    """A method against the reference. ``accuracy``: on test, its mean over seeds. ``smallest``: the
    gain that the test could have found (:func:`corrsteer.stats.intervals.detectable_gain`)."""

    name: str
    accuracy: float
    gain: GainBySample
    p: float
    smallest: float | None


@dataclass(frozen=True)
class Study:
    """``answer``: one of the three words. ``sentence``: with the claim and its numbers."""

    claim: str
    reference: str
    answer: str
    sentence: str
    rows: Sequence[Compared]


Chosen = Mapping[tuple[object, ...], tuple[int, Record]]
"""By seed, the job that validation chose, and its record."""


def study(folder: Path, methods: Mapping[str, Chosen]) -> Study | None:
    """``methods``: by name, such as CorrSteer-P. None for a sweep that is no experiment."""
    asked = _asked(folder, [job for some in methods.values() for job, _ in some.values()])
    if asked is None:
        return None
    answers = {
        name: {seed: _test(folder / str(job)) for seed, (job, _) in some.items()}
        for name, some in methods.items()
    }
    rows = compared(answers, asked["reference"], _accuracies(methods))
    records = [record for _, record in methods.get(asked["subject"], {}).values()]
    drawn = [c.paired_p for r in records if (c := r.controls.get(asked["control"])) is not None]
    return answered(asked, rows, max(drawn, default=None))


def compared(
    answers: Mapping[str, Mapping[tuple[object, ...], pd.DataFrame]],
    reference: str,
    accuracies: Mapping[str, float],
) -> list[Compared]:
    """Every other method against the reference, in the seeds that both have."""
    gains: dict[str, GainBySample] = {}
    first = answers.get(reference, {})
    for name, some in answers.items():
        pairs = [(first[seed], now) for seed, now in some.items() if seed in first]
        if name != reference and pairs:
            gains[name] = gain_by_sample(pairs)
    corrected = holm([gain.p for gain in gains.values()])
    level = SIGNIFICANT / max(len(gains), 1)
    return [
        Compared(name, accuracies[name], gain, p, _smallest(gain, answers[name], first, level))
        for (name, gain), p in zip(gains.items(), corrected, strict=True)
    ]


def answered(asked: Mapping[str, str], rows: Sequence[Compared], control_p: float | None) -> Study:
    """``control_p``: that the subject is no better than the best draw of its control; None where
    none was drawn."""
    claim, reference = asked["claim"], asked["reference"]
    row = next((row for row in rows if row.name == asked["subject"]), None)
    head = f"{claim[:1].upper()}{claim[1:]}"
    if row is None:
        there = ", ".join(row.name for row in rows) or "none"
        said = (
            f"{head}: {UNDECIDED}, since no job of both {asked['subject']} and {reference} is done"
            f" (compared with {reference}: {there})."
        )
        return Study(claim, reference, UNDECIDED, said, rows)
    beats = control_p is not None and control_p <= SIGNIFICANT
    answer = UNDECIDED
    if row.p <= SIGNIFICANT and row.gain.gain < 0:
        answer = REFUTED
    elif row.p <= SIGNIFICANT and beats:
        answer = SUPPORTED
    numbers = (
        f"{points(row.gain.gain)} points {interval(row.gain.ci)} against {reference}, "
        f"{p_value(row.p)} (Holm)"
    )
    control = in_words(asked["control"])
    if answer == SUPPORTED:
        numbers += f", and more than the best of {control}"
    if answer == UNDECIDED:
        if row.p <= SIGNIFICANT:
            numbers += f", but not shown to beat {control}"
        elif row.smallest is None:
            numbers += "; too few answers differ to show any gain"
        else:
            numbers += f"; smallest gain the data could have shown: {100 * row.smallest:.1f} points"
    return Study(claim, reference, answer, f"{head}: {answer} ({numbers}).", rows)


def markdown(made: Study) -> str:
    """The answer and its table, for a README."""
    lines = [made.sentence, "", f"| Method | Accuracy | Against {made.reference} | p (Holm) |"]
    lines += ["|---|---:|---:|---:|"]
    for row in made.rows:
        gain = f"{points(row.gain.gain)} {interval(row.gain.ci)}"
        lines.append(f"| {row.name} | {100 * row.accuracy:.1f} | {gain} | {p_value(row.p)[4:]} |")
    return "\n".join([*lines, "", ""])


def _asked(folder: Path, jobs: Sequence[int]) -> dict[str, str] | None:
    for job in jobs:
        try:
            text = (folder / str(job) / "config.yaml").read_text(encoding="utf-8")
            found = yaml.safe_load(text)["study"]
            if found:
                return {n: str(found[n]) for n in ("claim", "subject", "reference", "control")}
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            continue
    return None


def _test(home: Path) -> pd.DataFrame:
    columns = ["id", "split", "arm", "score", "invalid"]
    return read_answers(home, columns, splits=["test"], arms=[STEERED])


def _accuracies(methods: Mapping[str, Chosen]) -> dict[str, float]:
    return {
        name: sum(record.arms[STEERED].accuracy for _, record in some.values()) / len(some)
        for name, some in methods.items()
    }


def _smallest(
    gain: GainBySample,
    now: Mapping[tuple[object, ...], pd.DataFrame],
    first: Mapping[tuple[object, ...], pd.DataFrame],
    level: float,
) -> float | None:
    """Of the answers that are right in one of both, in the seed that has most of them. ``level``:
    Holm's strictest, as the verdicts of a table have it."""
    flips = [flip_table(first[seed], some) for seed, some in now.items() if seed in first]
    share = max(((f.fixed + f.broken) / f.n for f in flips), default=0.0)
    return detectable_gain(gain.n, share, level=level)
