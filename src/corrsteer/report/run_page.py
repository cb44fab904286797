"""The report of a run: one self-contained HTML page.

Reads only the run's folder, so it can be written again at any time; needs no torch. Costs about
0.4 s and 5 MB (plotly.js is embedded, since a page must open without network); ``metrics.json``
holds the same numbers.

Prompts, answers, tokens and descriptions are data from outside: the templates escape all of it,
embedded JSON is escaped for ``<script>``, and the page's own policy forbids every connection and
every script but the page's own. What is null in the record was not measured, and has no section.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from corrsteer.records import RIGHT
from corrsteer.report import figures
from corrsteer.report.examples import CATEGORIES, Example, examples
from corrsteer.report.judgement import other_p
from corrsteer.report.notes import METRICS, end_of_search, notes
from corrsteer.report.numbers import layer_text, r_value, short
from corrsteer.report.pages import cut, write_page
from corrsteer.report.plots import Figure
from corrsteer.report.record import ArmSummary, Reading, Record, Trial, read_record
from corrsteer.report.settings import splits_seed
from corrsteer.report.tables import (
    ArmRow,
    TransferRow,
    arm_lines,
    arm_rows,
    by_kind,
    folded_label,
    ranked_by,
    read_answers,
    read_features,
    read_json,
    read_table,
    read_training,
    reading,
    records,
    span,
)
from corrsteer.stats.choice import RULE
from corrsteer.stats.flips import STATES, flip_table
from corrsteer.steering.arms import BASELINE, STEERED
from corrsteer.store.runfolder import RunFolder


def write_run_report(folder: Path) -> Path:
    """Write ``report.html`` to the folder of a finished run and return its path.

    Raises :class:`DataError` when the folder has no record that can be read, or lacks another file
    of a finished run.
    """
    record = read_record(folder)
    features = read_features(folder)
    by = ranked_by(features, record.score)
    plan = folder / "plan" / "plan.json"  # not every method makes one
    answers = read_answers(
        folder,
        ["id", "split", "arm", "prompt", "answer", "gold", "score", "invalid"],
        splits=["selection", "test", "unrelated"],
        arms=[BASELINE, STEERED],
    )
    selection = answers[answers["split"] == "selection"]
    test = answers[answers["split"] == "test"]
    baseline, steered = (test[test["arm"] == arm] for arm in (BASELINE, STEERED))
    listed, totals = examples(answers)
    arms = arm_rows(record.arms, _kinds(record))
    page = {
        "record": record,
        "status": RunFolder(folder).status(),
        "plan": read_json(plan) if plan.exists() else None,
        "config": _text(folder / "config.yaml"),
        "name": given_name(folder / "config.yaml"),
        "arms": arm_lines(record, arms, other_p([record])[0]),
        "notes": notes(record),
        "end_of_search": end_of_search(record),
        "splits_seed": splits_seed(folder),
        "task_metrics": _task_metrics(record.task_metrics, arms),
        "by": by,
        "best": features[features["rank"] == 1].to_dict("records"),
        "training": read_training(folder),
        "ablations": _ablations(folder / "ablations.csv"),
        "cards": _cards(features, _contexts(folder / "contexts.json")),
        "states": STATES,
        "transitions": _transitions(flip_table(baseline, steered).counts),
        "search": _search(folder, record),
        "selection_right": int((selection["score"] >= RIGHT).sum()),
        "examples": listed,
        "filters": _filters(listed, totals),
        "ratios": _ratios(record),
        "effects": _side_effects(record),
        "transfer": _transfer(record),
        "figures": {
            "arms": figures.arms(arms, record.chance),
            "correlation": figures.correlation(features, by.column) if len(features) else None,
        },
    }
    return write_page(folder / "report.html", "run.html.j2", page)


def _text(path: Path) -> str:
    with reading(path):
        return path.read_text(encoding="utf-8")


def _contexts(path: Path) -> list[dict[str, Any]]:
    """The cards of a run, as far as the page relies on their form."""
    cards: list[dict[str, Any]] = read_json(path, list)
    with reading(path):
        for card in cards:
            _ = card["layer"], card["feature"], card.get("class")
            for passage in card.get("contexts", []):
                _ = passage["peak"], max(passage["activations"], default=0.0) + 0.0
                if [type(token) for token in passage["tokens"]] != [str] * len(
                    passage["activations"]
                ):
                    raise ValueError("a passage does not have one activation per token")
    return cards


def given_name(config: Path) -> str:
    """What the run was called with ``name=``; empty where it has its task's name."""
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        name, task = str(settings["name"]), settings["task"]["name"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):  # it is shown as it is
        return ""
    return "" if name == task else cut(name, 80)


def _kinds(record: Record) -> dict[str, str]:
    return {name: arm.kind for name, arm in record.arms.items()}


def _filters(
    listed: Sequence[Example], totals: Mapping[str, int]
) -> list[tuple[str, str, int, int]]:
    """The filters of the examples: value, label, how many are listed, how many there are."""
    counts = {kind: sum(e["kind"] == kind for e in listed) for kind in totals}
    filters = [("", "all listed", len(listed), len(listed))]
    filters += [
        (kind, CATEGORIES[kind], counts[kind], total) for kind, total in totals.items() if total
    ]
    invalid = sum("invalid" in (e["from"], e["to"]) for e in listed)
    if invalid:
        filters.insert(3, ("invalid", "from or to invalid", invalid, invalid))
    return filters


# -- side effects and transfer -----------------------------------------------------------------


@dataclass(frozen=True)
class RatioRow:
    formula: str
    source: str
    value: float | None


def _ratios(record: Record) -> list[RatioRow]:
    """The published side effect ratios: how each is computed, and whose it is."""
    ratios = record.ser
    rows = [
        RatioRow(
            "broken / (fixed + broken)",
            "CorrSteer; called SER everywhere else on this page",
            ratios.flips,
        ),
        RatioRow(
            "broken / changed answers",
            "CorrSteer's wording, “of all changed answers”",
            ratios.changed,
        ),
        RatioRow(
            "broken / answers that were right",
            "share of the right answers that is lost",
            ratios.right,
        ),
        RatioRow(
            "broken / all answers",
            "negative flip rate, Yan et al. 2021",
            ratios.negative_flip_rate,
        ),
        RatioRow(
            "(broken / all answers) / (accuracy before × error after)",
            "relative negative flip rate, Yan et al. 2021",
            ratios.relative_negative_flip_rate,
        ),
    ]
    if record.side_effects and record.side_effects.off_target:
        off_target = RatioRow(
            "(changed / unrelated prompts) / (fixed / test questions)",
            "off-target: unrelated answers changed per answer fixed",
            ratios.off_target,
        )
        rows.append(off_target)
    return rows


def _side_effects(record: Record) -> dict[str, object] | None:
    """Rows and figures of the parts that were measured; None without any."""
    effects = record.side_effects
    if effects is None:
        return None
    kinds = _kinds(record)
    parts: dict[str, object] = {}
    readings: list[tuple[str, list[ArmRow[Reading]]]] = []
    if effects.text:
        readings.append(("test questions", arm_rows(effects.text.arms, kinds)))
    if effects.off_target:
        off = arm_rows(effects.off_target.arms, kinds)
        figure = figures.off_target(off, effects.off_target.n)
        parts["off_target"] = {"rows": off, "figure": figure}
        readings.append(("unrelated prompts", arm_rows(effects.off_target.text.arms, kinds)))
    if effects.neutral:
        moved = arm_rows(effects.neutral.arms, kinds)
        parts["neutral"] = {"rows": moved, "figure": figures.neutral(moved)}
    if readings:
        parts["readings"] = readings
    if effects.activity:
        parts["activity"] = figures.activity(effects.activity.layers)
    absent = dict.fromkeys(("off_target", "neutral", "readings", "activity"))
    return absent | parts if parts else None


def _transfer(record: Record) -> dict[str, object] | None:
    if not record.transfer:
        return None
    rows = [TransferRow.of(cut(task, 60), tested) for task, tested in record.transfer.items()]
    own = [task == record.task for task in record.transfer]
    return {"rows": list(zip(rows, own, strict=True)), "figure": figures.transfer(rows)}


# -- what a plan is made of --------------------------------------------------------------------


@dataclass(frozen=True)
class Ablation:
    """One comparison of ``ablations.csv``. ``whole``: gain of the whole plan; ``by_layer``: whether
    its rows are layers or numbers of layers."""

    kind: str
    title: str
    rows: list[dict[str, Any]]
    whole: float
    by_layer: bool
    figure: Figure


_ABLATIONS = {
    "alone": "Each layer alone",
    "left_out": "Each layer left out",
    "by_depth": "Layers added from the first to the last",
    "by_r": "Layers added from the strongest correlation to the weakest",
}


def _ablations(file: Path) -> list[Ablation] | None:
    """Empty for a plan with nothing to compare, None for a run without ablations."""
    if not file.exists():
        return None
    columns = ("kind", "arm", "gain")
    table = read_table(file, columns, layer="Int64", layers="string")
    parts = []
    for kind, title in _ABLATIONS.items():
        rows = records(table[table["kind"] == kind])
        if rows:
            whole = float(table.loc[table["arm"] == STEERED, "gain"].iloc[0])
            by_layer = kind in ("alone", "left_out")
            figure = figures.ablation(rows, whole)
            parts.append(Ablation(kind, title, rows, whole, by_layer, figure))
    return parts


def _transitions(table: Sequence[Sequence[int]]) -> list[tuple[str, list[tuple[int, str]]]]:
    """The 3x3 flip table, with the meaning of each cell: fixed, broken or nothing."""

    def kind(before: str, after: str) -> str:
        if (before == "right") == (after == "right"):
            return ""
        return "fixed" if after == "right" else "broken"

    return [
        (before, [(count, kind(before, after)) for after, count in zip(STATES, row, strict=True)])
        for before, row in zip(STATES, table, strict=True)
    ]


def _task_metrics(
    metrics: Mapping[str, Mapping[str, float]], arms: Sequence[ArmRow[ArmSummary]]
) -> dict[str, object] | None:
    """A row per kind of arm, with the range of several draws, and a column per number that the
    benchmark itself reports; None without any."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    if not names:
        return None
    rows = []
    for _, same in by_kind(arms):
        columns = [[metrics[arm.name].get(name) for arm in same] for name in names]
        rows.append((folded_label(same), [span(column, r_value) for column in columns]))
    return {
        "names": [name.replace("_", " ") for name in names],
        "rows": rows,
        "notes": [note for name, note in METRICS.items() if name in names],
    }


def _search(folder: Path, record: Record) -> dict[str, object] | None:
    """The front of a search with the candidates it started from, and its figure."""
    search = record.search
    if search is None:
        return None
    begun = {search.unsteered.number: "unsteered"}
    begun |= {t.number: "plain plan" for t in search.plain}
    trials = {t.number: t for t in (*search.front, search.unsteered, *search.plain)}
    rows = []
    for t in sorted(trials.values(), key=lambda t: (-t.accuracy, t.broken, t.number)):
        words = [begun.get(t.number, "")]
        words += ["on the front"] if t.on_front else []
        words += ["chosen"] if t.chosen else []
        rows.append((t, ", ".join(word for word in words if word), _factors(t)))
    columns = ("number", "accuracy", "broken", "broken_share", "on_front", "chosen")
    table = read_table(folder / "trials.csv", columns)
    return {"rows": rows, "figure": figures.pareto(table, list(begun)), "rule": RULE}


def _factors(trial: Trial) -> str:
    """{0: 0.5, 1: 0, 2: 1} -> "0: 0.5, 2: 1"; "0, 2" where all are 1."""
    factors = {layer: factor for layer, factor in trial.factors.items() if factor}
    if not factors:
        return "none"
    if set(factors.values()) == {1}:
        return layer_text(list(factors))
    return ", ".join(f"{layer}: {short(factor)}" for layer, factor in factors.items())


def _cards(features: pd.DataFrame, contexts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The plan's features with their passages; the level of a token is a fraction of the
    card's strongest that was pooled."""
    by_feature = {(c["layer"], c["feature"]): c for c in contexts}
    chosen = features[features["chosen"]].sort_values(["layer", "rank"])
    cards: list[dict[str, Any]] = chosen.to_dict("records")
    for card in cards:
        about = by_feature.get((card["layer"], card["feature"]), {})
        for name in ("promotes", "suppresses"):
            card[name] = [text.replace("\n", "↵") for text in about.get(name, [])]
        for name, most in (("class", 40), ("class_why", 400), ("description", 400)):
            text = about.get(name)
            card[name] = cut(text, most) if text else None
        card["class_by"] = about.get("class_by")
        link = about.get("neuronpedia") or ""
        card["neuronpedia"] = link if link.startswith("https://") else None
        passages = about.get("contexts", [])
        top = max((p["activations"][p["peak"]] for p in passages), default=0)
        card["contexts"] = [{**p, "tokens": _tokens(p, top)} for p in passages]
        card["elsewhere"] = _elsewhere(about.get("elsewhere"))
    return cards


def _tokens(passage: Mapping[str, Any], top: float) -> list[dict[str, object]]:
    """``top``: the card's strongest activation that was pooled; others can be stronger."""
    tokens = passage["tokens"]
    pooled = passage.get("within", [True] * len(tokens))  # earlier versions did not tell
    each = zip(tokens, passage["activations"], pooled, strict=True)
    return [
        {
            "text": text.replace("\n", "↵"),
            "activation": activation,
            "level": round(min(1.0, activation / top), 2) if activation > 0 else 0,
            "within": within,
            "peak": position == passage["peak"],
        }
        for position, (text, activation, within) in enumerate(each)
    ]


def _elsewhere(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a feature does where it was not pooled: ``tokens``, ``most`` and ``sink``, 0 for
    nothing there; None for nothing at all."""
    if found is None:
        return None
    tokens = [text.replace("\n", "↵") for text in found["tokens"]]
    return {"tokens": tokens, "most": float(found["most"]), "sink": float(found["sink"])}
