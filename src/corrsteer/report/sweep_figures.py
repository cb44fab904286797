"""The figures of a sweep's report; see :mod:`corrsteer.report.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from corrsteer.report.figures import COLOUR, Figure, around, error_bars, line, plot_text, ring
from corrsteer.report.tables import CONTROLS

Series = Sequence[Sequence[Mapping[str, Any]]]
"""One list of jobs per curve, each sorted by coef: rows of a sweep's table with ``arms`` and
``controls`` (those of metrics.json)."""

SYMBOLS = {"circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "cross": "✚"}
"""Plotly's marker names and the character that stands for each in an HTML legend."""
BANDS = {kind: CONTROLS[kind] for kind in ("random", "direction", "shuffled")}
"""Controls that are drawn several times: the range of their draws is a band. Their names are also
those of a colour and of a band's colour."""


def accuracy_by_coef(series: Series) -> Figure:
    """Steered accuracy against coef with intervals; the range of each kind of draw as a band with
    its draws as marks; baseline and constrained decoding as lines (both are unsteered, so they do
    not depend on coef)."""
    figure = go.Figure()
    every = [job for jobs in series for job in jobs]
    rows = [
        {"coef": job["coef"], "series": job["series"], "arm": name, "accuracy": arm["accuracy"]}
        | {"low": arm["ci"][0], "high": arm["ci"][1]}
        for job in every
        for name, arm in job["arms"].items()
    ]
    reach = [100 * bound for job in every for bound in job["arms"]["steered"]["ci"]]
    for kind in BANDS:
        draws = [
            (job["coef"], 100 * arm["accuracy"])
            for job in every
            for name, arm in job["arms"].items()
            if name.startswith(kind)
        ]
        reach += [y for _, y in draws]
        band(figure, kind, draws, " %")
    for symbol, jobs in zip(_repeat(SYMBOLS), series, strict=False):
        steered = [job["arms"]["steered"] for job in jobs]
        accuracy = [100 * arm["accuracy"] for arm in steered]
        figure.add_scatter(
            x=[job["coef"] for job in jobs],
            y=accuracy,
            mode="lines+markers",
            line={"color": COLOUR["steered"], "width": 2},
            marker={"color": COLOUR["steered"], "symbol": symbol, "size": 10},
            error_y=error_bars(accuracy, [[100 * bound for bound in arm["ci"]] for arm in steered]),
            hovertemplate="steered at coef %{x}: %{y:.1f} %<extra></extra>",
        )
        ring(figure, [(j["coef"], y) for j, y in zip(jobs, accuracy, strict=True) if j["chosen"]])
    unsteered = every[0]["arms"]
    lines = {
        n: 100 * unsteered[n]["accuracy"] for n in ("baseline", "constrained") if n in unsteered
    }
    figure.update_layout(shapes=[line("y", at, name) for name, at in lines.items()], height=340)
    figure.update_yaxes(
        title="accuracy on test", ticksuffix=" %", range=around([*reach, *lines.values()])
    )
    return Figure.of(_coef_axis(figure, every), rows)


def ser_by_coef(series: Series) -> Figure:
    """Side effect ratio against coef; a job without flips has none and leaves a gap."""
    figure = go.Figure()
    every = [job for jobs in series for job in jobs]
    for symbol, jobs in zip(_repeat(SYMBOLS), series, strict=False):
        figure.add_scatter(
            x=[job["coef"] for job in jobs],
            y=[job["ser"] for job in jobs],
            mode="lines+markers",
            line={"color": "var(--broken)", "width": 2},
            marker={"color": "var(--broken)", "symbol": symbol, "size": 10},
            hovertemplate="SER at coef %{x}: %{y:.2f}<extra></extra>",
        )
        ring(figure, [(j["coef"], j["ser"]) for j in jobs if j["chosen"] and j["ser"] is not None])
    figure.update_layout(height=340)
    figure.update_yaxes(title="side effect ratio", range=[-0.05, 1.05])
    names = ("job", "coef", "series", "fixed", "broken", "ser", "chosen")
    return Figure.of(_coef_axis(figure, every), [{n: job[n] for n in names} for job in every])


GAIN_STEPS = (0.5, 1, 2, 5, 10, 20, 50)
SER_RAYS = (0.1, 0.25, 0.5, 0.75)


def ser_plane(series: Series) -> Figure:
    """Broken against fixed per 100 questions, a point per job. Along a dashed line the gain is the
    same, along a dotted ray the side effect ratio."""
    figure = go.Figure()
    every = [job for jobs in series for job in jobs]
    rows = [
        {
            "job": job["job"],
            "coef": job["coef"],
            "series": job["series"],
            "fixed_per_100": 100 * job["fixed"] / job["n"],
            "broken_per_100": 100 * job["broken"] / job["n"],
            "gain": job["gain"],
            "ser": job["ser"],
            "chosen": job["chosen"],
        }
        for job in every
    ]
    by_job = {row["job"]: row for row in rows}
    most = max([1.0, *(row["fixed_per_100"] for row in rows)]) * 1.12
    high = max([most / 3, *(1.12 * row["broken_per_100"] for row in rows)])
    _iso_lines(figure, most, high)
    for symbol, jobs in zip(_repeat(SYMBOLS), series, strict=False):
        mine = [by_job[job["job"]] for job in jobs]
        at = [(row["fixed_per_100"], row["broken_per_100"]) for row in mine]
        figure.add_scatter(
            x=[x for x, _ in at],
            y=[y for _, y in at],
            customdata=[[row["coef"], row["job"]] for row in mine],
            mode="markers+lines",
            line={"color": "var(--faint)", "width": 1},
            marker={"color": COLOUR["steered"], "symbol": symbol, "size": 10},
            hovertemplate="coef %{customdata[0]} (job %{customdata[1]}): %{x:.1f} fixed, "
            "%{y:.1f} broken per 100<extra></extra>",
        )
        ring(figure, [xy for row, xy in zip(mine, at, strict=True) if row["chosen"]])
    figure.update_layout(height=340)
    figure.update_xaxes(title="fixed per 100 questions", range=[-0.02 * most, most], showgrid=False)
    figure.update_yaxes(title="broken per 100", range=[-0.03 * high, high], showgrid=False)
    return Figure.of(figure, rows, top=24, right=62)


def _iso_lines(figure: go.Figure, most: float, high: float) -> None:
    """Named where they leave the plane; one whose name would lie on another's is left out."""
    step = next((s for s in GAIN_STEPS if (most + high) / s <= 7), GAIN_STEPS[-1])
    found: list[tuple[tuple[float, float], tuple[float, float], str, str]] = []
    for ser in SER_RAYS:
        slope = ser / (1 - ser)
        end = (most, slope * most) if slope * most <= high else (high / slope, high)
        found.append(((0.0, 0.0), end, f"SER {ser:g}", "dot"))
    for n in range(-int(high // step), int(most // step) + 1):
        gain = n * step
        start = (gain, 0.0) if gain >= 0 else (0.0, -gain)
        end = (high + gain, high) if high + gain <= most else (most, most - gain)
        if n:
            found.append((start, end, f"{gain:+g}".replace("-", "−"), "dash"))
    ends: list[tuple[float, float]] = []
    shapes, names = [], []
    for start, end, name, dash in found:
        # Names need room across where they stand above the plane, and downwards beside it.
        x, y = end[0] / most, end[1] / high
        if any(abs(x - a) < 0.24 and abs(y - b) < 0.07 for a, b in ends):
            continue
        ends.append((x, y))
        shapes.append(
            {
                "type": "line",
                **{"x0": start[0], "y0": start[1], "x1": end[0], "y1": end[1]},
                "line": {"color": "var(--faint)", "width": 1, "dash": dash},
                "layer": "below",
            }
        )
        above = y > 0.999
        names.append(
            {
                **{"x": end[0], "y": end[1], "text": name, "showarrow": False},
                "xanchor": "center" if above else "left",
                "yanchor": "bottom" if above else "middle",
                "xshift": 0 if above else 3,
                "font": {"size": 11, "color": "var(--muted)"},
            }
        )
    figure.update_layout(shapes=shapes, annotations=names)


def gain_over_seeds(dials: Sequence[Mapping[str, Any]]) -> Figure:
    """Mean gain over the seeds against coef with its standard deviation, every seed as a mark, and
    the range of the draws of each kind of control over all seeds as a band.

    ``dials``: ``coef``, ``chosen``, ``gain_mean``, ``gain_sd`` (None for a single seed), ``gains``,
    and ``draws`` (kind -> gains), sorted by coef; shares of 1.
    """
    figure = go.Figure()
    for kind in BANDS:
        draws = [(d["coef"], 100 * gain) for d in dials for gain in d["draws"].get(kind, ())]
        band(figure, kind, draws, " points")
    x, means = [d["coef"] for d in dials], [100 * d["gain_mean"] for d in dials]
    spread = [100 * (d["gain_sd"] or 0) for d in dials]
    figure.add_scatter(
        x=x,
        y=means,
        mode="lines+markers",
        line={"color": COLOUR["steered"], "width": 2},
        marker={"color": COLOUR["steered"], "size": 10},
        error_y={"array": spread, "thickness": 2, "width": 0},
        hovertemplate="mean at coef %{x}: %{y:+.1f} points<extra></extra>",
    )
    marks = [(d["coef"], 100 * gain) for d in dials for gain in d["gains"]]
    figure.add_scatter(
        x=[coef for coef, _ in marks],
        y=[gain for _, gain in marks],
        mode="markers",
        marker={"color": COLOUR["steered"], "symbol": "x-thin-open", "size": 7, "line_width": 1.5},
        hovertemplate="one seed at coef %{x}: %{y:+.1f} points<extra></extra>",
    )
    ring(figure, [(d["coef"], y) for d, y in zip(dials, means, strict=True) if d["chosen"]])
    reach = [y for _, y in marks] + [
        100 * gain for d in dials for kind in BANDS for gain in d["draws"].get(kind, ())
    ]
    reach += [y + sign * s for y, s in zip(means, spread, strict=True) for sign in (-1, 1)]
    figure.update_layout(shapes=[line("y", 0, "baseline")], height=340)
    figure.update_yaxes(title="gain in points", range=around([0, *reach]))
    rows = [
        {"coef": d["coef"], "seed": seed, "gain": gain, "gain_mean": d["gain_mean"]}
        | {"gain_sd": d["gain_sd"], "best_random": max(d["draws"].get("random", ()), default=None)}
        for d in dials
        for seed, gain in zip(d["seeds"], d["gains"], strict=True)
    ]
    return Figure.of(_coef_axis(figure, dials), rows)


def transfer_map(
    rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[int, int], Mapping[str, Any]]
) -> Figure:
    """Gain in points of the features chosen on one task (row) on the questions of another (column).

    ``cells``: (row, column) -> ``gain`` (share of 1), ``significant``, ``own`` (the task on which
    the features were chosen; it gets a frame) and the other numbers of the table.
    """
    gains = [[None] * len(columns) for _ in rows]
    texts = [[""] * len(columns) for _ in rows]
    frames = []
    for (i, j), cell in cells.items():
        gains[i][j] = 100 * cell["gain"]
        texts[i][j] = f"{100 * cell['gain'] + 0.0:+.1f}".replace("-", "−")
        texts[i][j] += "" if cell["significant"] else "<br>n.s."
        if cell["own"]:
            frames.append(
                {
                    "type": "rect",
                    **{"x0": j - 0.47, "x1": j + 0.47, "y0": i - 0.45, "y1": i + 0.45},
                    "line": {"color": "var(--text)", "width": 1.5},
                }
            )
    titles = [plot_text(name, 14) for name in columns]
    slanted = len(columns) > 6 or max(map(len, titles)) > 9
    most = max([1.0, *(abs(100 * cell["gain"]) for cell in cells.values())])
    figure = go.Figure()
    figure.add_heatmap(
        z=gains,
        text=texts,
        texttemplate="%{text}",
        textfont={"color": "var(--text)", "size": 13},
        colorscale=[[0, "var(--loss)"], [0.5, "var(--panel)"], [1, "var(--gain)"]],
        zmin=-most,
        zmax=most,
        showscale=False,
        xgap=3,
        ygap=3,
        hoverinfo="skip",
    )
    figure.update_layout(shapes=frames, height=(154 if slanted else 90) + 46 * len(rows))
    figure.update_xaxes(
        title="tested on",
        tickvals=list(range(len(columns))),
        ticktext=titles,
        tickangle=-40 if slanted else 0,
        ticks="",
        showgrid=False,
        range=[-0.5, len(columns) - 0.5],
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[plot_text(name, 18) for name in rows],
        ticks="",
        showgrid=False,
        range=[len(rows) - 0.5, -0.5],
    )
    table = [
        {name: value for name, value in cell.items() if name != "own"} for cell in cells.values()
    ]
    return Figure.of(figure, table, left=150, bottom=110 if slanted else 46)


def band(figure: go.Figure, kind: str, draws: Sequence[tuple[float, float]], suffix: str) -> None:
    """The range of one kind of draw at every coef, shaded, and the draws themselves."""
    if not draws:
        return
    at: dict[float, list[float]] = {}
    for coef, y in sorted(draws):
        at.setdefault(coef, []).append(y)
    bare = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(x=list(at), y=[min(ys) for ys in at.values()], **bare)
    figure.add_scatter(
        x=list(at),
        y=[max(ys) for ys in at.values()],
        fill="tonexty",
        fillcolor=f"var(--{kind}-band)",
        **bare,
    )
    figure.add_scatter(
        x=[coef for coef, _ in draws],
        y=[y for _, y in draws],
        mode="markers",
        marker={
            "color": f"var(--{kind})",
            "symbol": "line-ew-open",
            "size": 9,
            "line_width": 1.5,
        },
        hovertemplate=f"{BANDS[kind]} at coef %{{x}}: %{{y:.1f}}{suffix}<extra></extra>",
    )


def _repeat(names: Mapping[str, str]) -> list[str]:
    return list(names) * 100


def _coef_axis(figure: go.Figure, jobs: Sequence[Mapping[str, Any]]) -> go.Figure:
    coefs = sorted({job["coef"] for job in jobs})
    figure.update_xaxes(title="coef", tickvals=coefs if len(coefs) <= 6 else None, showgrid=False)
    return figure
