"""The figures of the reports, as Plotly specifications (plain JSON values).

Colours are written as ``var(--name)``: the page's script fills in the value of that CSS variable
when it draws, so that a figure follows the light, dark or print scheme of its page. Legends are
HTML in the templates, where they wrap on a narrow screen. A figure costs 10 to 100 ms, almost all
of it Plotly's validation of the specification.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

COLOUR = {
    "baseline": "var(--baseline)",
    "steered": "var(--steered)",
    "constrained": "var(--constrained)",
    "random": "var(--random)",
}
SYMBOLS = {"circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "cross": "✚"}
"""Plotly's marker names and the character that stands for each in an HTML legend."""
_DASH = {"baseline": "solid", "chance": "dash", "constrained": "dot", "steered": "dashdot"}


def arms(rows: Sequence[Mapping[str, Any]], chance: float | None) -> dict:
    """Accuracy of every arm with its 95 % interval; vertical lines at the baseline and at chance.

    ``rows``: ``label``, ``kind`` (a key of ``COLOUR``, or another control), ``accuracy`` and ``ci``
    (shares of 1).
    """
    figure = go.Figure()
    for row in rows:
        accuracy, (low, high) = row["accuracy"], row["ci"]
        figure.add_scatter(
            x=[100 * accuracy],
            y=[row["label"]],
            mode="markers",
            marker={"color": COLOUR.get(row["kind"], COLOUR["random"]), "size": 10},
            error_x={
                "array": [100 * (high - accuracy)],
                "arrayminus": [100 * (accuracy - low)],
                "thickness": 2,
                "width": 0,
            },
            hovertemplate=f"%{{x:.1f}} % ({100 * low:.1f} to {100 * high:.1f})<extra></extra>",
        )
    lines = [_line("x", 100 * rows[0]["accuracy"], "baseline")]
    reach = [100 * bound for row in rows for bound in row["ci"]]
    if chance is not None:
        lines.append(_line("x", 100 * chance, "chance"))
        reach.append(100 * chance)
    figure.update_layout(shapes=lines, height=70 + 34 * len(rows))
    figure.update_xaxes(
        title="accuracy on the test split",
        ticksuffix=" %",
        range=_around(reach),
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return _finish(figure, left=148)


def correlation(features: pd.DataFrame) -> dict:
    """Each layer's best feature against its noise ceiling, further ranked features behind it.

    ``features``: the rows of a run's ``features.csv``.
    """
    best = features[features["rank"] == 1]
    span = int(best["layer"].max() - best["layer"].min()) + 1
    wide = max(8, min(30, 300 // span))
    dot, ring = (10, 18) if span <= 14 else (7, 12)
    parts = [
        (features[features["rank"] > 1], {"color": "var(--faint)", "size": 5}),
        (
            best.assign(r=best["ceiling"]),
            {"symbol": "line-ew-open", "size": wide, "color": "var(--ceiling)", "line_width": 3},
        ),
        (best[~best["noise"]], {"color": COLOUR["steered"], "size": dot}),
        (
            best[best["noise"]],
            {"symbol": "circle-open", "color": "var(--text)", "size": dot, "line_width": 2},
        ),
        (
            features[features["chosen"]],
            {"symbol": "circle-open", "color": "var(--muted)", "size": ring, "line_width": 1.5},
        ),
    ]
    figure = go.Figure()
    for rows, marker in parts:
        named = (
            "noise ceiling" if marker.get("symbol") == "line-ew-open" else "feature %{customdata}"
        )
        figure.add_scatter(
            x=rows["layer"].tolist(),
            y=rows["r"].tolist(),
            customdata=rows["feature"].tolist(),
            mode="markers",
            marker=marker,
            hovertemplate=f"layer %{{x}}, {named}: r = %{{y:.3f}}<extra></extra>",
        )
    figure.update_layout(height=340)
    figure.update_xaxes(
        title="layer", dtick=1 if span <= 12 else None, tickformat="d", showgrid=False
    )
    figure.update_yaxes(title="correlation with success", rangemode="tozero")
    return _finish(figure)


def accuracy_by_coef(series: Sequence[Sequence[Mapping[str, Any]]]) -> dict:
    """Steered accuracy against coef with intervals, random draws as points, baseline and
    constrained decoding as lines (both are unsteered, so they do not depend on coef).

    ``series``: one list of jobs per curve, each sorted by coef; a job has ``coef``, ``chosen`` and
    ``arms`` (those of its metrics.json).
    """
    figure = go.Figure()
    for symbol, jobs in zip(_repeat(SYMBOLS), series, strict=False):
        steered = [j["arms"]["steered"] for j in jobs]
        accuracy = [100 * arm["accuracy"] for arm in steered]
        figure.add_scatter(
            x=[j["coef"] for j in jobs],
            y=accuracy,
            mode="lines+markers",
            line={"color": COLOUR["steered"], "width": 2},
            marker={"color": COLOUR["steered"], "symbol": symbol, "size": 10},
            error_y={
                "array": [100 * arm["ci"][1] - y for arm, y in zip(steered, accuracy, strict=True)],
                "arrayminus": [
                    y - 100 * arm["ci"][0] for arm, y in zip(steered, accuracy, strict=True)
                ],
                "thickness": 2,
                "width": 0,
            },
            hovertemplate="steered at coef %{x}: %{y:.1f} %<extra></extra>",
        )
        draws = [
            (j["coef"], a) for j in jobs for n, a in j["arms"].items() if n.startswith("random")
        ]
        figure.add_scatter(
            x=[x for x, _ in draws],
            y=[100 * arm["accuracy"] for _, arm in draws],
            mode="markers",
            marker={
                "color": COLOUR["random"],
                "symbol": "circle-open",
                "size": 7,
                "line_width": 1.5,
            },
            hovertemplate="random draw at coef %{x}: %{y:.1f} %<extra></extra>",
        )
        _ring(figure, [(j["coef"], y) for j, y in zip(jobs, accuracy, strict=True) if j["chosen"]])
    unsteered = series[0][0]["arms"]
    lines = [_line("y", 100 * unsteered["baseline"]["accuracy"], "baseline")]
    if "constrained" in unsteered:
        lines.append(_line("y", 100 * unsteered["constrained"]["accuracy"], "constrained"))
    figure.update_layout(shapes=lines, height=340)
    arms = [arm for jobs in series for job in jobs for arm in job["arms"].values()]
    reach = [100 * arm["accuracy"] for arm in arms]
    reach += [100 * bound for jobs in series for j in jobs for bound in j["arms"]["steered"]["ci"]]
    figure.update_yaxes(title="accuracy on test", ticksuffix=" %", range=_around(reach))
    return _finish(_coef_axis(figure, series))


def ser_by_coef(series: Sequence[Sequence[Mapping[str, Any]]]) -> dict:
    """Side effect ratio against coef; a job without flips has none and leaves a gap.

    ``series`` as in :func:`accuracy_by_coef`, with ``ser`` (None when undefined) per job.
    """
    figure = go.Figure()
    for symbol, jobs in zip(_repeat(SYMBOLS), series, strict=False):
        figure.add_scatter(
            x=[j["coef"] for j in jobs],
            y=[j["ser"] for j in jobs],
            mode="lines+markers",
            line={"color": "var(--broken)", "width": 2},
            marker={"color": "var(--broken)", "symbol": symbol, "size": 10},
            hovertemplate="SER at coef %{x}: %{y:.2f}<extra></extra>",
        )
        _ring(figure, [(j["coef"], j["ser"]) for j in jobs if j["chosen"] and j["ser"] is not None])
    figure.update_layout(height=340)
    figure.update_yaxes(title="side effect ratio", range=[-0.05, 1.05])
    return _finish(_coef_axis(figure, series))


def ablation(rows: Sequence[Mapping[str, Any]], whole: float) -> dict:
    """Gain over the baseline for one kind of ablation, with 95 % intervals: bars by layer, or a
    line by the number of layers. A horizontal line is the gain of the ``whole`` plan.

    ``rows``: those of one kind of a run's ``ablations.csv``.
    """
    by_layer = rows[0]["kind"] in ("alone", "left_out")
    x = [row["layer" if by_layer else "k"] for row in rows]
    gains = [100 * row["gain"] for row in rows]
    error = {
        "array": [100 * row["gain_high"] - y for row, y in zip(rows, gains, strict=True)],
        "arrayminus": [y - 100 * row["gain_low"] for row, y in zip(rows, gains, strict=True)],
        "thickness": 2,
        "width": 0,
        "color": "var(--text)" if by_layer else COLOUR["steered"],
    }
    figure = go.Figure()
    if by_layer:
        figure.add_bar(
            x=x,
            y=gains,
            error_y=error,
            marker={"color": COLOUR["steered"]},
            width=0.6,
            hovertemplate="layer %{x}: %{y:+.1f} points<extra></extra>",
        )
    else:
        figure.add_scatter(
            x=x,
            y=gains,
            error_y=error,
            mode="lines+markers",
            line={"color": COLOUR["steered"], "width": 2},
            marker={"color": COLOUR["steered"], "size": 8},
            customdata=[row["layers"] or "none" for row in rows],
            hovertemplate="layers %{customdata}: %{y:+.1f} points<extra></extra>",
        )
    lines = [_line("y", 0, "baseline"), _line("y", 100 * whole, "steered")]
    figure.update_layout(shapes=lines, height=280)
    few = max(x) - min(x) <= 12
    figure.update_xaxes(
        title="layer" if by_layer else "layers that steer",
        dtick=1 if few else None,
        tickformat="d",
        showgrid=False,
    )
    reach = [100 * row[bound] for row in rows for bound in ("gain_low", "gain_high")]
    figure.update_yaxes(title="gain in points", range=_around([0, 100 * whole, *reach]))
    return _finish(figure)


def pareto(trials: pd.DataFrame, begun: Sequence[int]) -> dict:
    """Accuracy against the share of right answers that broke, for every candidate of a search.

    ``trials``: a run's ``trials.csv``; ``begun``: numbers of the unsteered model and, after it, of
    the plain plans. The front is connected, the chosen trial has a ring.
    """
    front = trials[trials["on_front"]].sort_values("broken")
    first = trials.set_index("number", drop=False).loc[list(begun)]
    parts: list[tuple[pd.DataFrame, dict]] = [
        (trials[~trials["on_front"]], {"marker": {"color": "var(--faint)", "size": 6}}),
        (
            front,
            {
                "mode": "lines+markers",
                "line": {"color": COLOUR["steered"], "width": 2},
                "marker": {"color": COLOUR["steered"], "size": 9},
            },
        ),
        (
            first[1:],
            {"marker": {"color": "var(--text)", "symbol": "square", "size": 9}},
        ),
        (
            first[:1],
            {"marker": {"color": COLOUR["baseline"], "symbol": "diamond", "size": 12}},
        ),
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
    _ring(figure, list(points))
    figure.update_layout(height=380)
    figure.update_xaxes(
        title="right answers that broke", ticksuffix=" %", range=_around(shares.tolist())
    )
    figure.update_yaxes(
        title="accuracy on validation", ticksuffix=" %", range=_around(accuracies.tolist())
    )
    return _finish(figure)


def _repeat(names: Mapping[str, str]) -> list[str]:
    return list(names) * 100


def _ring(figure: go.Figure, points: list[tuple[float, float]]) -> None:
    figure.add_scatter(
        x=[x for x, _ in points],
        y=[y for _, y in points],
        mode="markers",
        marker={"color": "var(--text)", "symbol": "circle-open", "size": 20, "line_width": 1.5},
        hoverinfo="skip",
    )


def _around(values: Sequence[float]) -> list[float]:
    """An axis range with some room on both sides; Plotly's own may end on a reference line."""
    room = max(1, 0.04 * (max(values) - min(values)))
    return [min(values) - room, max(values) + room]


def _line(axis: str, at: float, name: str) -> dict:
    """A line across the whole figure at one value of ``axis``."""
    other = "y" if axis == "x" else "x"
    return {
        "type": "line",
        f"{axis}0": at,
        f"{axis}1": at,
        f"{other}ref": "paper",
        f"{other}0": 0,
        f"{other}1": 1,
        "line": {
            "color": f"var(--{name})",
            "width": 1.5,
            "dash": _DASH[name],
        },
        "layer": "below",
    }


def _coef_axis(figure: go.Figure, series: Sequence[Sequence[Mapping[str, Any]]]) -> go.Figure:
    coefs = sorted({job["coef"] for jobs in series for job in jobs})
    figure.update_xaxes(title="coef", tickvals=coefs if len(coefs) <= 6 else None, showgrid=False)
    return figure


def _finish(figure: go.Figure, left: int = 64) -> dict:
    """Give the figure the page's type and colours; return it as plain JSON values.

    ``left``: room in px for the labels of the y axis. Margins are fixed because Plotly's automatic
    ones change with the width and can fail to settle.
    """
    figure.update_layout(
        template="none",
        showlegend=False,
        dragmode=False,
        margin={"l": left, "r": 24, "t": 8, "b": 46},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "var(--text)"},
        hoverlabel={"bgcolor": "var(--panel)", "font": {"color": "var(--text)"}},
    )
    axis = {
        "fixedrange": True,
        "gridcolor": "var(--line)",
        "zeroline": False,
        "linecolor": "var(--line)",
        "title_font": {"color": "var(--muted)", "size": 13},
    }
    figure.update_xaxes(showline=True, **axis)
    figure.update_yaxes(**axis)
    return json.loads(figure.to_json())
