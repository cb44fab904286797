"""Reports: one self-contained HTML page per run, one page and one table per sweep.

Reads run folders and nothing else, so it can be run again at any time; needs no torch. A run
report costs about 0.3 s and 5 MB (plotly.js is embedded, since a page must open without network);
``metrics.json`` and ``summary.csv`` hold the same numbers for next to nothing.

What a page shows of prompts, answers and tokens is data from outside: the templates escape all of
it, embedded JSON is escaped for ``<script>``, and the page's own policy forbids every connection.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from corrsteer.errors import DataError
from corrsteer.records import RIGHT
from corrsteer.runfolder import RunFolder
from corrsteer.stages import figures
from corrsteer.stages.pages import (
    NBSP,
    layer_text,
    p_value,
    pct,
    points,
    short,
    visible,
    write_page,
)
from corrsteer.stats.flips import STATES, flip_table, state
from corrsteer.stats.intervals import holm

SETTINGS = ("task", "model", "variant", "layers", "seed", "token_source", "pooling", "coef")
QUESTION = ("task", "model", "seed", "question")
"""Jobs that share these answer the same question; their validation accuracies are comparable."""


def write_run_report(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a finished run and return its path.

    Raises :class:`DataError` when the folder has no ``metrics.json``.
    """
    if not (folder / "metrics.json").exists():
        raise DataError(
            f"no finished run in {folder}: it has no metrics.json; give the folder of a run whose "
            "status.json says done"
        )
    metrics = _json(folder / "metrics.json")
    features = pd.read_csv(folder / "features.csv")
    answers = pd.read_parquet(
        folder / "answers.parquet",
        columns=["id", "split", "arm", "prompt", "answer", "gold", "score", "invalid"],
        filters=[("arm", "in", ["baseline", "steered"])],
    )
    selection = answers[answers["split"] == "selection"]
    test = answers[answers["split"] == "test"]
    baseline, steered = (test[test["arm"] == arm] for arm in ("baseline", "steered"))
    flips = flipped_answers(baseline, steered)
    arms = _arms(metrics["arms"])
    page = {
        "metrics": metrics,
        "status": _json(folder / "status.json"),
        "plan": _json(folder / "plan" / "plan.json"),
        "config": (folder / "config.yaml").read_text(encoding="utf-8"),
        "arms": arms,
        "task_metrics": _task_metrics(metrics["task_metrics"], arms),
        "best": features[features["rank"] == 1].to_dict("records"),
        "ablations": _ablations(folder / "ablations.csv"),
        "cards": _cards(features, _json(folder / "contexts.json")),
        "states": STATES,
        "transitions": _transitions(flip_table(baseline, steered).counts),
        "search": _search(folder, metrics),
        "selection_right": int((selection["score"] >= RIGHT).sum()),
        "flips": flips,
        "kinds": _kinds(flips),
        "figures": {
            "arms": figures.arms(arms, metrics["chance"]),
            "correlation": figures.correlation(features) if len(features) else None,
        },
    }
    return write_page(folder / "report.html", "run.html.j2", page)


def write_sweep_report(folder: Path) -> Path:
    """Write ``summary.csv`` and ``report.html`` over the jobs ``folder/<n>/``; return the page.

    Missing, running and failed jobs are listed as such. Raises :class:`DataError` when the folder
    has no job at all.
    """
    table = sweep_table(folder)
    table.to_csv(folder / "summary.csv", index=False)
    done = table[table["state"] == "done"]
    varied = [name for name in SETTINGS if done[name].nunique(dropna=False) > 1]
    curves = [name for name in varied if name not in (*QUESTION, "coef")]
    groups = []
    for key, jobs in done.groupby(list(QUESTION), sort=False):
        jobs = jobs.assign(
            arms=[_json(folder / str(n) / "metrics.json")["arms"] for n in jobs["job"]]
        )
        series = _series(jobs, curves)
        swept = jobs["coef"].nunique() > 1
        names = [
            f"{name} {value}" for name, value in zip(QUESTION, key, strict=True) if name in varied
        ]
        groups.append(
            {
                "name": ", ".join(names),
                "verdict": _sweep_verdict(best_by_validation(jobs)),
                "curves": [
                    (symbol, ", ".join(f"{n} {jobs[0][n]}" for n in curves))
                    for symbol, jobs in zip(
                        list(figures.SYMBOLS.values()) * 100, series, strict=False
                    )
                ],
                "constrained": bool(jobs["constrained"].notna().any()),
                "undefined": [job["coef"] for jobs in series for job in jobs if job["ser"] is None],
                "accuracy": figures.accuracy_by_coef(series) if swept else None,
                "ser": figures.ser_by_coef(series) if swept else None,
            }
        )
    named = {word.lstrip("+").split("=")[0] for text in table["overrides"] for word in text.split()}
    page = {
        "name": folder.resolve().name,
        "jobs": _records(table),
        "same": {name: done[name].iloc[0] for name in SETTINGS if len(done) and name not in varied},
        "varied": [name for name in varied if name not in named],
        "overridden": bool(named),
        "links": {n for n in table["job"] if (folder / str(n) / "report.html").exists()},
        "groups": groups,
        "counts": table["state"].value_counts().to_dict(),
    }
    return write_page(folder / "report.html", "sweep.html.j2", page)


def sweep_table(folder: Path) -> pd.DataFrame:
    """One row per job of a sweep, in job order; also what ``summary.csv`` holds.

    ``state`` is that of the job's ``status.json``, "missing" for a job without a folder or status,
    "unreadable" for one whose files are incomplete. Accuracies and gains are shares of 1 and absent
    for jobs that are not done. ``chosen`` marks, among jobs that answer the same question (task,
    model, seed, rows, prompts, scorer), the one of :func:`best_by_validation`. ``p_holm`` is
    McNemar's p, corrected for the number of done jobs. ``overrides`` are those the jobs do not
    share. Raises :class:`DataError` without any job.
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
    table = table.astype(dict.fromkeys(("seed", "fixed", "broken"), "Int64"))
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


# -- reading run folders -----------------------------------------------------------------------


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


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
            metrics = _json(home / "metrics.json")
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


_RESULTS = {
    "validation_baseline": lambda m: m["validation"]["baseline"]["accuracy"],
    "validation_steered": lambda m: m["validation"]["steered"]["accuracy"],
    "baseline": lambda m: m["arms"]["baseline"]["accuracy"],
    "steered": lambda m: m["arms"]["steered"]["accuracy"],
    "gain": lambda m: m["gain"],
    "gain_low": lambda m: m["gain_ci"][0],
    "gain_high": lambda m: m["gain_ci"][1],
    "fixed": lambda m: m["flips"]["fixed"],
    "broken": lambda m: m["flips"]["broken"],
    "ser": lambda m: m["flips"]["ser"],
    "mcnemar_p": lambda m: m["flips"]["mcnemar_p"],
    "random_gain_max": lambda m: max(m["controls"]["random"]["gains"]),
    "constrained": lambda m: m["arms"].get("constrained", {"accuracy": None})["accuracy"],
}


def flipped_answers(baseline: pd.DataFrame, steered: pd.DataFrame) -> list[dict[str, str]]:
    """Every answer whose outcome changed, fixed ones first, with both answers as text."""
    after = steered[["id", "answer", "score", "invalid"]]
    both = baseline.merge(after, on="id", suffixes=("", "_after"))
    flips = []
    for row in both.itertuples():
        was, is_now = state(row.score, row.invalid), state(row.score_after, row.invalid_after)
        if (was == "right") != (is_now == "right"):
            texts = {
                "id": str(row.id),
                "prompt": row.prompt,
                "baseline": row.answer,
                "steered": row.answer_after,
                "gold": row.gold,
            }
            flip = {"kind": "broken" if was == "right" else "fixed", "from": was, "to": is_now}
            flips.append(flip | {name: visible(text) for name, text in texts.items()})
    return sorted(flips, key=lambda flip: flip["kind"], reverse=True)


_ABLATIONS = {
    "alone": "Each layer alone",
    "left_out": "Each layer left out",
    "by_depth": "Layers added from the first to the last",
    "by_r": "Layers added from the highest correlation to the lowest",
}


def _ablations(file: Path) -> list[dict[str, Any]] | None:
    """One part per kind; empty for a plan with nothing to compare, None where none was asked."""
    if not file.exists():
        return None
    table = pd.read_csv(file, dtype={"layer": "Int64", "layers": "string"})
    parts = []
    for kind, title in _ABLATIONS.items():
        rows = _records(table[table["kind"] == kind])
        if rows:
            whole = float(table.loc[table["arm"] == "steered", "gain"].iloc[0])
            part = {"kind": kind, "title": title, "rows": rows, "whole": whole}
            part["by_layer"] = kind in ("alone", "left_out")
            parts.append({**part, "figure": figures.ablation(rows, whole)})
    return parts


def _kinds(flips: Sequence[Mapping[str, str]]) -> list[tuple[str, str, int]]:
    """The filters of the list: value, label, count; one for invalid answers if there are any."""
    count = {kind: sum(f["kind"] == kind for f in flips) for kind in ("fixed", "broken")}
    kinds = [("", "all", len(flips)), *((k, k, n) for k, n in count.items())]
    invalid = sum("invalid" in (f["from"], f["to"]) for f in flips)
    return [*kinds, ("invalid", "from or to invalid", invalid)] if invalid else kinds


def _transitions(table: Sequence[Sequence[int]]) -> list[tuple[str, list[tuple[int, str]]]]:
    """The 3x3 flip table with what each cell means: fixed, broken or nothing."""

    def kind(before: str, after: str) -> str:
        if (before == "right") == (after == "right"):
            return ""
        return "fixed" if after == "right" else "broken"

    return [
        (before, [(count, kind(before, after)) for after, count in zip(STATES, row, strict=True)])
        for before, row in zip(STATES, table, strict=True)
    ]


_LABELS = {
    "baseline": "Baseline",
    "steered": "Steered",
    "constrained": "Constrained",
    "instruction": "Instruction",
    "flipped": "Sign flipped",
    "layers": "Other layers",
    "shuffled": "Shuffled outcomes",
    "direction": "Random direction",
    "random": "Random feature",
}
"""The arms of a run, in the order they are shown."""


def _arms(arms: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for kind, label in _LABELS.items():
        names = [name for name in arms if name.rstrip("0123456789").rstrip("_") == kind]
        for n, name in enumerate(names, start=1):
            number = f" {n}" if len(names) > 1 else ""
            rows.append({**arms[name], "name": name, "kind": kind, "label": label + number})
    return rows


def _task_metrics(
    found: Mapping[str, Mapping[str, float]], arms: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """A row per arm and a column per number that the benchmark itself reports; None without any."""
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    if not names:
        return None
    rows = [(a["label"], [found[a["name"]].get(name) for name in names]) for a in arms]
    return {"names": [name.replace("_", " ") for name in names], "rows": rows}


def _search(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The front of a search with the candidates it began with, and its figure; None without one."""
    if "search" not in metrics:
        return None
    search = metrics["search"]
    begun = {search["unsteered"]["number"]: "unsteered"}
    begun |= {t["number"]: "plain plan" for t in search["plain"]}
    rows = {t["number"]: t for t in (*search["front"], search["unsteered"], *search["plain"])}
    table = [
        {
            **t,
            "layers": _factors(t),
            "reading": ", ".join(
                word
                for word, said in (
                    (begun.get(t["number"], ""), t["number"] in begun),
                    ("on the front", t["on_front"]),
                    ("chosen", t["chosen"]),
                )
                if said
            ),
        }
        for t in sorted(rows.values(), key=lambda t: (-t["accuracy"], t["broken"], t["number"]))
    ]
    trials = pd.read_csv(folder / "trials.csv")
    return {"rows": table, "figure": figures.pareto(trials, list(begun))}


def _factors(trial: Mapping[str, Any]) -> str:
    """{"layer_0": 0.5, "layer_1": 0, "layer_2": 1} -> "0: 0.5, 2: 1"; "0, 2" where all are 1."""
    factors = {int(k.split("_")[1]): f for k, f in trial.items() if k.startswith("layer_") and f}
    if not factors:
        return "none"
    if set(factors.values()) == {1}:
        return layer_text(list(factors))
    return ", ".join(f"{layer}: {short(factor)}" for layer, factor in factors.items())


def _cards(features: pd.DataFrame, contexts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The plan's features with their passages; a token's level is a share of the card's maximum."""
    found = {(c["layer"], c["feature"]): c for c in contexts}
    cards = features[features["chosen"]].sort_values(["layer", "rank"]).to_dict("records")
    for card in cards:
        shown = found.get((card["layer"], card["feature"]), {})
        passages = shown.get("contexts", [])
        card["promotes"], card["suppresses"] = (
            [text.replace("\n", "↵") for text in shown.get(name, [])]
            for name in ("promotes", "suppresses")
        )
        top = max((a for p in passages for a in p["activations"]), default=0)
        card["contexts"] = [
            {
                **passage,
                "tokens": [
                    {
                        "text": text.replace("\n", "↵"),
                        "activation": activation,
                        "level": round(activation / top, 2) if activation > 0 else 0,
                        "peak": position == passage["peak"],
                    }
                    for position, (text, activation) in enumerate(
                        zip(passage["tokens"], passage["activations"], strict=True)
                    )
                ],
            }
            for passage in passages
        ]
    return cards


# -- the sweep ---------------------------------------------------------------------------------


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain dicts with None for what is absent."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _series(jobs: pd.DataFrame, curves: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Jobs sorted by coef, one list per combination of the settings in ``curves``."""
    parts = [part for _, part in jobs.groupby(list(curves), sort=False)] if curves else [jobs]
    return [_records(part.sort_values("coef")) for part in parts]


def _sweep_verdict(best: pd.Series) -> list[str]:
    """What the validation split chose and what the test split says about it."""
    better = best["validation_steered"] > best["validation_baseline"]
    constrained = best["arms"].get("constrained")
    draws = [a["accuracy"] for name, a in best["arms"].items() if name.startswith("random")]
    as_well = sum(accuracy >= best["steered"] for accuracy in draws)
    sentences = [
        f"Validation chooses coef {short(best['coef'])} (job {best['job']}): steered accuracy "
        f"{pct(best['validation_steered'])}, baseline {pct(best['validation_baseline'])}."
        + ("" if better else " That is not above the baseline: nothing here speaks for steering."),
        f"On test it gives {pct(best['steered'])}, unsteered {pct(best['baseline'])}: "
        f"{points(best['gain'])} points (95{NBSP}% interval {points(best['gain_low'])} to "
        f"{points(best['gain_high'])}), exact McNemar {p_value(best['mcnemar_p'])}.",
        f"{as_well} of {len(draws)} random draws {'does' if as_well == 1 else 'do'} at "
        f"least as well; the best reaches {pct(max(draws))}.",
    ]
    if constrained:
        enough = "at least as well" if constrained["accuracy"] >= best["steered"] else "less well"
        sentences.append(
            f"Constrained decoding without steering does {enough}: {pct(constrained['accuracy'])}."
        )
    return sentences
