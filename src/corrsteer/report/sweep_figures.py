"""The figures of a sweep's report; see :mod:`corrsteer.report.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import plotly.graph_objects as go

from corrsteer.report.plots import (
    Figure,
    Spec,
    around,
    band,
    colour,
    error_bars,
    line,
    plot_text,
    ring,
)
from corrsteer.report.record import Record
from corrsteer.report.tables import TransferRow, drawn_kinds
from corrsteer.steering.arms import STEERED

SYMBOLS = {"circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "cross": "✚"}
"""Plotly's marker names and the character that stands for each in an HTML legend."""


@dataclass(frozen=True)
class Point:
    """A job on a curve; ``series`` is the name of the curve."""

    job: int
    coef: float
    series: str
    chosen: bool
    record: Record


Series = Sequence[Sequence[Point]]
"""One list of jobs per curve, each sorted by coef."""


@dataclass(frozen=True)
class Spread:
    """Over seeds. ``sd`` None: a single seed; both None: no seed has a value."""

    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Dial:
    """The seeds of one coef. ``draws``: gains of all draws of each kind of control; ``spread``: of
    the columns of the sweep's table that are averaged."""

    coef: float
    jobs: list[int]
    seeds: list[int]
    gains: list[float]
    draws: dict[str, list[float]]
    spread: dict[str, Spread]
    chosen: bool = False


@dataclass(frozen=True)
class Cell:
    """Features chosen for the question ``selected_on``, on the questions of ``row.task``. ``own``:
    the task they were chosen on."""

    selected_on: str
    own: bool
    row: TransferRow
    p_holm: float
    significant: bool


def accuracy_by_coef(series: Series) -> Figure:
    """Steered accuracy against coef with intervals; the draws of each kind as marks on the band
    that they span; baseline and constrained decoding as lines (both are unsteered, so they do not
    depend on coef)."""
    figure = go.Figure()
    every = [job for jobs in series for job in jobs]
    rows = [
        {"coef": job.coef, "series": job.series, "arm": name, "accuracy": arm.accuracy}
        | {"low": arm.ci[0], "high": arm.ci[1]}
        for job in every
        for name, arm in job.record.arms.items()
    ]
    reach = [100 * bound for job in every for bound in job.record.arms[STEERED].ci]
    for kind in drawn_kinds():
        draws = [
            (job.coef, 100 * arm.accuracy)
            for job in every
            for arm in job.record.arms.values()
            if arm.kind == kind
        ]
        reach += [y for _, y in draws]
        band(figure, kind, draws, " %")
    for symbol, jobs in zip(cycle(SYMBOLS), series, strict=False):
        steered = [job.record.arms[STEERED] for job in jobs]
        accuracy = [100 * arm.accuracy for arm in steered]
        figure.add_scatter(
            x=[job.coef for job in jobs],
            y=accuracy,
            mode="lines+markers",
            line={"color": colour("steered"), "width": 2},
            marker={"color": colour("steered"), "symbol": symbol, "size": 10},
            error_y=error_bars(accuracy, [[100 * bound for bound in arm.ci] for arm in steered]),
            hovertemplate="steered at coef %{x}: %{y:.1f} %<extra></extra>",
        )
        ring(figure, [(j.coef, y) for j, y in zip(jobs, accuracy, strict=True) if j.chosen])
    lines = {
        arm.kind: 100 * arm.accuracy
        for arm in every[0].record.arms.values()
        if arm.kind in ("baseline", "constrained")
    }
    figure.update_layout(shapes=[line("y", at, name) for name, at in lines.items()], height=340)
    figure.update_yaxes(
        title="accuracy on test", ticksuffix=" %", range=around([*reach, *lines.values()])
    )
    return Figure.of(_coef_axis(figure, every), rows)


def ser_by_coef(series: Series) -> Figure:
    """Side effect ratio against coef; a job without flips has none and leaves a gap."""
    figure = go.Figure()
    for symbol, jobs in zip(cycle(SYMBOLS), series, strict=False):
        ratios = [job.record.flips.ser for job in jobs]
        figure.add_scatter(
            x=[job.coef for job in jobs],
            y=ratios,
            mode="lines+markers",
            line={"color": "var(--broken)", "width": 2},
            marker={"color": "var(--broken)", "symbol": symbol, "size": 10},
            hovertemplate="SER at coef %{x}: %{y:.2f}<extra></extra>",
        )
        chosen = zip(jobs, ratios, strict=True)
        ring(figure, [(job.coef, y) for job, y in chosen if job.chosen and y is not None])
    figure.update_layout(height=340)
    figure.update_yaxes(title="side effect ratio", range=[-0.05, 1.05])
    every = [job for jobs in series for job in jobs]
    table = [
        {
            "job": job.job,
            "coef": job.coef,
            "series": job.series,
            "fixed": job.record.flips.fixed,
            "broken": job.record.flips.broken,
            "ser": job.record.flips.ser,
            "chosen": job.chosen,
        }
        for job in every
    ]
    return Figure.of(_coef_axis(figure, every), table)


GAIN_STEPS = (0.5, 1, 2, 5, 10, 20, 50)
SER_RAYS = (0.1, 0.25, 0.5, 0.75)


def ser_plane(series: Series) -> Figure:
    """Broken against fixed per 100 questions, a point per job. Along a dashed line the gain is the
    same, along a dotted ray the side effect ratio."""
    figure = go.Figure()
    places = [[_per_100(job) for job in jobs] for jobs in series]
    most = max([1.0, *(x for at in places for x, _ in at)]) * 1.12
    high = max([most / 3, *(1.12 * y for at in places for _, y in at)])
    _iso_lines(figure, most, high)
    for symbol, jobs, at in zip(cycle(SYMBOLS), series, places, strict=False):
        figure.add_scatter(
            x=[x for x, _ in at],
            y=[y for _, y in at],
            customdata=[[job.coef, job.job] for job in jobs],
            mode="markers+lines",
            line={"color": "var(--faint)", "width": 1},
            marker={"color": colour("steered"), "symbol": symbol, "size": 10},
            hovertemplate="coef %{customdata[0]} (job %{customdata[1]}): %{x:.1f} fixed, "
            "%{y:.1f} broken per 100<extra></extra>",
        )
        ring(figure, [xy for job, xy in zip(jobs, at, strict=True) if job.chosen])
    figure.update_layout(height=340)
    figure.update_xaxes(title="fixed per 100 questions", range=[-0.02 * most, most], showgrid=False)
    figure.update_yaxes(title="broken per 100", range=[-0.03 * high, high], showgrid=False)
    table = [
        {
            "job": job.job,
            "coef": job.coef,
            "series": job.series,
            "fixed_per_100": _per_100(job)[0],
            "broken_per_100": _per_100(job)[1],
            "gain": job.record.gain,
            "ser": job.record.flips.ser,
            "chosen": job.chosen,
        }
        for jobs in series
        for job in jobs
    ]
    return Figure.of(figure, table, top=24, right=62)


def _per_100(job: Point) -> tuple[float, float]:
    """Fixed and broken answers."""
    flips = job.record.flips
    return 100 * flips.fixed / flips.n, 100 * flips.broken / flips.n


def _iso_lines(figure: go.Figure, most: float, high: float) -> None:
    """With their names where they leave the plane; a line whose name would overlap another's is
    left out."""
    step = next((s for s in GAIN_STEPS if (most + high) / s <= 7), GAIN_STEPS[-1])
    lines: list[tuple[tuple[float, float], tuple[float, float], str, str]] = []
    for ser in SER_RAYS:
        slope = ser / (1 - ser)
        end = (most, slope * most) if slope * most <= high else (high / slope, high)
        lines.append(((0.0, 0.0), end, f"SER {ser:g}", "dot"))
    for n in range(-int(high // step), int(most // step) + 1):
        gain = n * step
        start = (gain, 0.0) if gain >= 0 else (0.0, -gain)
        end = (high + gain, high) if high + gain <= most else (most, most - gain)
        if n:
            lines.append((start, end, f"{gain:+g}".replace("-", "−"), "dash"))
    ends: list[tuple[float, float]] = []
    shapes, names = [], []
    for start, end, name, dash in lines:
        # Names above the plane need room sideways, names beside it need room above and below.
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


def gain_over_seeds(dials: Sequence[Dial]) -> Figure:
    """Mean gain over the seeds against coef with its standard deviation, each seed as a mark, and
    the range of each kind's draws over all seeds as a band. ``dials``: sorted by coef."""
    figure = go.Figure()
    reach = [0.0]
    for kind in drawn_kinds():
        draws = [(d.coef, 100 * gain) for d in dials for gain in d.draws.get(kind, ())]
        reach += [y for _, y in draws]
        band(figure, kind, draws, " points")
    x = [d.coef for d in dials]
    means = [100 * (d.spread["gain"].mean or 0) for d in dials]
    spread = [100 * (d.spread["gain"].sd or 0) for d in dials]
    figure.add_scatter(
        x=x,
        y=means,
        mode="lines+markers",
        line={"color": colour("steered"), "width": 2},
        marker={"color": colour("steered"), "size": 10},
        error_y={"array": spread, "thickness": 2, "width": 0},
        hovertemplate="mean at coef %{x}: %{y:+.1f} points<extra></extra>",
    )
    marks = [(d.coef, 100 * gain) for d in dials for gain in d.gains]
    figure.add_scatter(
        x=[coef for coef, _ in marks],
        y=[gain for _, gain in marks],
        mode="markers",
        marker={
            "color": colour("steered"), "symbol": "x-thin-open", "size": 7, "line_width": 1.5,
        },
        hovertemplate="one seed at coef %{x}: %{y:+.1f} points<extra></extra>",
    )  # fmt: skip
    ring(figure, [(d.coef, y) for d, y in zip(dials, means, strict=True) if d.chosen])
    reach += [y for _, y in marks]
    reach += [y + sign * s for y, s in zip(means, spread, strict=True) for sign in (-1, 1)]
    figure.update_layout(shapes=[line("y", 0, "baseline")], height=340)
    figure.update_yaxes(title="gain in points", range=around(reach))
    table = [
        {
            "coef": d.coef,
            "seed": seed,
            "gain": gain,
            "gain_mean": d.spread["gain"].mean,
            "gain_sd": d.spread["gain"].sd,
            "best_random": max(d.draws.get("random", ()), default=None),
        }
        for d in dials
        for seed, gain in zip(d.seeds, d.gains, strict=True)
    ]
    return Figure.of(_coef_axis(figure, dials), table)


def transfer_map(
    rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[int, int], Cell]
) -> Figure:
    """Gain in points of the features chosen on one task (row) on the questions of another (column).

    ``cells``: by row and column. The task on which the features were chosen has a frame.
    """
    gains: list[list[float | None]] = [[None] * len(columns) for _ in rows]
    texts = [[""] * len(columns) for _ in rows]
    frames: list[Spec] = []
    for (i, j), cell in cells.items():
        gain = 100 * cell.row.gain
        gains[i][j] = gain
        texts[i][j] = f"{gain + 0.0:+.1f}".replace("-", "−")
        texts[i][j] += "" if cell.significant else "<br>n.s."
        if cell.own:
            frames.append(
                {
                    "type": "rect",
                    **{"x0": j - 0.47, "x1": j + 0.47, "y0": i - 0.45, "y1": i + 0.45},
                    "line": {"color": "var(--text)", "width": 1.5},
                }
            )
    titles = [plot_text(name, 14) for name in columns]
    slanted = len(columns) > 6 or max(map(len, titles)) > 9
    most = max([1.0, *(abs(100 * cell.row.gain) for cell in cells.values())])
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
    table = [_numbers(cell) for cell in cells.values()]
    return Figure.of(figure, table, left=150, bottom=110 if slanted else 46)


def _numbers(cell: Cell) -> dict[str, object]:
    row = cell.row
    return {
        "selected_on": cell.selected_on,
        "task": row.task,
        "n": row.n,
        "baseline": row.baseline,
        "steered": row.steered,
        "gain": row.gain,
        "fixed": row.fixed,
        "broken": row.broken,
        "ser": row.ser,
        "mcnemar_p": row.mcnemar_p,
        "p_holm": cell.p_holm,
        "significant": cell.significant,
        "best_random": row.best_random,
        "gain_low": row.gain_ci[0],
        "gain_high": row.gain_ci[1],
    }


def _coef_axis(figure: go.Figure, places: Sequence[Point | Dial]) -> go.Figure:
    coefs = sorted({place.coef for place in places})
    figure.update_xaxes(title="coef", tickvals=coefs if len(coefs) <= 6 else None, showgrid=False)
    return figure
