"""How often is each thing said where there is nothing to say, and how often do intervals hold?

    python -m experiments.calibration.measure                    # the bundled model, ambiguous BBQ
    python -m experiments.calibration.measure task=mmlu coef=2   # any settings of a run

Answers the test split once without steering, under many plans of random features, and under plans
that a selection on shuffled outcomes chose, all at the norms of the plan of these settings; then
makes chains of them (:mod:`experiments.calibration.chains`). Answers are kept in the stage cache.
Leaves ``calibration.csv`` and ``calibration.html`` in ``outputs/calibration``, or in the folder
that is typed before the settings.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from hydra import compose, initialize_config_dir

from corrsteer import config
from corrsteer.records import RIGHT
from corrsteer.run.build import build
from corrsteer.stages.answers import answers
from corrsteer.stages.controls import controls
from corrsteer.stats.intervals import proportion_ci
from corrsteer.steering.arms import BASELINE, baseline
from corrsteer.steering.controls import DRAWS
from experiments.calibration.chains import (
    PROMISED,
    TABLE,
    Pool,
    chains,
    covered,
    false_tables,
    said,
)

CONF = Path(__file__).parents[2] / "conf"
RANDOM, CHOSEN = 180, 200
CHAINS, TABLES, SAMPLES = 1_000, 1_000, 2_000
PLANTED = (0.02, 0.05, 0.1)
SIZES = (30, 100, 300)
COLUMNS = ["data", "what", "count", "of", "rate", "low", "high", "promised"]


def pool(words: Sequence[str]) -> Pool:
    """Answers under the settings of a run."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        own = ["task=bbq", "side_effects=none", f"collect.shuffles={CHOSEN}"]
        cfg = compose("config", overrides=[*own, *words])
    config.check(cfg)
    parts = build(cfg)
    bench = parts.bench
    fitted = parts.method.fit(bench)
    assert fitted.plan is not None, "the method makes no plan"
    draws = dict.fromkeys(parts.controls, 0) | {"random": RANDOM, "shuffled": CHOSEN}
    arms = controls(bench, fitted.plan, fitted.observed.stats, draws)
    frames = answers(bench, bench.asking, "test", [baseline(), *arms])
    right = {name: (frame["score"] >= RIGHT).to_numpy(bool) for name, frame in frames.items()}
    kinds = {
        kind: np.stack([right[arm.name] for arm in arms if arm.kind == kind])
        for kind in ("random", "shuffled")
    }
    return Pool(right[BASELINE], kinds["random"], kinds["shuffled"])


def table(answered: Pool, n_chains: int, tables: int, samples: int) -> pd.DataFrame:
    """One row per thing that may be said, and per interval, with its 95 % interval and what was
    promised; empty where nothing was."""
    rng, rows = np.random.default_rng(0), []

    def add(data: str, what: str, count: int, of: int, promised: float | None) -> None:
        rows.append([data, what, count, of, count / of, *proportion_ci(count, of), promised])

    makers: dict[str, dict[str, Any]] = {
        "a random plan": {},
        "outcomes shuffled before selection": {"chosen": True},
    }
    makers |= {f"an effect of {100 * e:g} points planted": {"planted": e} for e in PLANTED}
    for data, how in makers.items():
        found = list(chains(answered, n_chains, DRAWS, rng, **how))
        for what, count in said(found).items():
            ours = what in ("raises", "beats all") and "planted" not in data
            add(data, what, count, len(found), PROMISED if ours else None)
    for data, chosen in (("random plans", False), ("plans of shuffled outcomes", True)):
        false = false_tables(answered, tables, rng, chosen=chosen)
        add(f"{TABLE} {data} in a table", "any raises", false, tables, PROMISED)
    for n in SIZES:
        for name, (count, of) in covered(answered, samples, n, rng).items():
            add(f"{n} questions", f"interval of {name} holds", count, of, 0.95)
    return pd.DataFrame(rows, columns=COLUMNS)


def figure(rows: pd.DataFrame) -> go.Figure:
    """Each rate with its interval, beside what was promised."""
    names = [f"{what} ({data})" for data, what in zip(rows["data"], rows["what"], strict=True)]
    over, under = rows["high"] - rows["rate"], rows["rate"] - rows["low"]
    error = {"type": "data", "symmetric": False, "array": 100 * over, "arrayminus": 100 * under}
    measured = go.Scatter(x=100 * rows["rate"], y=names, mode="markers", error_x=error)
    promised = go.Scatter(
        x=100 * rows["promised"], y=names, mode="markers", marker={"symbol": "line-ns-open"}
    )
    drawn = go.Figure([measured.update(name="measured"), promised.update(name="promised")])
    return drawn.update_layout(
        height=120 + 26 * len(names), yaxis={"autorange": "reversed", "automargin": True},
        xaxis={"title": "% of chains, or of intervals", "range": [-1, 101]},
    )  # fmt: skip


def main(words: Sequence[str] | None = None) -> pd.DataFrame:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("corrsteer").setLevel(logging.INFO)  # how far it is
    words = sys.argv[1:] if words is None else words
    folder = Path("outputs/calibration")
    if words and "=" not in words[0]:
        folder, words = Path(words[0]), words[1:]
    answered = pool(words)
    rows = table(answered, CHAINS, TABLES, SAMPLES)
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_csv(folder / "calibration.csv", index=False)
    figure(rows).write_html(folder / "calibration.html")
    print(rows.round(3).to_string(index=False))
    print(f"{folder}/calibration.csv, {folder}/calibration.html")
    return rows


if __name__ == "__main__":
    main()
