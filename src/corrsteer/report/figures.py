"""The figures of a run's report, as Plotly specifications (plain JSON values) with their data.

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

import pandas as pd
import plotly.graph_objects as go

from corrsteer.report.pages import cut, plain, visible

COLOUR = {
    "baseline": "var(--baseline)",
    "steered": "var(--steered)",
    "constrained": "var(--constrained)",
    "random": "var(--random)",
}
_DASH = {"baseline": "solid", "chance": "dash", "constrained": "dot", "steered": "dashdot"}


@dataclass(frozen=True)
class Figure:
    """What is drawn, and the numbers it shows as a table that can be downloaded."""

    spec: dict
    columns: tuple[str, ...]
    rows: list[list[Any]]

    @classmethod
    def of(cls, figure: go.Figure, rows: Iterable[Mapping[str, Any]], **margins: int) -> Figure:
        """``rows``: all with the same keys; they become the columns of the table. ``margins``:
        those of :func:`finish`."""
        records = list(rows)
        columns = tuple(records[0]) if records else ()
        table = [[plain(row[name]) for name in columns] for row in records]
        return cls(finish(figure, **margins), columns, table)

    @property
    def table(self) -> dict[str, Any]:
        return {"columns": self.columns, "rows": self.rows}


@dataclass(frozen=True)
class Row:
    """One row of :func:`by_row`. ``draws``: what each draw of a control gives; their range becomes
    a band. ``value`` has a mark of its own, with its 95 % interval."""

    label: str
    kind: str
    value: float | None = None
    ci: Sequence[float] | None = None
    draws: Sequence[float] = ()

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
    """Values beside each other, a row for each. ``lines``: name (of a colour and a dash) -> where a
    vertical line stands."""
    figure = go.Figure()
    bands = []
    for n, row in enumerate(rows):
        colour = COLOUR.get(row.kind, COLOUR["random"])
        if row.draws:
            bands.append(_range(n, min(row.draws), max(row.draws)))
            figure.add_scatter(
                x=list(row.draws),
                y=[n] * len(row.draws),
                mode="markers",
                marker={
                    "color": COLOUR["random"],
                    "symbol": "line-ns-open",
                    "size": 12,
                    "line_width": 2,
                },
                hovertemplate=f"draw: %{{x:.{digits}f}}{suffix}<extra></extra>",
            )
        if row.value is not None:
            said, error = "", None
            if row.ci is not None:
                said = f" ({row.ci[0]:.{digits}f} to {row.ci[1]:.{digits}f})"
                error = error_bars([row.value], [row.ci])
            figure.add_scatter(
                x=[row.value],
                y=[n],
                mode="markers",
                marker={"color": colour, "size": 10},
                error_x=error,
                hovertemplate=f"%{{x:.{digits}f}}{suffix}{said}<extra></extra>",
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


def _range(row: int, low: float, high: float) -> dict:
    """The shaded band from the least to the largest draw."""
    return {
        "type": "rect",
        "x0": low,
        "x1": high,
        "y0": row - 0.32,
        "y1": row + 0.32,
        "fillcolor": "var(--random-band)",
        "line": {"width": 0},
        "layer": "below",
    }


LEFT = 176  # px for the labels of by_row


def arms(rows: Sequence[Mapping[str, Any]], chance: float | None) -> Figure:
    """Accuracy of every arm; vertical lines at the baseline and at chance. An arm alone of its kind
    has its 95 % interval, the draws of a control are marks on the band that they span.

    ``rows``: ``label``, ``kind`` (a key of ``COLOUR``, or another control), ``accuracy`` and ``ci``
    (shares of 1), those of a kind together.
    """
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row)
    shown = []
    for kind, same in kinds.items():
        percent = [100 * row["accuracy"] for row in same]
        if len(same) == 1:
            ci = [100 * bound for bound in same[0]["ci"]]
            shown.append(Row(same[0]["label"], kind, percent[0], ci))
        else:
            label = same[0]["label"].rstrip("0123456789 ")
            shown.append(Row(f"{label} ×{len(same)}", kind, draws=percent))
    lines = {"baseline": 100 * rows[0]["accuracy"]}
    if chance is not None:
        lines["chance"] = 100 * chance
    figure = by_row(shown, "accuracy on the test split", suffix=" %", lines=lines)
    base = rows[0]["accuracy"]
    table = [
        {
            "arm": row["label"],
            "kind": row["kind"],
            "n": row["n"],
            "accuracy": row["accuracy"],
            "low": row["ci"][0],
            "high": row["ci"][1],
            "gain": row["accuracy"] - base,
            "invalid_rate": row["invalid_rate"],
            "degenerate": row["degenerate"],
        }
        for row in rows
    ]
    return Figure.of(figure, table, left=LEFT)


def off_target(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Answers to unrelated prompts that changed, per 1,000, with 95 % intervals.

    ``rows``: ``label``, ``kind``, ``changed``, ``n``, ``rate`` and ``ci`` (shares of 1).
    """
    shown = [
        Row(r["label"], r["kind"], 1000 * r["rate"], [1000 * b for b in r["ci"]]) for r in rows
    ]
    figure = by_row(shown, "changed per 1,000 prompts", digits=0, lines={"baseline": 0})
    names = ("label", "changed", "n", "rate")
    table = [
        {"arm" if n == "label" else n: r[n] for n in names}
        | {"low": r["ci"][0], "high": r["ci"][1]}
        for r in rows
    ]
    return Figure.of(figure, table, left=LEFT)


def neutral(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """KL divergence to the unsteered model on neutral text, with 95 % intervals.

    ``rows``: ``label``, ``kind``, ``kl``, ``kl_ci`` (nats per token) and ``top1_changed``.
    """
    shown = [Row(r["label"], r["kind"], r["kl"], r["kl_ci"]) for r in rows]
    figure = by_row(shown, "KL, nats per token", digits=4, lines={"baseline": 0})
    figure.update_xaxes(tickformat=".3~f", nticks=6)
    table = [
        {
            "arm": r["label"],
            "kl": r["kl"],
            "low": r["kl_ci"][0],
            "high": r["kl_ci"][1],
            "top1_changed": r["top1_changed"],
        }
        for r in rows
    ]
    return Figure.of(figure, table, left=LEFT)


def activity(layers: Sequence[Mapping[str, Any]]) -> tuple[Figure, Figure]:
    """Active features per position and layer, before and after; and those that are new or lost.

    ``layers``: ``layer``, ``l0_before``, ``l0_after``, ``new``, ``lost``, ``steered``.
    """
    x = [row["layer"] for row in layers]
    before_after = go.Figure()
    for name, symbol, colour in (
        ("before", "circle-open", COLOUR["baseline"]),
        ("after", "circle", COLOUR["steered"]),
    ):
        before_after.add_scatter(
            x=x,
            y=[row[f"l0_{name}"] for row in layers],
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"color": colour, "symbol": symbol, "size": 8, "line_width": 2},
            hovertemplate=f"layer %{{x}} {name}: %{{y:.1f}}<extra></extra>",
        )
    before_after.update_yaxes(title="active features per position (L0)")
    turned = go.Figure()
    for name, sign, colour in (
        ("new", 1, COLOUR["steered"]),
        ("lost", -1, "var(--broken)"),
    ):
        turned.add_bar(
            x=x,
            y=[sign * row[name] for row in layers],
            customdata=[row[name] for row in layers],
            marker={"color": colour},
            width=0.6,
            hovertemplate=f"layer %{{x}}: %{{customdata:.2f}} {name}<extra></extra>",
        )
    most = max((row[name] for row in layers for name in ("new", "lost")), default=1)
    turned.update_layout(barmode="relative", shapes=[line("y", 0, "baseline")])
    turned.update_yaxes(title="features per position", range=around([-most, most]))
    for figure in (before_after, turned):
        figure.update_layout(height=280)
        _layer_axis(figure, x)
    tables = (("layer", "steered", "l0_before", "l0_after"), ("layer", "steered", "new", "lost"))
    drawn = (
        Figure.of(figure, [{name: row[name] for name in names} for row in layers])
        for figure, names in zip((before_after, turned), tables, strict=True)
    )
    first, second = drawn
    return first, second


def transfer(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Gain of the plan on each task with its 95 % interval, and the range of the random draws.

    ``rows``: ``task``, ``baseline`` and ``steered`` accuracy, ``gain``, ``gain_ci`` (shares of 1),
    ``random_gains`` and the flips.
    """
    shown = [
        Row(
            r["task"],
            "steered",
            100 * r["gain"],
            [100 * bound for bound in r["gain_ci"]],
            [100 * gain for gain in r["random_gains"]],
        )
        for r in rows
    ]
    figure = by_row(shown, "gain in points", lines={"baseline": 0})
    names = ("task", "n", "baseline", "steered", "gain", "fixed", "broken", "ser", "best_random")
    table = [
        {n: r[n] for n in names} | {"gain_low": r["gain_ci"][0], "gain_high": r["gain_ci"][1]}
        for r in rows
    ]
    return Figure.of(figure, table, left=LEFT)


def correlation(features: pd.DataFrame) -> Figure:
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
    _layer_axis(figure, best["layer"].tolist())
    figure.update_yaxes(title="correlation with success", rangemode="tozero")
    names = ["layer", "rank", "feature", "r", "ceiling", "noise", "chosen"]
    return Figure.of(figure, features[names].to_dict("records"))


def _layer_axis(figure: go.Figure, layers: Sequence[int], title: str = "layer") -> None:
    few = max(layers) - min(layers) <= 12
    figure.update_xaxes(title=title, dtick=1 if few else None, tickformat="d", showgrid=False)


def ablation(rows: Sequence[Mapping[str, Any]], whole: float) -> Figure:
    """Gain over the baseline for one kind of ablation, with 95 % intervals: bars by layer, or a
    line by the number of layers. A horizontal line is the gain of the ``whole`` plan.

    ``rows``: those of one kind of a run's ``ablations.csv``.
    """
    by_layer = rows[0]["kind"] in ("alone", "left_out")
    x = [row["layer" if by_layer else "k"] for row in rows]
    gains = [100 * row["gain"] for row in rows]
    bounds = [[100 * row["gain_low"], 100 * row["gain_high"]] for row in rows]
    error = error_bars(gains, bounds)
    error["color"] = "var(--text)" if by_layer else COLOUR["steered"]
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
    lines = [line("y", 0, "baseline"), line("y", 100 * whole, "steered")]
    figure.update_layout(shapes=lines, height=280)
    _layer_axis(figure, x, "layer" if by_layer else "layers that steer")
    reach = [100 * row[bound] for row in rows for bound in ("gain_low", "gain_high")]
    figure.update_yaxes(title="gain in points", range=around([0, 100 * whole, *reach]))
    return Figure.of(figure, rows)


def pareto(trials: pd.DataFrame, begun: Sequence[int]) -> Figure:
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
    ring(figure, list(points))
    figure.update_layout(height=380)
    figure.update_xaxes(
        title="right answers that broke", ticksuffix=" %", range=around(shares.tolist())
    )
    figure.update_yaxes(
        title="accuracy on validation", ticksuffix=" %", range=around(accuracies.tolist())
    )
    return Figure.of(figure, trials.to_dict("records"))


def error_bars(values: Sequence[float], bounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """``bounds``: low and high of each value."""
    return {
        "array": [high - y for (_, high), y in zip(bounds, values, strict=True)],
        "arrayminus": [y - low for (low, _), y in zip(bounds, values, strict=True)],
        "thickness": 2,
        "width": 0,
    }


def ring(figure: go.Figure, points: list[tuple[float, float]]) -> None:
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


def line(axis: str, at: float, name: str) -> dict:
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
) -> dict:
    """Give the figure the page's type and colours; return it as plain JSON values.

    The room around it is in px, ``left`` being for the labels of the y axis. Margins are fixed
    because Plotly's automatic ones change with the width and can fail to settle.
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
    return json.loads(figure.to_json())


def plot_text(text: str, most: int = 21) -> str:
    """Text from outside as a label of a figure, where Plotly would read HTML.

    ``most``: at most so many characters, of which wide ones count double.
    """
    text = " ".join(visible(text).split())
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text[:most])
    return html.escape(cut(text, most - wide // 2), quote=False)
