"""Which dial of a sweep validation chooses, how sure that is, and in which words.

The rule is :func:`corrsteer.stats.choice.choose`. Reads the answers to the validation split of
every job that is done: a few milliseconds each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd

from corrsteer.records import RIGHT
from corrsteer.report.numbers import pct, points, short, whole
from corrsteer.report.tables import read_answers, reading
from corrsteer.stats.choice import RESAMPLES, RULE, ahead, choose
from corrsteer.steering.arms import BASELINE, STEERED

COLUMNS = {
    "chosen": False,
    "chosen_share": float("nan"),
    "validation_n": 0,
    "validation_behind": float("nan"),
    "validation_error": float("nan"),
    "validation_ahead": float("nan"),
}
"""What :func:`with_choice` adds to a sweep's table, and what jobs that are not done have there."""

HOW = (
    "Validation chooses the smallest dial that lies behind the highest accuracy by no more than one"
    " standard error of the paired difference and one question"
)
"""The rule as a footnote says it, without its full stop."""


def validation_answers(folder: Path) -> pd.DataFrame:
    """Whether each answer to a job's validation split is right (0 or 1): columns ``baseline`` and
    ``steered``, by the question's id. Raises DataError where they cannot be read."""
    rows = read_answers(folder, ["id", "arm", "score"], ["validation"], [BASELINE, STEERED])
    with reading(folder / "answers.parquet"):
        right = rows.assign(right=(rows["score"] >= RIGHT).astype(float))
        table = right.pivot(index="id", columns="arm", values="right")
        if set(table) != {BASELINE, STEERED} or table.isna().any(axis=None):
            raise ValueError("an answer to the validation split is missing")
        return table


def with_choice(
    table: pd.DataFrame,
    answered: Mapping[int, pd.DataFrame],
    alike: Sequence[str],
) -> pd.DataFrame:
    """``table`` with ``COLUMNS``: of the jobs that share the columns ``alike``, and so differ in
    the dial alone, which is chosen.

    ``answered``: of the jobs that are done (:func:`validation_answers`). ``validation_n``:
    questions that all of them answered, on which they are compared; ``validation_behind`` and
    ``validation_error``: how much lower than the best one's a job's accuracy is there, and the
    standard error of that difference; ``chosen_share``: of the resamples, in how many the rule
    chooses the job; ``validation_ahead``: in how many it is ahead of the unsteered model. Jobs that
    have no question in common are chosen by their accuracy alone, and have no shares.
    """
    table = table.assign(**COLUMNS)
    for _, jobs in table[table["state"] == "done"].groupby(list(alike), dropna=False):
        right = [answered[n][STEERED] for n in jobs["job"]]
        base = [answered[n][BASELINE] for n in jobs["job"]]
        ids = reduce(pd.Index.intersection, (r.index for r in right))
        at, sizes = jobs.index, jobs["coef"].tolist()
        if not len(ids):
            ranked = jobs.assign(size=jobs["coef"].abs()).sort_values(
                ["validation_steered", "size", "job"], ascending=[False, True, True]
            )
            table.loc[ranked.index[0], "chosen"] = True
            continue
        x = np.stack([r.loc[ids].to_numpy() for r in right])
        choice = choose(x, sizes)
        table.loc[at[choice.chosen], "chosen"] = True
        table.loc[at, "chosen_share"] = choice.shares
        table.loc[at, "validation_n"] = len(ids)
        table.loc[at, "validation_behind"] = choice.behind
        table.loc[at, "validation_error"] = choice.errors
        table.loc[at, "validation_ahead"] = [
            ahead(steered, b.loc[ids].to_numpy()) for steered, b in zip(x, base, strict=True)
        ]
    return table


def most_accurate(jobs: pd.DataFrame) -> pd.Series:
    """Which of ``jobs`` that differ in the dial alone are right most often on validation: a mask.
    Rows of a table with ``COLUMNS``."""
    if jobs["validation_behind"].isna().any():  # no question in common
        return jobs["validation_steered"] == jobs["validation_steered"].max()
    return jobs["validation_behind"] == 0


def choice_sentence(jobs: pd.DataFrame) -> str:
    """What validation chose among ``jobs`` that differ in the dial alone: rows of a table with
    ``COLUMNS``."""
    (row,) = (job for _, job in jobs[jobs["chosen"]].iterrows())
    base, steered, n = row["validation_baseline"], row["validation_steered"], row["validation_n"]
    resamples = f"of {RESAMPLES:,} resamples of these {whole(n)} questions"
    sentences = [
        f"Validation chooses coef {short(row['coef'])} (job {row['job']}), with a steered accuracy"
        f" of {pct(steered)}; the baseline has {pct(base)}."
    ]
    best = jobs[jobs["validation_behind"] == 0].head(1)
    if row["validation_behind"] > 0:
        (other,) = (job for _, job in best.iterrows())
        more, error = points(row["validation_behind"]), short(100 * row["validation_error"])
        sentences.append(
            f"Coef {short(other['coef'])} (job {other['job']}) has {more} points more, no more than"
            f" one question and the standard error ({error} points), so the smaller dial is taken"
            f" ({RULE})."
        )
    if n and len(jobs) > 1:
        sentences.append(
            f"In {pct(row['chosen_share'])} {resamples} the same rule chooses it; in"
            f" {pct(row['validation_ahead'])} it is ahead of the unsteered model."
        )
    elif n:
        sentences.append(
            f"In {pct(row['validation_ahead'])} {resamples} it is ahead of the unsteered model."
        )
    if steered <= base:
        sentences.append("That is not above the baseline.")
    return " ".join(sentences)


def choose_over_seeds(
    answered: Sequence[Sequence[pd.DataFrame]], coefs: Sequence[float]
) -> tuple[int, float]:
    """The index of the dial that validation chooses over several seeds, and in how many resamples.

    ``answered[dial][seed]``: as :func:`validation_answers` reads them, of the same seeds for every
    dial. A question counts once for each seed that asked it.
    """
    ids = [
        reduce(pd.Index.intersection, (dial[seed].index for dial in answered))
        for seed in range(len(answered[0]))
    ]
    x = [
        np.concatenate([one[STEERED].loc[some] for one, some in zip(dial, ids, strict=True)])
        for dial in answered
    ]
    choice = choose(np.stack(x), coefs)
    return choice.chosen, choice.shares[choice.chosen]
