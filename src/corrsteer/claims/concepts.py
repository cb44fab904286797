"""Do chosen features mean more than random ones? From a sweep over tasks and two selectors, the
second of which is chance: it draws live features. A run classifies only the features that it
steers with, unless it is asked to choose among classes: ``WORD`` asks for all of them, so that all
ranked features have one (:mod:`corrsteer.selectors.classes`) and none is left out. Each chosen
feature is set beside the random ones of its layer whose frequency is nearest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from corrsteer.claims.reading import done_jobs, of_mean
from corrsteer.claims.record import Found, Table
from corrsteer.errors import DataError
from corrsteer.report.numbers import pct
from corrsteer.report.tables import read_features

NEAREST = 5
KINDS = ("semantic", "structural", "unclear")
WORD = "selector.classes=[structural,semantic,unclear]"


def shares(chosen: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """Rows ``chosen`` and ``random``, a column for each of ``KINDS``: shares of the features, and
    mean shares of the ``NEAREST`` of ``drawn`` by log frequency in the same layer. Raises DataError
    where a feature has no class: it would count as none of them."""
    for name, some in (("chosen", chosen), ("random", drawn)):
        without = int((~some["class"].isin(KINDS)).sum())
        if without:
            raise DataError(
                f"{without} of {len(some)} {name} features have no class: run it with {WORD}"
            )
    own = [float((chosen["class"] == kind).mean()) for kind in KINDS]
    matched = []
    for row in chosen.itertuples():
        same = drawn[(drawn["layer"] == row.layer) & (drawn["feature"] != row.feature)]
        if len(same):
            distance = np.abs(np.log(same["freq"]) - np.log(row.freq))
            near = same.loc[distance.sort_values(kind="stable").index[:NEAREST], "class"]
            matched.append([float((near == kind).mean()) for kind in KINDS])
    if not matched:
        raise ValueError("no random feature in the layers of the chosen ones")
    return pd.DataFrame(
        [own, np.mean(matched, axis=0)], index=["chosen", "random"], columns=list(KINDS)
    )


def read(folder: Path) -> dict[str, Found]:
    _, results = done_jobs(folder)
    jobs: dict[str, dict[str, int]] = {}
    for job, record in results.items():
        kind = "drawn" if record.score == "random number" else "chosen"
        jobs.setdefault(record.task, {})[kind] = job
    rows, differences = [], []
    for task, some in jobs.items():
        if len(some) < 2:
            continue
        chosen = read_features(folder / str(some["chosen"]))
        chosen = chosen[chosen["chosen"]]
        drawn = read_features(folder / str(some["drawn"]))
        table = shares(chosen, drawn[drawn["freq"] > 0])
        differences.append(float(table.loc["chosen", "semantic"] - table.loc["random", "semantic"]))
        cells = [f"{pct(table.loc['chosen', k])} ({pct(table.loc['random', k])})" for k in KINDS]
        rows.append([task, str(len(chosen)), *cells])
    if not rows:
        raise DataError(f"no task of {folder} has both selectors: type its command again")
    columns = ["Task", "Chosen features", *(f"{kind} (random)" for kind in KINDS)]
    found = of_mean(
        f"semantic share of chosen minus random features, mean over {len(rows)} tasks",
        differences,
        "points",
        f"Classes of chosen and, in brackets, of random features on {len(rows)} tasks.",
        Table(columns=columns, rows=rows),
    )
    return {"concepts": found}
