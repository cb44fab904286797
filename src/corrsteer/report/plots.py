"""How figures are drawn: Plotly specifications (plain JSON values) with their data.

Colours are written as ``var(--name)``: the page's script fills in the value of that CSS variable
when it draws, so that a figure follows the light, dark or print scheme of its page. Legends are
HTML in the templates, where they wrap on a narrow screen. A figure costs 10 to 100 ms, almost all
of it Plotly's validation of the specification.
"""

from __future__ import annotations

import html
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from corrsteer.report.pages import Plain, cut, plain, visible
from corrsteer.steering.arms import KINDS

Spec = dict[str, Any]
"""A part of a Plotly specification."""
_DASH = {"baseline": "solid", "chance": "dash", "constrained": "dot", "steered": "dashdot"}
LEFT = 176  # px for the labels of by_row
MANY = 10
"""From so many draws on their band of 5 to 95 % stands for the single ones."""


def colour(kind: str) -> str:
    """Of a kind of arm."""
    return f"var(--{KINDS[kind].colour})"


def band_colour(kind: str) -> str:
    """Of the range of a kind's draws: its colour, made faint."""
    return f"var(--{KINDS[kind].colour}-band)"


@dataclass(frozen=True)
class Figure:
    """What is drawn, and the numbers it shows as a table for download."""

    spec: Spec
    columns: tuple[str, ...]
    rows: list[list[Plain]]

    @classmethod
    def of(cls, figure: go.Figure, rows: Iterable[Mapping[str, object]], **margins: int) -> Figure:
        """``rows``: all with the same keys, which become the columns of the table. ``margins``:
        those of :func:`finish`."""
        records = list(rows)
        columns = tuple(records[0]) if records else ()
        table = [[plain(row[name]) for name in columns] for row in records]
        return cls(finish(figure, **margins), columns, table)

    @property
    def table(self) -> dict[str, object]:
        return {"columns": self.columns, "rows": self.rows}


@dataclass(frozen=True)
class Row:
    """One row of :func:`by_row`. ``kind``: of arm. ``draws``: the value of each draw of a control;
    their range becomes a band, with a mark for each, or for ``MANY`` a bar from 5 to 95 %.
    ``value`` is marked with its 95 % interval."""

    label: str
    kind: str
    value: float | None = None
    ci: Sequence[float] | None = None
    draws: Sequence[float] = ()
    draws_kind: str = "random"

    @property
    def reach(self) -> list[float]:
        return [*self.draws, *(self.ci or ()), *([] if self.value is None else [self.value])]


def by_row(
    rows: Sequence[Row],
    title: str,
    *,
    suffix: str = "",
    digits: int = 1,
    lines: Mapping[str, float] | None = None,
) -> go.Figure:
    """One row per value. ``lines``: by name (which has a colour and a dash), where a vertical line
    stands."""
    figure = go.Figure()
    bands = []
    for n, row in enumerate(rows):
        if row.draws:
            bands.append(_range(n, row))
        if len(row.draws) >= MANY:
            low, middle, high = five_to_95(row.draws)
            figure.add_scatter(
                x=[low, middle, high],
                y=[n] * 3,
                mode="lines+markers",
                line={"color": colour(row.draws_kind), "width": 6},
                marker={
                    "color": colour(row.draws_kind),
                    "symbol": "line-ns-open",
                    "size": [0, 16, 0],
                    "line_width": 2,
                },
                hovertemplate=f"5, 50, 95 % of draws: %{{x:.{digits}f}}{suffix}<extra></extra>",
            )
        elif row.draws:
            figure.add_scatter(
                x=list(row.draws),
                y=[n] * len(row.draws),
                mode="markers",
                marker={
                    "color": colour(row.draws_kind),
                    "symbol": "line-ns-open",
                    "size": 12,
                    "line_width": 2,
                },
                hovertemplate=f"draw: %{{x:.{digits}f}}{suffix}<extra></extra>",
            )
        if row.value is not None:
            interval, error = "", None
            if row.ci is not None:
                interval = f" ({row.ci[0]:.{digits}f} to {row.ci[1]:.{digits}f})"
                error = error_bars([row.value], [row.ci])
            figure.add_scatter(
                x=[row.value],
                y=[n],
                mode="markers",
                marker={"color": colour(row.kind), "size": 10},
                error_x=error,
                hovertemplate=f"%{{x:.{digits}f}}{suffix}{interval}<extra></extra>",
            )
    across = [line("x", at, name) for name, at in (lines or {}).items()]
    reach = [v for row in rows for v in row.reach] + list((lines or {}).values())
    figure.update_layout(shapes=[*bands, *across], height=74 + 32 * len(rows))
    figure.update_xaxes(title=title, ticksuffix=suffix, range=around(reach, 0.04, 10**-digits))
    figure.update_yaxes(
        range=[len(rows) - 0.4, -0.6],
        tickvals=list(range(len(rows))),
        ticktext=[plot_text(row.label) for row in rows],
        showgrid=False,
    )
    return figure


def _range(place: int, row: Row) -> Spec:
    """The shaded band from the smallest to the largest draw."""
    return {
        "type": "rect",
        "x0": min(row.draws),
        "x1": max(row.draws),
        "y0": place - 0.32,
        "y1": place + 0.32,
        "fillcolor": band_colour(row.draws_kind),
        "line": {"width": 0},
        "layer": "below",
    }


def layer_axis(figure: go.Figure, layers: Sequence[int], title: str = "layer") -> None:
    """Every layer has a tick where there are few."""
    few = max(layers) - min(layers) <= 12
    figure.update_xaxes(title=title, dtick=1 if few else None, tickformat="d", showgrid=False)


def band(figure: go.Figure, kind: str, draws: Sequence[tuple[float, float]], suffix: str) -> None:
    """The range of one kind of draw at every coef, shaded, and each draw, or where there are
    ``MANY`` their 5 to 95 %. ``draws``: (coef, y)."""
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
        fillcolor=band_colour(kind),
        **bare,
    )
    many = [(coef, five_to_95(ys)) for coef, ys in at.items() if len(ys) >= MANY]
    few = [(coef, y) for coef, y in draws if len(at[coef]) < MANY]
    for coef, (low, middle, high) in many:
        figure.add_scatter(
            x=[coef] * 3,
            y=[low, middle, high],
            mode="lines",
            line={"color": colour(kind), "width": 4},
            hovertemplate=f"{KINDS[kind].plural} at coef %{{x}}, 5, 50, 95 %: "
            f"%{{y:.1f}}{suffix}<extra></extra>",
        )
    figure.add_scatter(
        x=[coef for coef, _ in few],
        y=[y for _, y in few],
        mode="markers",
        marker={
            "color": colour(kind),
            "symbol": "line-ew-open",
            "size": 9,
            "line_width": 1.5,
        },
        hovertemplate=f"{KINDS[kind].plural} at coef %{{x}}: %{{y:.1f}}{suffix}<extra></extra>",
    )


def five_to_95(draws: Sequence[float]) -> list[float]:
    """The 5th, 50th and 95th percentile."""
    return [float(x) for x in np.quantile(draws, [0.05, 0.5, 0.95])]


def error_bars(values: Sequence[float], bounds: Sequence[Sequence[float]]) -> Spec:
    """``bounds``: low and high of each value."""
    return {
        "array": [high - y for (_, high), y in zip(bounds, values, strict=True)],
        "arrayminus": [y - low for (low, _), y in zip(bounds, values, strict=True)],
        "thickness": 2,
        "width": 0,
    }


def ring(figure: go.Figure, points: Sequence[tuple[float, float]]) -> None:
    """Around what was chosen."""
    figure.add_scatter(
        x=[x for x, _ in points],
        y=[y for _, y in points],
        mode="markers",
        marker={"color": "var(--text)", "symbol": "circle-open", "size": 20, "line_width": 1.5},
        hoverinfo="skip",
    )


def around(values: Sequence[float], share: float = 0.04, least: float = 1) -> list[float]:
    """An axis range with some room on both sides; Plotly's own may end on a reference line."""
    room = max(least, share * (max(values) - min(values)))
    return [min(values) - room, max(values) + room]


def line(axis: str, at: float, name: str) -> Spec:
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


def finish(
    figure: go.Figure, left: int = 64, right: int = 24, top: int = 8, bottom: int = 46
) -> Spec:
    """``figure`` with the page's type and colours, as plain JSON values.

    Margins are in px, the left one for the labels of the y axis. They are fixed because Plotly's
    automatic ones change with the width and can fail to settle.
    """
    figure.update_layout(
        template="none",
        showlegend=False,
        dragmode=False,
        margin={"l": left, "r": right, "t": top, "b": bottom},
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
    spec: Spec = json.loads(figure.to_json())
    return spec


def plot_text(text: str, most: int = 21) -> str:
    """Text from outside as a label of a figure, which Plotly would read as HTML.

    Cut after ``most`` characters, of which wide ones count double.
    """
    text = " ".join(visible(text).split())
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text[:most])
    return html.escape(cut(text, most - wide // 2), quote=False)
