"""The figures of a run's report; see :mod:`corrsteer.report.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from corrsteer.report.plots import (
    LEFT,
    Figure,
    Row,
    Spec,
    around,
    by_row,
    colour,
    error_bars,
    layer_axis,
    line,
    ring,
)
from corrsteer.report.record import ArmSummary, Changed, LayerActivity, Moved
from corrsteer.report.tables import ArmRow, TransferRow, by_kind, folded_label, records

BASELINE, STEERED = colour("baseline"), colour("steered")


def arms(rows: Sequence[ArmRow[ArmSummary]], chance: float | None) -> Figure:
    """Accuracy of every arm, with vertical lines at the baseline and at chance. A single arm of its
    kind has its 95 % interval; several draws are a band with what most of them span.

    ``rows``: those of a kind together, the baseline first.
    """
    shown = []
    for kind, same in by_kind(rows):
        percent = [100 * row.result.accuracy for row in same]
        if len(same) == 1:
            ci = [100 * bound for bound in same[0].result.ci]
            shown.append(Row(same[0].label, kind, percent[0], ci))
        else:
            shown.append(Row(folded_label(same), kind, draws=percent, draws_kind=kind))
    base = rows[0].result.accuracy
    lines = {"baseline": 100 * base}
    if chance is not None:
        lines["chance"] = 100 * chance
    figure = by_row(shown, "accuracy on the test split", suffix=" %", lines=lines)
    table = [
        {
            "arm": row.label,
            "kind": row.kind,
            "n": row.result.n,
            "accuracy": row.result.accuracy,
            "low": row.result.ci[0],
            "high": row.result.ci[1],
            "gain": row.result.accuracy - base,
            "invalid_rate": row.result.invalid_rate,
            "degenerate": row.result.degenerate,
        }
        for row in rows
    ]
    return Figure.of(figure, table, left=LEFT)


def off_target(rows: Sequence[ArmRow[Changed]], n: int) -> Figure:
    """Answers to ``n`` unrelated prompts that changed, as a rate per 1,000, with 95 % intervals."""
    shown = [
        Row(r.label, r.kind, 1000 * r.result.rate, [1000 * bound for bound in r.result.ci])
        for r in rows
    ]
    figure = by_row(shown, "changed, rate per 1,000", digits=0, lines={"baseline": 0})
    table = [
        {
            "arm": r.label,
            "changed": r.result.changed,
            "n": n,
            "rate": r.result.rate,
            "low": r.result.ci[0],
            "high": r.result.ci[1],
        }
        for r in rows
    ]
    return Figure.of(figure, table, left=LEFT)


def neutral(rows: Sequence[ArmRow[Moved]]) -> Figure:
    """KL divergence to the unsteered model on neutral text, with 95 % intervals."""
    shown = [Row(r.label, r.kind, r.result.kl, r.result.kl_ci) for r in rows]
    figure = by_row(shown, "KL, nats per token", digits=4, lines={"baseline": 0})
    figure.update_xaxes(tickformat=".3~f", nticks=6)
    table = [
        {
            "arm": r.label,
            "kl": r.result.kl,
            "low": r.result.kl_ci[0],
            "high": r.result.kl_ci[1],
            "top1_changed": r.result.top1_changed,
        }
        for r in rows
    ]
    return Figure.of(figure, table, left=LEFT)


def activity(layers: Sequence[LayerActivity]) -> tuple[Figure, Figure]:
    """Active features per position and layer without and with steering; and those that are newly
    active or lost."""
    x = [row.layer for row in layers]
    l0 = go.Figure()
    for name, symbol, shade, values in (
        ("before", "circle-open", BASELINE, [row.l0_before for row in layers]),
        ("after", "circle", STEERED, [row.l0_after for row in layers]),
    ):
        l0.add_scatter(
            x=x,
            y=values,
            mode="lines+markers",
            line={"color": shade, "width": 2},
            marker={"color": shade, "symbol": symbol, "size": 8, "line_width": 2},
            hovertemplate=f"layer %{{x}} {name}: %{{y:.1f}}<extra></extra>",
        )
    l0.update_yaxes(title="active features per position (L0)")
    turned = go.Figure()
    new, lost = [row.new for row in layers], [row.lost for row in layers]
    for name, sign, shade, values in (
        ("new", 1, STEERED, new),
        ("lost", -1, "var(--broken)", lost),
    ):
        turned.add_bar(
            x=x,
            y=[sign * value for value in values],
            customdata=values,
            marker={"color": shade},
            width=0.6,
            hovertemplate=f"layer %{{x}}: %{{customdata:.2f}} {name}<extra></extra>",
        )
    most = max([*new, *lost], default=1)
    turned.update_layout(barmode="relative", shapes=[line("y", 0, "baseline")])
    turned.update_yaxes(title="features per position", range=around([-most, most]))
    for figure in (l0, turned):
        figure.update_layout(height=280)
        layer_axis(figure, x)

    def table(*names: str) -> list[dict[str, object]]:
        return [{name: getattr(row, name) for name in names} for row in layers]

    return (
        Figure.of(l0, table("layer", "steered", "l0_before", "l0_after")),
        Figure.of(turned, table("layer", "steered", "new", "lost")),
    )


def transfer(rows: Sequence[TransferRow]) -> Figure:
    """Gain of the plan on each task with its 95 % interval, and the range of the random draws."""
    shown = [
        Row(
            r.task,
            "steered",
            100 * r.gain,
            [100 * bound for bound in r.gain_ci],
            [100 * gain for gain in r.random_gains],
        )
        for r in rows
    ]
    figure = by_row(shown, "gain in points", lines={"baseline": 0})
    table = [
        {
            "task": r.task,
            "n": r.n,
            "baseline": r.baseline,
            "steered": r.steered,
            "gain": r.gain,
            "fixed": r.fixed,
            "broken": r.broken,
            "ser": r.ser,
            "best_random": r.best_random,
            "gain_low": r.gain_ci[0],
            "gain_high": r.gain_ci[1],
        }
        for r in rows
    ]
    return Figure.of(figure, table, left=LEFT)


def correlation(features: pd.DataFrame, by: str = "r") -> Figure:
    """Each layer's best feature against its noise ceiling, with further ranked features behind it.

    ``features``: the rows of a run's ``features.csv``; ``by``: the column that they are ranked by.
    Where no ceiling is known there is none.
    """
    best = features[features["rank"] == 1]
    span = int(best["layer"].max() - best["layer"].min()) + 1
    wide = max(8, min(30, 300 // span))
    dot, circle = (10, 18) if span <= 14 else (7, 12)
    ceiling = {
        "symbol": "line-ew-open", "size": wide, "color": "var(--ceiling)", "line_width": 3,
    }  # fmt: skip
    noise = {"symbol": "circle-open", "color": "var(--text)", "size": dot, "line_width": 2}
    in_plan = {"symbol": "circle-open", "color": "var(--muted)", "size": circle, "line_width": 1.5}
    feature = "feature %{customdata}"
    parts: list[tuple[pd.DataFrame, Spec, str]] = [
        (features[features["rank"] > 1], {"color": "var(--faint)", "size": 5}, feature),
        (best.assign(**{by: best["ceiling"]}).dropna(subset=[by]), ceiling, "noise ceiling"),
        (best[~best["noise"]], {"color": STEERED, "size": dot}, feature),
        (best[best["noise"]], noise, feature),
        (features[features["chosen"]], in_plan, feature),
    ]
    figure = go.Figure()
    for rows, marker, name in parts:
        figure.add_scatter(
            x=rows["layer"].tolist(),
            y=rows[by].tolist(),
            customdata=rows["feature"].tolist(),
            mode="markers",
            marker=marker,
            hovertemplate=f"layer %{{x}}, {name}: {by} = %{{y:.3f}}<extra></extra>",
        )
    figure.update_layout(height=340)
    layer_axis(figure, best["layer"].tolist())
    title = "correlation with success" if by == "r" else by
    figure.update_yaxes(title=title, rangemode="tozero")
    names = ["layer", "rank", "feature", by, "ceiling", "noise", "chosen"]
    return Figure.of(figure, records(features[names]))


def ablation(rows: Sequence[Mapping[str, Any]], whole: float) -> Figure:
    """Gain over the baseline for one kind of ablation, with 95 % intervals: bars by layer, or a
    line over the number of layers. A horizontal line is the gain of the ``whole`` plan.

    ``rows``: those of one kind of a run's ``ablations.csv``.
    """
    by_layer = rows[0]["kind"] in ("alone", "left_out")
    x = [row["layer" if by_layer else "k"] for row in rows]
    gains = [100 * row["gain"] for row in rows]
    bounds = [[100 * row["gain_low"], 100 * row["gain_high"]] for row in rows]
    error = error_bars(gains, bounds)
    error["color"] = "var(--text)" if by_layer else STEERED
    figure = go.Figure()
    if by_layer:
        figure.add_bar(
            x=x,
            y=gains,
            error_y=error,
            marker={"color": STEERED},
            width=0.6,
            hovertemplate="layer %{x}: %{y:+.1f} points<extra></extra>",
        )
    else:
        figure.add_scatter(
            x=x,
            y=gains,
            error_y=error,
            mode="lines+markers",
            line={"color": STEERED, "width": 2},
            marker={"color": STEERED, "size": 8},
            customdata=[row["layers"] or "none" for row in rows],
            hovertemplate="layers %{customdata}: %{y:+.1f} points<extra></extra>",
        )
    lines = [line("y", 0, "baseline"), line("y", 100 * whole, "steered")]
    figure.update_layout(shapes=lines, height=280)
    layer_axis(figure, x, "layer" if by_layer else "layers that steer")
    reach = [100 * row[bound] for row in rows for bound in ("gain_low", "gain_high")]
    figure.update_yaxes(title="gain in points", range=around([0, 100 * whole, *reach]))
    return Figure.of(figure, rows)


def pareto(trials: pd.DataFrame, begun: Sequence[int]) -> Figure:
    """Accuracy against the share of right answers that broke, for every candidate of a search.

    ``trials``: a run's ``trials.csv``; ``begun``: numbers of the unsteered model and, after it, of
    the plain plans. A line connects the front, a ring marks the chosen trial.
    """
    front = trials[trials["on_front"]].sort_values("broken")
    first = trials.set_index("number", drop=False).loc[list(begun)]
    parts: list[tuple[pd.DataFrame, Spec]] = [
        (trials[~trials["on_front"]], {"marker": {"color": "var(--faint)", "size": 6}}),
        (
            front,
            {
                "mode": "lines+markers",
                "line": {"color": STEERED, "width": 2},
                "marker": {"color": STEERED, "size": 9},
            },
        ),
        (first[1:], {"marker": {"color": "var(--text)", "symbol": "square", "size": 9}}),
        (first[:1], {"marker": {"color": BASELINE, "symbol": "diamond", "size": 12}}),
    ]
    figure = go.Figure()
    for rows, look in parts:
        figure.add_scatter(
            x=(100 * rows["broken_share"]).tolist(),
            y=(100 * rows["accuracy"]).tolist(),
            customdata=rows["number"].tolist(),
            hovertemplate="trial %{customdata}: %{y:.1f} %, %{x:.1f} % broken<extra></extra>",
            **{"mode": "markers", **look},
        )
    chosen = trials[trials["chosen"]]
    shares, accuracies = 100 * trials["broken_share"], 100 * trials["accuracy"]
    points = zip(shares[chosen.index].tolist(), accuracies[chosen.index].tolist(), strict=True)
    ring(figure, list(points))
    figure.update_layout(height=380)
    figure.update_xaxes(
        title="right answers that broke", ticksuffix=" %", range=around(shares.tolist())
    )
    figure.update_yaxes(
        title="accuracy on validation", ticksuffix=" %", range=around(accuracies.tolist())
    )
    return Figure.of(figure, trials.to_dict("records"))
