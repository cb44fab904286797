"""The report of a run: one self-contained HTML page.

Reads the run's folder and nothing else, so it can be written again at any time; needs no torch.
Costs about 0.4 s and 5 MB (plotly.js is embedded, since a page must open without network);
``metrics.json`` holds the same numbers for next to nothing.

What a page shows of prompts, answers, tokens and descriptions is data from outside: the templates
escape all of it, embedded JSON is escaped for ``<script>``, and the page's own policy forbids every
connection and every script but the page's own. What is null or absent in ``metrics.json`` was not
measured, and has no section.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from corrsteer.errors import DataError
from corrsteer.records import RIGHT
from corrsteer.report import figures
from corrsteer.report.examples import KINDS, examples
from corrsteer.report.pages import cut, layer_text, short, write_page
from corrsteer.report.tables import arm_rows, read_json, records, transfer_row
from corrsteer.stats.flips import STATES, flip_table


def write_run_report(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a finished run and return its path.

    Raises :class:`DataError` when the folder has no ``metrics.json``.
    """
    if not (folder / "metrics.json").exists():
        raise DataError(
            f"no finished run in {folder}: it has no metrics.json; give the folder of a run whose "
            "status.json says done"
        )
    metrics = read_json(folder / "metrics.json")
    features = pd.read_csv(folder / "features.csv")
    answers = pd.read_parquet(
        folder / "answers.parquet",
        columns=["id", "split", "arm", "prompt", "answer", "gold", "score", "invalid"],
        filters=[
            ("arm", "in", ["baseline", "steered"]),
            ("split", "in", ["selection", "test", "unrelated"]),
        ],
    )
    selection = answers[answers["split"] == "selection"]
    test = answers[answers["split"] == "test"]
    baseline, steered = (test[test["arm"] == arm] for arm in ("baseline", "steered"))
    listed, totals = examples(answers)
    arms = arm_rows(metrics["arms"])
    page = {
        "metrics": metrics,
        "status": read_json(folder / "status.json"),
        "plan": read_json(folder / "plan" / "plan.json"),
        "config": (folder / "config.yaml").read_text(encoding="utf-8"),
        "arms": arms,
        "task_metrics": _task_metrics(metrics["task_metrics"], arms),
        "best": features[features["rank"] == 1].to_dict("records"),
        "ablations": _ablations(folder / "ablations.csv"),
        "cards": _cards(features, read_json(folder / "contexts.json")),
        "states": STATES,
        "transitions": _transitions(flip_table(baseline, steered).counts),
        "search": _search(folder, metrics),
        "selection_right": int((selection["score"] >= RIGHT).sum()),
        "examples": listed,
        "filters": _filters(listed, totals),
        "changes": metrics.get("changes"),
        "ratios": _ratios(metrics),
        "effects": _side_effects(metrics.get("side_effects") or {}),
        "transfer": _transfer(metrics),
        "resamples": (metrics.get("stability") or {}).get("resamples"),
        "figures": {
            "arms": figures.arms(arms, metrics["chance"]),
            "correlation": figures.correlation(features) if len(features) else None,
        },
    }
    return write_page(folder / "report.html", "run.html.j2", page)


def _filters(
    listed: Sequence[Mapping[str, str]], totals: Mapping[str, int]
) -> list[tuple[str, str, int, int]]:
    """The filters of the examples: value, label, how many are listed, how many there are."""
    found = {kind: sum(e["kind"] == kind for e in listed) for kind in totals}
    filters = [("", "all listed", len(listed), len(listed))]
    filters += [(kind, KINDS[kind], found[kind], total) for kind, total in totals.items() if total]
    invalid = sum("invalid" in (e["from"], e["to"]) for e in listed)
    if invalid:
        filters.insert(3, ("invalid", "from or to invalid", invalid, invalid))
    return filters


_RATIOS = {
    "flips": ("broken / (fixed + broken)", "CorrSteer; called SER everywhere else on this page"),
    "changed": ("broken / changed answers", "CorrSteer's wording, “of all changed answers”"),
    "right": ("broken / answers that were right", "share of what worked that is lost"),
    "negative_flip_rate": ("broken / all answers", "negative flip rate, Yan et al. 2021"),
    "relative_negative_flip_rate": (
        "(broken / all answers) / (accuracy before × error after)",
        "relative negative flip rate, Yan et al. 2021",
    ),
    "off_target": (
        "(changed / unrelated prompts) / (fixed / test questions)",
        "off-target: unrelated answers changed per answer fixed",
    ),
}
"""The published side effect ratios: how each is computed, and whose it is."""


def _ratios(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    values = metrics.get("ser") or {}
    measured = (metrics.get("side_effects") or {}).get("off_target")
    return [
        {"name": name, "formula": formula, "source": source, "value": values[name]}
        for name, (formula, source) in _RATIOS.items()
        if name in values and (name != "off_target" or measured)
    ]


def _side_effects(measured: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was measured beside the test answers, each part with its rows and figures."""
    parts: dict[str, Any] = dict.fromkeys(("off_target", "neutral", "text", "activity"))
    read = {"test questions": measured.get("text")}
    if off := measured.get("off_target"):
        read["unrelated prompts"] = off["text"]
        rows = [{**row, "n": off["n"]} for row in arm_rows(off["arms"])]
        parts["off_target"] = {**off, "rows": rows, "figure": figures.off_target(rows)}
    if neutral := measured.get("neutral"):
        rows = arm_rows(neutral["arms"])
        parts["neutral"] = {**neutral, "rows": rows, "figure": figures.neutral(rows)}
    parts["text"] = [(to, arm_rows(text["arms"])) for to, text in read.items() if text]
    if activity := measured.get("activity"):
        drawn = figures.activity(activity["layers"])
        parts["activity"] = {**activity, "figures": drawn}
    return parts if any(parts.values()) else None


def _transfer(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    tested = metrics.get("transfer") or {}
    if not tested:
        return None
    rows = [transfer_row(task, values) for task, values in tested.items()]
    for row in rows:
        row["own"] = row["task"] == metrics["task"]
        row["task"] = cut(row["task"], 60)
    return {"rows": rows, "figure": figures.transfer(rows)}


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
        rows = records(table[table["kind"] == kind])
        if rows:
            whole = float(table.loc[table["arm"] == "steered", "gain"].iloc[0])
            part = {"kind": kind, "title": title, "rows": rows, "whole": whole}
            part["by_layer"] = kind in ("alone", "left_out")
            parts.append({**part, "figure": figures.ablation(rows, whole)})
    return parts


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
        for name, most in (("class", 40), ("class_why", 400), ("description", 400)):
            text = shown.get(name)
            card[name] = cut(text, most) if text else None
        card["class_by"] = shown.get("class_by")
        link = shown.get("neuronpedia") or ""
        card["neuronpedia"] = link if link.startswith("https://") else None
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
