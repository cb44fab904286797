"""The answer of an experiment to its claim: arms against each other on the same test questions,
each at the dial that validation chose, and where there are such jobs at equal norm.

Which of three words it is, :mod:`corrsteer.report.study_rules` says. Over several seeds each
question counts once (:func:`corrsteer.stats.seeds.gain_by_sample`). Reads the folders of a sweep's
jobs; ``study.json`` in the sweep's folder has the answer for programs.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from corrsteer.report.numbers import interval, p_value, points, short
from corrsteer.report.record import Record
from corrsteer.report.study_arms import (
    Arms,
    Picked,
    Seed,
    arms,
    asked_arms,
    at_equal_norm,
    controls_of,
    facts,
    picked,
    rise,
    test_answers,
)
from corrsteer.report.study_collapse import collapse, dial_names
from corrsteer.report.study_rules import (
    RULES,
    Asked,
    Compared,
    Finding,
    Partial,
    filling,
    held,
    sentence,
)
from corrsteer.stats.flips import flip_table
from corrsteer.stats.intervals import SIGNIFICANT, detectable_gain, holm
from corrsteer.stats.partial import partial_correlation
from corrsteer.stats.seeds import GainBySample, gain_by_sample
from corrsteer.steering.arms import STEERED

FILE = "study.json"
ByName = Mapping[str, Mapping[Seed, pd.DataFrame]]


@dataclass(frozen=True)
class Reference:
    """The arm that all others are compared with."""

    name: str
    accuracy: float | None = None
    dial: str = ""
    facts: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """``answer``: one of three words. ``sentence``: with the claim and its numbers. ``number`` with
    its interval ``ci``: what decided, None where nothing could. ``smallest``: the gain that the
    data could have shown; ``held``: why there is no answer although they show one.
    ``columns``: of the rows' facts, those that a table shows. ``note``: what to do before one
    believes it."""

    claim: str
    reference: str
    answer: str
    sentence: str
    rows: Sequence[Compared]
    first: Reference | None = None
    number: float | None = None
    ci: tuple[float, float] | None = None
    smallest: float | None = None
    held: str = ""
    columns: Sequence[str] = ()
    note: str = ""

    @property
    def has_equal(self) -> bool:
        return any(row.equal is not None for row in self.rows)


def study(folder: Path, done: pd.DataFrame, results: Mapping[int, Record]) -> Study | None:
    """``done``: rows of the sweep's table, with ``chosen``. None for a sweep that is no
    experiment."""
    asked = asked_in(folder, [int(n) for n in done["job"]])
    if asked is None:
        return None
    found = arms(folder, done, results, asked.by)
    if asked.rule == "instability":
        asked = replace(asked, reference=dial_names(found))
    picks = {name: p for name, some in found.items() if (p := picked(some))}
    reference = picks.get(asked.reference, {})
    answers = {name: test_answers(some) for name, some in picks.items()}
    rows = compared(answers, asked.reference, _accuracies(picks))
    rows = [
        replace(
            row,
            dial=_dials(picks[row.name]),
            controls=controls_of(picks[row.name]),
            facts=facts(picks[row.name], reference),
        )
        for row in rows
    ]
    first = Reference(
        asked.reference,
        _accuracies({"": reference})[""] if reference else None,
        _dials(reference),
        facts(reference, reference),
    )
    own = controls_of(reference)
    wanted = asked_arms(folder, asked.by)
    if asked.rule == "instability":
        fell = collapse(found, asked, [name for name in wanted if name not in found])
        rows = [replace(r, facts={**fell.facts[r.name], **r.facts}) for r in rows]
        first = replace(first, facts={**fell.facts.get(first.name, {}), **first.facts})
        return replace(_shown(asked, rows, None), first=first, **fell.said)
    rows = _at_equal_norm(rows, found, asked.reference)
    partial = _partial(found) if asked.rule == "filling" else None
    missing = [name for name in wanted if name not in picks]
    made = answered(asked, rows, own, partial, missing, list(ends(found)))
    return replace(
        made, first=first, note=" ".join(filter(None, (added(found), at_the_end(found))))
    )


def ends(found: Arms) -> dict[str, str]:
    """Arms whose dial lies at an end of its range, with that dial: where it was not widened as
    often as needed (:mod:`corrsteer.report.widening`). Below 0, the unsteered model, there is
    nothing to add."""
    some = {}
    for name, by_seed in found.items():
        for seed, job in picked(by_seed).items():
            dials = [one.record.coef for one in by_seed[seed]]
            if len(dials) > 1 and job.turns and job.record.coef in {min(dials), max(dials)} - {0.0}:
                some[name] = short(job.record.coef)
    return some


def added(found: Arms) -> str:
    """A sentence on the dials that follow those of the experiment; empty where there are none."""
    every = [(name, job) for name, some in found.items() for jobs in some.values() for job in jobs]
    typed = max((job.left for _, job in every), default=0)
    some: dict[str, set[float]] = {}
    for name, job in every:
        if job.left < typed:
            some.setdefault(name, set()).add(job.record.coef)
    if not some:
        return ""
    told = ", ".join(f"{name} ({', '.join(map(short, sorted(x)))})" for name, x in some.items())
    return f"Dials that were added, for what validation found at the end of a range: {told}."


def at_the_end(found: Arms) -> str:
    """A sentence on :func:`ends`; empty where there are none."""
    some = ends(found)
    if not some:
        return ""
    arms_at = ", ".join(f"{name} ({dial})" for name, dial in some.items())
    return f"The dial lies at an end of its range, so widen coef before you rely on it: {arms_at}."


def compared(answers: ByName, reference: str, accuracies: Mapping[str, float]) -> list[Compared]:
    """Every other arm against the reference, in the seeds that both have."""
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


def answered(
    asked: Asked,
    rows: Sequence[Compared],
    own: Mapping[str, float] | None = None,
    partial: Partial | None = None,
    missing: Sequence[str] = (),
    at_ends: Sequence[str] = (),
) -> Study:
    """``own``: p-values that the reference is no better than the best draw of each control;
    ``partial``: of ``filling`` alone; ``missing`` and ``at_ends``:
    :func:`corrsteer.report.study_rules.held`."""
    if asked.rule == "filling":
        found = filling(asked, rows, partial)
    else:
        found = RULES[asked.rule](asked, rows, own or {})
    return _shown(asked, rows, held(asked, found, missing, at_ends))


def _shown(asked: Asked, rows: Sequence[Compared], found: Finding | None) -> Study:
    columns = []
    for name in rows[0].facts if rows else ():
        values = {row.facts[name] for row in rows}
        if len(values - {None}) and values != {1.0}:
            columns.append(name)
    made = Study(asked.claim, asked.reference, "", "", rows, columns=columns)
    if found is None:
        return made
    row = found.row
    return replace(
        made,
        answer=found.answer,
        sentence=sentence(asked, rows, found),
        number=row.gain.gain if row else None,
        ci=row.gain.ci if row else None,
        smallest=row.smallest if row else None,
        held=found.held,
    )


def markdown(made: Study) -> str:
    """The answer and its table, for a README."""
    titles = ["Arm", "Dial", "Accuracy", f"Against {made.reference}", "p (Holm)"]
    titles += ["At equal norm"] * made.has_equal + list(made.columns)
    lines = [
        made.sentence,
        "",
        *([made.note, ""] if made.note else []),
        f"| {' | '.join(titles)} |",
    ]
    lines.append("|---|" + "---:|" * (len(titles) - 1))
    if made.first is not None and made.first.accuracy is not None:
        first = [made.first.name, made.first.dial, f"{100 * made.first.accuracy:.1f}", "–", "–"]
        first += ["–"] * made.has_equal
        first += [short(made.first.facts.get(name)) for name in made.columns]
        lines.append(f"| {' | '.join(first)} |")
    for row in made.rows:
        gain = f"{points(row.gain.gain)} {interval(row.gain.ci)}"
        cells = [row.name, row.dial, f"{100 * row.accuracy:.1f}", gain, p_value(row.p)[4:]]
        if made.has_equal:
            equal = row.equal
            cells.append(f"{points(equal.gain)} {interval(equal.ci)}" if equal else "–")
        cells += [short(row.facts.get(name)) for name in made.columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", ""])


def write_study(folder: Path, made: Study, done: pd.DataFrame) -> None:
    """``study.json``: fractions, not points; null where nothing is known."""
    content = {
        "claim": made.claim,
        "answer": made.answer,
        "sentence": made.sentence,
        "note": made.note,
        "number": made.number,
        "interval": made.ci,
        "smallest_gain": made.smallest,
        "held": made.held,
        "reference": asdict(made.first or Reference(made.reference)),
        "rows": [asdict(row) for row in made.rows],
    }
    write_answer(folder, content, done)


def write_answer(folder: Path, content: Mapping[str, Any], done: pd.DataFrame) -> None:
    """``study.json``, with what was typed and what was asked beside ``content``."""
    of = {
        "task": sorted(set(done["task"])),
        "model": sorted(set(done["model"])),
        "jobs": len(done),
        "seeds": sorted({int(n) for n in done["seed"]}),
    }
    content = {"command": _command(folder), **of, **content}
    text = json.dumps(content, indent=2, default=_plain, allow_nan=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def _command(folder: Path) -> str | None:
    """What was typed, without where things lie; None where the sweep does not say."""
    try:
        text = (folder / "multirun.yaml").read_text(encoding="utf-8")
        words = [str(w) for w in yaml.safe_load(text)["hydra"]["overrides"]["task"]]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
    kept = [w for w in words if w.split("=")[0] not in ("cache", "tracker", "name")]
    several = " -m" if not any(w.startswith("experiment=") for w in kept) else ""
    return f"python -m src.main{several} {shlex.join(kept)}".strip()


def asked_in(folder: Path, jobs: Sequence[int]) -> Asked | None:
    """What the configs of a study's jobs ask; None where none does, or rivals are compared."""
    for job in jobs:
        try:
            text = (folder / str(job) / "config.yaml").read_text(encoding="utf-8")
            found = yaml.safe_load(text)["study"]
            if found and "margin" in found:  # rivals at equal accuracy: corrsteer.report.compare
                return None
            if found:
                return Asked(
                    claim=str(found["claim"]),
                    reference=str(found.get("reference") or ""),
                    rule=str(found.get("rule") or "better"),
                    **{name: _words(found.get(name)) for name in ("subject", "control", "by")},
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
            continue
    return None


def _words(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),) if value else ()


def _at_equal_norm(rows: Sequence[Compared], found: Arms, reference: str) -> list[Compared]:
    gains: dict[str, GainBySample] = {}
    for row in rows:
        pairs = at_equal_norm(found[row.name], found[reference])
        if pairs and pairs.keys() == picked(found[row.name]).keys():
            now, first = (
                test_answers({seed: pair[n] for seed, pair in pairs.items()}) for n in (0, 1)
            )
            gains[row.name] = gain_by_sample([(first[seed], some) for seed, some in now.items()])
    corrected = dict(zip(gains, holm([g.p for g in gains.values()]), strict=True))
    return [
        replace(row, equal=gains.get(row.name), equal_p=corrected.get(row.name)) for row in rows
    ]


def _partial(found: Arms) -> Partial | None:
    """Over arms and their dials, each in the mean over seeds; dial 0, where no arm does anything,
    is one of them."""
    known: dict[tuple[str, float], list[tuple[float, float, float]]] = {}
    for name, some in found.items():
        for job in (job for jobs in some.values() for job in jobs):
            norm = job.length if job.norm is None else job.norm
            if (more := rise(job)) is not None and norm is not None:
                dial = job.record.coef
                known.setdefault((name if dial else "", dial), []).append(
                    (job.record.gain, more, norm)
                )
    points_of = [np.mean(some, axis=0) for some in known.values()]
    made = partial_correlation(*np.transpose(points_of)) if points_of else None
    return None if made is None else Partial(*made, len(known))


def _dials(picks: Picked) -> str:
    return ", ".join(dict.fromkeys(short(job.record.coef) for job in picks.values()))


def _accuracies(picks: Mapping[str, Picked]) -> dict[str, float]:
    return {
        name: sum(job.record.arms[STEERED].accuracy for job in some.values()) / len(some)
        for name, some in picks.items()
    }


def _smallest(
    gain: GainBySample,
    now: Mapping[Seed, pd.DataFrame],
    first: Mapping[Seed, pd.DataFrame],
    level: float,
) -> float | None:
    """Of the answers that are right in one of both, in the seed that has most of them. ``level``:
    Holm's strictest, as the verdicts of a table have it."""
    flips = [flip_table(first[seed], some) for seed, some in now.items() if seed in first]
    share = max(((f.fixed + f.broken) / f.n for f in flips), default=0.0)
    return detectable_gain(gain.n, share, level=level)
