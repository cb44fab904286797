"""The report of a sweep: a page, a table of its jobs, and its verdicts for a README.

Reads only the folders of the jobs; needs no torch. Costs about 0.1 s per question and 5 MB
(plotly.js is embedded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import pandas as pd

from corrsteer.report import compare_page, sweep_figures
from corrsteer.report.compare import Comparison, compare
from corrsteer.report.compare_answer import write_comparison
from corrsteer.report.compare_jobs import questions
from corrsteer.report.numbers import p_value
from corrsteer.report.pages import cut, plain, write_page
from corrsteer.report.plots import Figure
from corrsteer.report.record import Record, Transfer, read_record
from corrsteer.report.settings import SEEDS, seeds_called
from corrsteer.report.study import markdown as study_table
from corrsteer.report.study import study, write_study
from corrsteer.report.sweep_choice import (
    HOW,
    choose_over_seeds,
    validation_answers,
)
from corrsteer.report.sweep_figures import Cell, Dial, Point, Spread
from corrsteer.report.sweep_table import ALIKE, QUESTION, SETTINGS, sweep_table
from corrsteer.report.sweep_verdict import (
    Records,
    Verdict,
    markdown,
    overall,
    spread_title,
    table_note,
    verdicts,
    with_verdicts,
)
from corrsteer.report.tables import (
    TransferRow,
    control_kinds,
    drawn_kinds,
    in_words,
    read_answers,
    records,
)
from corrsteer.stats.intervals import SIGNIFICANT, holm
from corrsteer.stats.seeds import SMALLEST_P, GainBySample, gain_by_sample, over_seeds
from corrsteer.steering.arms import BASELINE, KINDS, STEERED

__all__ = ["SETTINGS", "write_sweep_report"]


def write_sweep_report(folder: Path) -> Path:
    """Write ``summary.csv``, ``verdict.md`` and ``report.html`` over the jobs ``folder/<n>/``;
    return the page.

    Missing, running and failed jobs are listed as such. Raises :class:`DataError` when the folder
    has no job at all.
    """
    table = sweep_table(folder)
    done = table[table["state"] == "done"]
    results = {n: read_record(folder / str(n)) for n in done["job"]}
    found = verdicts(table, results)
    table = with_verdicts(table, found)
    asked = study(folder, done, results)
    if asked is not None:
        said = [asked.sentence, *[None] * (len(table) - 1)]
        table = table.assign(study=pd.array(said, dtype=object))
    compared = _compared(folder, results, table)
    if compared:
        told = " ".join(compare_page.sentences(compared))
        write_comparison(folder, compared, done)
        table = table.assign(study=pd.array([told, *[None] * (len(table) - 1)], dtype=object))
    table.to_csv(folder / "summary.csv", index=False)
    varied = [name for name in SETTINGS if done[name].nunique(dropna=False) > 1]
    asked_here = _questions(done, results, found)
    kinds = [kind for kind in control_kinds() if any(kind in v.kinds for v in found)]
    text = markdown(found, kinds)
    if asked is not None:
        text = study_table(asked) + text
        write_study(folder, asked, done)
    text = "".join(map(compare_page.markdown, compared, compare_page.called(compared))) + text
    (folder / "verdict.md").write_text(text, encoding="utf-8")
    overridden = {
        word.lstrip("+").split("=")[0] for text in table["overrides"] for word in text.split()
    }
    page = {
        "name": folder.resolve().name,
        "jobs": records(table),
        "jobs_data": {
            "columns": list(table.columns),
            "rows": [[plain(value) for value in row] for row in table.astype(object).to_numpy()],
        },
        "same": {name: done[name].iloc[0] for name in SETTINGS if len(done) and name not in varied},
        "varied": [name for name in varied if name not in overridden],
        "overridden": bool(overridden),
        "links": {n for n in table["job"] if (folder / str(n) / "report.html").exists()},
        "questions": asked_here,
        "study": asked,
        "compared": compare_page.shown(compared),
        "verdicts": found,
        "headline": overall(found),
        "spread": spread_title(found),
        "verdicts_note": table_note("shaded"),
        "controls": {kind: in_words(kind) for kind in kinds},
        "bands": [(KINDS[kind].colour, in_words(kind)) for kind in drawn_kinds() if kind in kinds],
        "margins": int(table["margin_shift"].notna().any()),
        "transfer": _transfer(found),
        "seeds": _seeds(folder, done, results),
        "counts": table["state"].value_counts().to_dict(),
        "how": HOW,
    }
    return write_page(folder / "report.html", "sweep.html.j2", page)


def _compared(folder: Path, results: Records, table: pd.DataFrame) -> list[Comparison]:
    """Of every question under every model; none for a sweep that compares no rivals."""
    what, every = questions(folder, table, results)
    made = [compare(what, jobs) for jobs in every] if what is not None else []
    return [one for one in made if one is not None]


# -- a question --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """Jobs that answer the same question: a verdict per setting, a curve per setting and seed.
    ``curves``: symbol and name of each; ``undefined``: coefs whose side effect ratio is undefined.
    ``accuracy`` and ``ser`` None: all have the same coef."""

    name: str
    verdicts: list[Verdict]
    curves: list[tuple[str, str]]
    constrained: bool
    undefined: list[float]
    accuracy: Figure | None
    ser: Figure | None
    plane: Figure


def _questions(done: pd.DataFrame, results: Records, found: Sequence[Verdict]) -> list[Question]:
    questions: list[Question] = []
    for key, jobs in done.groupby(list(QUESTION), sort=False):
        here = [v for v in found if set(v.jobs) & set(jobs["job"])]
        names = [v.name.split(", ") for v in here]
        shared = [word for word in names[0] if all(word in words for words in names)]
        name = cut(", ".join(shared) or str(key[0]), 60)
        same = sum(q.name.split(" (")[0] == name for q in questions)
        name += f" ({same + 1})" if same else ""
        questions.append(_question(jobs, results, here, shared, name))
    return questions


def _question(
    jobs: pd.DataFrame,
    results: Records,
    found: list[Verdict],
    shared: Sequence[str],
    name: str,
) -> Question:
    series = _series(jobs, results, shared)
    swept = jobs["coef"].nunique() > 1
    every = [job for same in series for job in same]
    return Question(
        name=name,
        verdicts=found,
        curves=[
            (symbol, same[0].series)
            for symbol, same in zip(cycle(sweep_figures.SYMBOLS.values()), series, strict=False)
        ],
        constrained=any("constrained" in job.record.controls for job in every),
        undefined=[job.coef for job in every if job.record.flips.ser is None],
        accuracy=sweep_figures.accuracy_by_coef(series) if swept else None,
        ser=sweep_figures.ser_by_coef(series) if swept else None,
        plane=sweep_figures.ser_plane(series),
    )


def _series(jobs: pd.DataFrame, results: Records, shared: Sequence[str]) -> list[list[Point]]:
    """Jobs sorted by coef, one list per setting and seed. ``shared``: words of the settings' names
    that all of them have."""
    seeds = jobs[["seed", "splits_seed"]].drop_duplicates()
    series = []
    for (setting, seed, dealt), part in jobs.groupby(list(ALIKE), sort=False, dropna=False):
        words = [word for word in str(setting).split(", ") if word and word not in shared]
        words += [f"seed {seed}"] if seeds["seed"].nunique() > 1 else []
        words += [f"splits.seed {dealt}"] if seeds["splits_seed"].nunique(dropna=False) > 1 else []
        series.append(
            [
                Point(
                    job=row["job"],
                    coef=row["coef"],
                    series=", ".join(words),
                    chosen=row["chosen"],
                    record=results[row["job"]],
                )
                for row in records(part.sort_values("coef"))
            ]
        )
    return series


# -- transfer ----------------------------------------------------------------------------------


def _transfer(verdicts: Sequence[Verdict]) -> dict[str, object] | None:
    """The matrix of the chosen jobs: features chosen on one task, tested on another's questions."""
    asked = [v for v in verdicts if v.record.transfer]
    if not asked:
        return None
    own = [v.record.task for v in asked]
    columns = list(dict.fromkeys([*own, *(task for v in asked for task in v.record.transfer)]))
    rows = {}
    for i, v in enumerate(asked):
        tested = {v.record.task: _own(v.record), **v.record.transfer}
        for j, task in enumerate(columns):
            if task in tested:
                rows[i, j] = TransferRow.of(cut(task, 60), tested[task])
    corrected = holm([row.mcnemar_p for row in rows.values()])
    cells = {
        (i, j): Cell(asked[i].name, columns[j] == own[i], row, p, p < SIGNIFICANT)
        for ((i, j), row), p in zip(rows.items(), corrected, strict=True)
    }
    figure = sweep_figures.transfer_map([v.name for v in asked], columns, cells)
    return {"cells": list(cells.values()), "columns": len(columns), "figure": figure}


def _own(record: Record) -> Transfer:
    """A run's own test split, as a cell of the matrix."""
    random = record.controls.get("random")
    return Transfer(
        n=record.flips.n,
        chance=record.chance,
        arms=record.arms,
        gain=record.gain,
        gain_ci=record.gain_ci,
        flips=record.flips,
        random_gains=random.gains if random else [],
    )


# -- seeds -------------------------------------------------------------------------------------

AVERAGED = ("validation_steered", "baseline", "steered", "gain", "ser", "control_best")


@dataclass(frozen=True)
class SeedGroup:
    """Jobs that differ only in seed and dial. ``seeds``: what these are called. ``sure``: in how
    many resamples of the validation questions the same dial is chosen. ``p``: of the gain by
    sample, as text."""

    name: str
    dials: list[Dial]
    chosen: Dial
    sure: float
    n_seeds: int
    seeds: str
    by_sample: GainBySample
    p: str
    figure: Figure


def _seeds(folder: Path, done: pd.DataFrame, results: Records) -> list[SeedGroup]:
    """One group for each setting that has several seeds."""
    return [
        _seed_group(folder, cut(str(setting), 80), jobs, results)
        for setting, jobs in done.groupby("setting", sort=False)
        if len(jobs[["seed", "splits_seed"]].drop_duplicates()) > 1
    ]


def _seed_group(folder: Path, name: str, jobs: pd.DataFrame, results: Records) -> SeedGroup:
    dials = [_dial(same, results) for _, same in jobs.groupby("coef")]
    n_seeds = max(len(dial.seeds) for dial in dials)
    # Jobs may have failed: only dials of the same seeds are compared.
    seeds = jobs.set_index("job")[["seed", "splits_seed"]].astype(str)
    of = [seeds.loc[dial.jobs].to_numpy().tolist() for dial in dials]
    most = next(some for some in of if len(some) == n_seeds)
    whole = [dial for dial, some in zip(dials, of, strict=True) if some == most]
    asked = [[validation_answers(folder / str(n)) for n in dial.jobs] for dial in whole]
    best, sure = choose_over_seeds(asked, [dial.coef for dial in whole])
    dials = [replace(dial, chosen=dial is whole[best]) for dial in dials]
    (chosen,) = (dial for dial in dials if dial.chosen)
    by_sample = _by_sample(folder, chosen)
    at_most = by_sample.p <= SMALLEST_P
    given = zip(SEEDS, ("seed", "splits_seed"), strict=True)
    varied = [name for name, column in given if jobs[column].nunique(dropna=False) > 1]
    return SeedGroup(
        name=name,
        dials=dials,
        chosen=chosen,
        sure=sure,
        n_seeds=n_seeds,
        seeds=seeds_called(varied),
        by_sample=by_sample,
        p=p_value(by_sample.p).replace("=", "<" if at_most else "="),
        figure=sweep_figures.gain_over_seeds(dials),
    )


def _dial(jobs: pd.DataFrame, results: Records) -> Dial:
    alike = ["seed", "splits_seed"]
    jobs = jobs.sort_values(alike).drop_duplicates(alike)
    draws: dict[str, list[float]] = {}
    for n in jobs["job"]:
        for kind, control in results[n].controls.items():
            draws.setdefault(kind, []).extend(control.gains)
    spread = {}
    for name in AVERAGED:
        values = [float(value) for value in jobs[name].dropna()]
        spread[name] = Spread(*over_seeds(values)) if values else Spread(None, None)
    return Dial(
        coef=float(jobs["coef"].iloc[0]),
        jobs=jobs["job"].tolist(),
        seeds=jobs["seed"].tolist(),
        gains=jobs["gain"].tolist(),
        draws=draws,
        spread=spread,
    )


def _by_sample(folder: Path, dial: Dial) -> GainBySample:
    pairs = []
    for n in dial.jobs:
        answers = read_answers(
            folder / str(n),
            ["id", "arm", "score", "invalid"],
            splits=["test"],
            arms=[BASELINE, STEERED],
        )
        base, steered = (answers[answers["arm"] == arm] for arm in (BASELINE, STEERED))
        pairs.append((base, steered))
    return gain_by_sample(pairs)
