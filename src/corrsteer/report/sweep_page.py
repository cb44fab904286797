"""The report of a sweep: a page, a table of its jobs, and its verdicts for a README.

Reads the folders of the jobs and nothing else; needs no torch. Costs about 0.1 s per question and
5 MB (plotly.js is embedded).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from corrsteer.report import sweep_figures
from corrsteer.report.pages import (
    cut,
    interval,
    p_value,
    pct,
    plain,
    points,
    ratio,
    short,
    visible,
    whole,
    write_page,
)
from corrsteer.report.sweep_table import QUESTION, SETTINGS, best_by_validation, sweep_table
from corrsteer.report.tables import CONTROLS, read_json, records, transfer_row
from corrsteer.stats.intervals import SIGNIFICANT, holm
from corrsteer.stats.seeds import SMALLEST_P, gain_by_sample, over_seeds


def write_sweep_report(folder: Path) -> Path:
    """Write ``summary.csv``, ``verdict.md`` and ``report.html`` over the jobs ``folder/<n>/``;
    return the page.

    Missing, running and failed jobs are listed as such. Raises :class:`DataError` when the folder
    has no job at all.
    """
    table = sweep_table(folder)
    table.to_csv(folder / "summary.csv", index=False)
    done = table[table["state"] == "done"]
    metrics = {n: read_json(folder / str(n) / "metrics.json") for n in done["job"]}
    varied = [name for name in SETTINGS if done[name].nunique(dropna=False) > 1]
    curves = [name for name in varied if name not in (*QUESTION, "coef")]
    groups = [
        _question(jobs, metrics, curves, name) for name, jobs in _questions(done, varied).items()
    ]
    verdicts = [group["verdict"] for group in groups]
    kinds = [kind for kind in CONTROLS if any(kind in v["controls"] for v in verdicts)]
    (folder / "verdict.md").write_text(_markdown(verdicts, kinds), encoding="utf-8")
    named = {word.lstrip("+").split("=")[0] for text in table["overrides"] for word in text.split()}
    page = {
        "name": folder.resolve().name,
        "jobs": records(table),
        "jobs_data": {
            "columns": list(table.columns),
            "rows": [[plain(value) for value in row] for row in table.astype(object).to_numpy()],
        },
        "same": {name: done[name].iloc[0] for name in SETTINGS if len(done) and name not in varied},
        "varied": [name for name in varied if name not in named],
        "overridden": bool(named),
        "links": {n for n in table["job"] if (folder / str(n) / "report.html").exists()},
        "groups": groups,
        "verdicts": verdicts,
        "controls": {kind: CONTROLS[kind] for kind in kinds},
        "bands": [(kind, name) for kind, name in sweep_figures.BANDS.items() if kind in kinds],
        "transfer": _transfer(groups, metrics),
        "seeds": _seeds(folder, done, metrics),
        "counts": table["state"].value_counts().to_dict(),
    }
    return write_page(folder / "report.html", "sweep.html.j2", page)


def _questions(done: pd.DataFrame, varied: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The jobs of each question by its name: what sets it apart from the sweep's others."""
    named: dict[str, pd.DataFrame] = {}
    for key, jobs in done.groupby(list(QUESTION), sort=False):
        settings = dict(zip(QUESTION, key, strict=True))
        words = [_said(name, settings[name]) for name in QUESTION if name in varied]
        name = cut(", ".join(words) or str(settings["task"]), 60)
        if name in named:
            name += f" ({len(named) + 1})"
        named[name] = jobs
    return named


def _said(name: str, value: Any) -> str:
    return f"{name} {value}" if name in ("seed", "coef", "layers") else str(value)


# -- a question --------------------------------------------------------------------------------


def _question(
    jobs: pd.DataFrame, metrics: Mapping[int, Any], curves: Sequence[str], name: str
) -> dict[str, Any]:
    series = _series(jobs, metrics, curves)
    swept = jobs["coef"].nunique() > 1
    every = [job for same in series for job in same]
    best = best_by_validation(jobs)
    assert best is not None  # a done job has a validation accuracy
    (chosen,) = (job for job in every if job["job"] == best["job"])
    return {
        "name": name,
        "verdict": _verdict(name, chosen, len(metrics)),
        "curves": [
            (symbol, same[0]["series"])
            for symbol, same in zip(
                list(sweep_figures.SYMBOLS.values()) * 100, series, strict=False
            )
        ],
        "constrained": any("constrained" in job["arms"] for job in every),
        "undefined": [job["coef"] for job in every if job["ser"] is None],
        "accuracy": sweep_figures.accuracy_by_coef(series) if swept else None,
        "ser": sweep_figures.ser_by_coef(series) if swept else None,
        "plane": sweep_figures.ser_plane(series),
    }


def _series(
    jobs: pd.DataFrame, metrics: Mapping[int, Any], curves: Sequence[str]
) -> list[list[dict[str, Any]]]:
    """Jobs sorted by coef, one list per combination of the settings in ``curves``."""
    parts = [part for _, part in jobs.groupby(list(curves), sort=False)] if curves else [jobs]
    return [
        [
            {
                **job,
                "arms": metrics[job["job"]]["arms"],
                "controls": metrics[job["job"]]["controls"],
                "series": ", ".join(f"{name} {job[name]}" for name in curves),
            }
            for job in records(part.sort_values("coef"))
        ]
        for part in parts
    ]


def _verdict(name: str, job: Mapping[str, Any], n_jobs: int) -> dict[str, Any]:
    """What the validation split chose, and what the test split and the controls say about it."""
    best = {kind: max(c["gains"]) for kind, c in _ordered(job["controls"]).items()}
    unbeaten = [CONTROLS[k] for k, c in _ordered(job["controls"]).items() if not c["beats_all"]]
    detected = job["p_holm"] < SIGNIFICANT
    ends = interval([job["gain_low"], job["gain_high"]])
    moved = f"from {pct(job['baseline'])} to {pct(job['steered'])}"
    if detected:
        verb = "raises" if job["gain"] > 0 else "lowers"
        size = points(abs(job["gain"])).lstrip("+")
        effect = f"{verb} accuracy by {size} points {ends}"
    else:
        effect = f"does not detectably change accuracy: {points(job['gain'])} points {ends}"
    test = p_value(job["p_holm"]) + (f", corrected for {n_jobs} jobs" if n_jobs > 1 else "")
    changes = ", ".join(f"{CONTROLS[kind]} {points(gain)}" for kind, gain in best.items())
    beats = f"no ({', '.join(unbeaten)})" if unbeaten else "yes"
    reason = "" if detected else "not significant"
    if detected and job["gain"] < 0:
        reason = "lowers accuracy"
    return {
        **job,
        "name": name,
        "controls": best,
        "unbeaten": unbeaten,
        "helps": not reason and not unbeaten,
        "why": ", ".join(part for part in (reason, _named(unbeaten)) if part),
        "sentences": [
            f"Steering at coef {short(job['coef'])} {effect}, {moved} ({test}).",
            f"Best gain of each control: {changes}. Beats every control: {beats}.",
        ],
        "details": [_choice(job), _price(job)],
    }


def _named(unbeaten: Sequence[str]) -> str:
    if not unbeaten:
        return ""
    return f"{' and '.join(unbeaten) if len(unbeaten) < 3 else f'{len(unbeaten)} controls'} as good"


def _ordered(controls: Mapping[str, Any]) -> dict[str, Any]:
    return {kind: controls[kind] for kind in CONTROLS if kind in controls}


def _choice(job: Mapping[str, Any]) -> str:
    better = job["validation_steered"] > job["validation_baseline"]
    return (
        f"Validation chooses coef {short(job['coef'])} (job {job['job']}): steered accuracy "
        f"{pct(job['validation_steered'])}, baseline {pct(job['validation_baseline'])}."
    ) + ("" if better else " That is not above the baseline: nothing here speaks for steering.")


def _price(job: Mapping[str, Any]) -> str:
    flips = f"On test it fixes {whole(job['fixed'])} answers and breaks {whole(job['broken'])}"
    share = "SER undefined" if job["ser"] is None else f"SER {ratio(job['ser'])}"
    sentence = f"{flips}: {share}, exact McNemar {p_value(job['mcnemar_p'])}."
    if job["off_target_rate"] is not None:
        sentence += f" It changes {1000 * job['off_target_rate']:.0f} of 1,000 unrelated answers"
        per = job["off_target_ser"]
        sentence += "." if per is None else f", {ratio(per)} per answer fixed."
    if job["kl"] is not None:
        sentence += f" KL on neutral text: {short(job['kl'])} nats per token."
    return sentence


def _markdown(verdicts: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> str:
    """The verdicts as a table in GitHub's markdown."""
    titles = ["Question", "Beats all", "coef", "Unsteered", "Steered", "Gain [95 %]", "p (Holm)"]
    titles += ["Fixed", "Broken", "SER", *(CONTROLS[kind].capitalize() for kind in kinds)]
    lines = ["| " + " | ".join(titles) + " |", "|---|---|" + "---:|" * (len(titles) - 2)]
    for v in verdicts:
        cells = [_escaped(v["name"]), "**yes**" if v["helps"] else f"no: {v['why']}"]
        cells += [short(v["coef"]), pct(v["baseline"]), pct(v["steered"])]
        cells += [f"{points(v['gain'])} {interval([v['gain_low'], v['gain_high']])}"]
        cells += [p_value(v["p_holm"])[4:], whole(v["fixed"]), whole(v["broken"]), ratio(v["ser"])]
        for kind in kinds:
            gain = points(v["controls"].get(kind))
            cells.append(f"**{gain}**" if CONTROLS[kind] in v["unbeaten"] else gain)
        lines.append("| " + " | ".join(cells) + " |")
    note = (
        "Gains are points over the unsteered model; of a control, its best draw's, bold where "
        f"steering does not beat it. Beats all: raises accuracy (p below {SIGNIFICANT}, McNemar, "
        "corrected for the number of jobs) by more than every control."
    )
    return "\n".join([*lines, "", note, ""])


def _escaped(text: str) -> str:
    """Text from outside in a cell of a markdown table."""
    text = " ".join(visible(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)


# -- transfer ----------------------------------------------------------------------------------


def _transfer(
    groups: Sequence[Mapping[str, Any]], metrics: Mapping[int, Any]
) -> dict[str, Any] | None:
    """The matrix of the chosen jobs: features chosen on one task, asked another's questions."""
    asked = [g["verdict"] for g in groups if metrics[g["verdict"]["job"]].get("transfer")]
    if not asked:
        return None
    tested = [_tested(metrics[v["job"]]) for v in asked]
    own = [metrics[v["job"]]["task"] for v in asked]
    columns = list(dict.fromkeys([*own, *(task for row in tested for task in row)]))
    rows = []
    for i, (v, row) in enumerate(zip(asked, tested, strict=True)):
        for j, task in enumerate(columns):
            if task in row:
                cell = transfer_row(cut(task, 60), row[task])
                place = {"i": i, "j": j, "selected_on": v["name"], "own": task == own[i]}
                rows.append({**place, **cell})
    for row, p in zip(rows, holm([row["mcnemar_p"] for row in rows]), strict=True):
        row |= {"p_holm": p, "significant": p < SIGNIFICANT}
    shown = {(row["i"], row["j"]): _flat(row) for row in rows}
    names = [v["name"] for v in asked]
    figure = sweep_figures.transfer_map(names, columns, shown)
    return {"rows": rows, "columns": len(columns), "figure": figure}


def _tested(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the plan did on every task, its own among them."""
    own = {
        "n": metrics["flips"]["n"],
        "arms": metrics["arms"],
        "gain": metrics["gain"],
        "gain_ci": metrics["gain_ci"],
        "flips": metrics["flips"],
        "random_gains": metrics["controls"]["random"]["gains"],
    }
    return {metrics["task"]: own, **metrics["transfer"]}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A cell with the numbers of the downloaded table, and those that only the figure needs."""
    names = ["selected_on", "task", "n", "baseline", "steered", "gain", "fixed", "broken"]
    names += ["ser", "mcnemar_p", "p_holm", "significant", "best_random", "own"]
    low, high = row["gain_ci"]
    return {name: row[name] for name in names} | {"gain_low": low, "gain_high": high}


# -- seeds -------------------------------------------------------------------------------------


def _seeds(folder: Path, done: pd.DataFrame, metrics: Mapping[int, Any]) -> list[dict[str, Any]]:
    """One part per group of jobs that differ in nothing but seed and dial, with several seeds."""
    alike = [name for name in (*SETTINGS, "question") if name not in ("seed", "coef")]
    compared = re.compile(rf"\+*({'|'.join(SETTINGS)})=")
    rest = done["overrides"].map(
        lambda text: " ".join(word for word in text.split() if not compared.match(word))
    )
    varied = [name for name in alike if done[name].nunique() > 1 and name != "question"]
    parts = []
    for _, jobs in done.assign(rest=rest).groupby([*alike, "rest"], sort=False):
        if jobs["seed"].nunique() < 2:
            continue
        dials = [_dial(same, metrics) for _, same in jobs.groupby("coef")]
        seeds = max(len(dial["seeds"]) for dial in dials)
        chosen = _best_dial([dial for dial in dials if len(dial["seeds"]) == seeds])
        chosen["chosen"] = True
        words = [_said(name, jobs[name].iloc[0]) for name in varied] + [jobs["rest"].iloc[0]]
        name = cut(", ".join(dict.fromkeys(w for w in words if w)), 80)
        parts.append(
            {
                "name": name,
                "dials": dials,
                "chosen": chosen,
                "n_seeds": seeds,
                "by_sample": (by_sample := _by_sample(folder, chosen)),
                "p": p_value(by_sample.p).replace("=", "<" if by_sample.p <= SMALLEST_P else "="),
                "figure": sweep_figures.gain_over_seeds(dials),
            }
        )
    return parts


def _dial(jobs: pd.DataFrame, metrics: Mapping[int, Any]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of one dial."""
    jobs = jobs.sort_values("seed").drop_duplicates("seed")
    draws: dict[str, list[float]] = {}
    for n in jobs["job"]:
        for kind, control in metrics[n]["controls"].items():
            draws.setdefault(kind, []).extend(control["gains"])
    dial = {
        "coef": float(jobs["coef"].iloc[0]),
        "jobs": jobs["job"].tolist(),
        "seeds": jobs["seed"].tolist(),
        "gains": jobs["gain"].tolist(),
        "draws": draws,
        "chosen": False,
    }
    for name in ("validation_steered", "baseline", "steered", "gain", "ser", "control_best"):
        values = [float(value) for value in jobs[name].dropna()]
        mean, spread = over_seeds(values) if values else (None, None)
        dial |= {f"{name}_mean": mean, f"{name}_sd": spread}
    return dial


def _best_dial(dials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The highest mean validation accuracy, ties to the smaller ``|coef|``."""
    return min(dials, key=lambda d: (-d["validation_steered_mean"], abs(d["coef"])))


def _by_sample(folder: Path, dial: Mapping[str, Any]) -> Any:
    pairs = []
    for n in dial["jobs"]:
        answers = pd.read_parquet(
            folder / str(n) / "answers.parquet",
            columns=["id", "arm", "score", "invalid"],
            filters=[("split", "==", "test"), ("arm", "in", ["baseline", "steered"])],
        )
        pairs.append(tuple(answers[answers["arm"] == arm] for arm in ("baseline", "steered")))
    return gain_by_sample(pairs, seed=0)
