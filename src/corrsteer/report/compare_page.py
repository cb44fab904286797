"""A comparison of rivals as words, table and figure; see :mod:`corrsteer.report.compare`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import plotly.graph_objects as go

from corrsteer.report.compare import Comparison, Match, Pair, Row, to_halve, to_match
from corrsteer.report.compare_jobs import BROKEN, KL, OFF_TARGET, Job, share_of, shares
from corrsteer.report.numbers import interval, p_value, pct, points, ratio, short
from corrsteer.report.pages import cut
from corrsteer.report.plots import Figure, around, colour, error_bars, line, plot_text, ring
from corrsteer.report.sweep_figures import SYMBOLS
from corrsteer.stats.intervals import SIGNIFICANT, difference_ci, proportion_ci
from corrsteer.stats.matching import REFUTED, SUPPORTED, UNDECIDED, PriceRatio
from corrsteer.steering.arms import BASELINE, STEERED

MATCHES, HALF = "Matches", "Half the side effects"
"""The two parts of the claim."""
AXES = {
    OFF_TARGET: "unrelated prompts answered otherwise",
    BROKEN: "right answers broken, of all questions",
}


def called(made: Sequence[Comparison]) -> list[str]:
    """What tells comparisons of one sweep apart: the task, and the model where there are several;
    empty for one alone."""
    if len(made) < 2:
        return [""] * len(made)
    records = [one.rows[0].jobs[0].record for one in made]
    several = len({r.model for r in records}) > 1
    names = [cut(f"{r.task}, {r.model}" if several else r.task, 60) for r in records]
    before = [names[:n].count(name) for n, name in enumerate(names)]
    return [f"{name} ({n + 1})" if n else name for name, n in zip(names, before, strict=True)]


def sentences(made: Sequence[Comparison]) -> list[str]:
    return [sentence(one, name) for one, name in zip(made, called(made), strict=True)]


def sentence(made: Comparison, name: str = "") -> str:
    """The claim and its answer against every rival. ``name``: see :func:`called`."""
    claim = made.asked.claim
    head = f"{name}: {claim}" if name else f"{claim[:1].upper()}{claim[1:]}"
    if not made.matches:
        return (
            f"{head}: {UNDECIDED}, since no job of {made.asked.subject} and of a rival is done on"
            " the same questions."
        )
    by_answer = {
        said: [m.rival for m in made.matches if m.answer == said]
        for said in (SUPPORTED, REFUTED, UNDECIDED)
    }
    told = [
        f"{said} against {', '.join(names) if len(names) < 4 else f'{len(names)} rivals'}"
        for said, names in by_answer.items()
        if names
    ]
    return f"{head}: {'; '.join(told)}."


def controls(made: Comparison) -> list[str]:
    """What is to be known of each control before a rival's gain is believed."""
    return [_gains_nothing(row) for row in made.rows if row.control is not None]


def _gains_nothing(row: Row) -> str:
    gain = row.control
    assert gain is not None
    says = "not shown to gain anything"
    if gain.p <= SIGNIFICANT and gain.gain > 0:
        says = "so much is gained by the form of an answer, or by one that is often right"
    elif gain.p <= SIGNIFICANT:
        says = "fewer answers are right than without it"
    return (
        f"{row.name}, a control that was trained on answers of other questions:"
        f" {points(gain.gain)} points {interval(gain.ci)} over the unsteered model,"
        f" {p_value(gain.p)}: {says}."
    )


def explained(match: Match) -> str:
    """Why, for one rival."""
    equal = match.pairs[match.decides].equal
    if match.answer == REFUTED and equal.answer == REFUTED and not equal.ahead:
        return "less accurate by more than the margin at the dial nearest on validation"
    if match.answer == REFUTED and equal.answer == SUPPORTED:
        return "at equal accuracy a price of the rival is less than twice as high"
    if match.answer == REFUTED:
        return "at most equal in accuracy, and a price of the rival is less than twice as high"
    return match.needed or "as accurate, at half of every price that was measured"


def turned(pair: Pair) -> str:
    """Which settings a pair compares."""
    return " against ".join(", ".join(_set(some)) for some in (pair.subject, pair.rival))


def _set(jobs: Sequence[Job]) -> list[str]:
    """How one method was set, a word for each way: seeds may differ."""
    dials = ", ".join(dict.fromkeys(j.dial for j in jobs if j.dial and j.match is None))
    right = dict.fromkeys(pct(j.validation) for j in jobs if j.match is not None)
    told = [f"dial {dials}"] if dials else []
    told += [f"the checkpoint with {', '.join(right)} on validation"] if right else []
    return told or ["no dial"]


def halves(match: Match) -> dict[str, str]:
    """The two parts of the claim, each with its answer and what it takes to decide it."""
    pair = match.deciding
    equal = pair.equal
    told = f"{equal.answer}, {points(equal.difference)} points {interval(equal.ci)}"
    if more := to_match(pair):
        told += f"; to decide it: {more}"
    prices = [f"{n} {times(p)}" for n, p in pair.prices.items() if p is not None]
    cost = f"{pair.half} ({', '.join(prices) or 'no price was measured'})"
    if equal.answer != SUPPORTED:
        cost += ", at accuracies that are not shown to be equal"
    if more := to_halve(pair):
        cost += f"; to decide it: {more}"
    return {MATCHES: told, HALF: cost}


def times(price: PriceRatio | None) -> str:
    """A ratio with its interval."""
    if price is None:
        return "–"
    if price.ratio is None:
        return "–"
    at, low, high = (f"{x:.2g}" if x < 1000 else "∞" for x in (price.ratio, *price.ci))
    return f"{at} [{low}, {high}]"


def cells(row: Row) -> dict[str, str]:
    """What a table shows of a method."""
    cost = row.cost
    return {
        "dial": row.dial or "–",
        "learns from": row.learns_from or "–",
        "accuracy": f"{pct(row.accuracy)} [{100 * row.ci[0]:.1f}, {100 * row.ci[1]:.1f}]",
        "gain": points(row.gain),
        "against": "–" if row.against is None else f"{points(row.against)} ({p_value(row.p)})",
        "fixed": str(row.fixed),
        "broken": str(row.broken),
        BROKEN: ratio(row.prices[BROKEN]),
        OFF_TARGET: pct(row.prices[OFF_TARGET]),
        KL: short(row.prices[KL]),
        "fitting": _spent(cost["fit_seconds"], cost["fit_peak_mb"]),
        "answering": _spent(cost["answer_seconds"], cost["answer_peak_mb"]),
    }


def _spent(seconds: float | None, megabytes: float | None) -> str:
    if seconds is None:
        return "–"
    memory = "" if megabytes is None else f", {megabytes / 1000:.1f} GB"
    return f"{seconds:.1f} s{memory}"


COLUMNS = {
    "dial": "Dial", "learns from": "Learns from", "accuracy": "Accuracy", "gain": "Gain",
    "against": "Subject is ahead by", "fixed": "Fixed", "broken": "Broken",
    BROKEN: "Broken per fixed", OFF_TARGET: "Off-target", KL: "KL (nats)",
    "fitting": "Fitting", "answering": "Answering",
}  # fmt: skip
NOTE = (
    "Each method as validation chose it, on the same test questions. Marked: every other method"
    " is worse by a paired test, corrected for their number. Off-target: unrelated prompts"
    " answered otherwise than without the method; not measured of answers restricted to option"
    " letters, which unrelated prompts lack. KL: on neutral texts, per position; not measured"
    " of prompts. Fitting and answering (the validation split): the most that a job of the method"
    " took in this sweep, in this order of jobs: what the cache held or an earlier job had computed"
    " is not counted, so that times of methods compare only where each had a cache of its own."
    " “Front”: no other method is as accurate at a lower price. A control is no method: nothing is"
    " marked, decided or corrected for it."
)


def markdown(made: Comparison, name: str = "") -> str:
    """For a README. ``name``: see :func:`called`."""
    titles = ["Method", "Front", *COLUMNS.values()]
    lines = [sentence(made, name), "", "| " + " | ".join(titles) + " |"]
    lines.append("|---|---|" + "---:|" * len(COLUMNS))
    for row in made.rows:
        shown = cells(row)
        marked = [f"**{shown[n]}**" if n in row.best else shown[n] for n in COLUMNS]
        lines.append(f"| {row.title} | {'yes' if row.front else ''} | " + " | ".join(marked) + " |")
    titles = ["Rival", "Compared", "Subject", "Rival", "Difference", MATCHES]
    titles += [BROKEN, OFF_TARGET, KL, HALF, "Answer"]
    lines += ["", *(f"{told}\n" for told in controls(made))]
    lines += [NOTE, "", "| " + " | ".join(titles) + " |"]
    lines.append("|---|---|" + "---:|" * 3 + "---|" + "---:|" * 3 + "---|---|")
    for match in made.matches:
        for n, pair in enumerate(match.pairs):
            prices = [times(pair.prices[p]) for p in (BROKEN, OFF_TARGET, KL)]
            said = f"**{match.answer}**: {explained(match)}" if n == match.decides else ""
            accuracies = [pct(a) for a in pair.accuracies]
            difference = f"{points(pair.equal.difference)} {interval(pair.equal.ci)}"
            row_cells = [match.rival, turned(pair), *accuracies, difference, pair.equal.answer]
            lines.append("| " + " | ".join([*row_cells, *prices, pair.half, said]) + " |")
    return "\n".join([*lines, "", match_note(made), "", ""])


def match_note(made: Comparison) -> str:
    return (
        f"{made.asked.subject} turned to the rival's validation accuracy, then the rival turned to"
        " its own, by its dial or another checkpoint: the pair that is closer on validation"
        " decides, of equal ones the first. Difference: subject less rival, with its 90 % interval;"
        f" matches: it lies within {100 * made.asked.margin:g} points (two one-sided tests at 5 %)."
        " Then how many times the subject's price the rival pays, by paired bootstrap; the"
        " intervals of a row hold together at 95 %. Half: every ratio at least 2 with its interval"
        " above 1; refuted: the interval of a ratio below 2. Of both together: supported if both"
        " are; refuted: less accurate by more than the margin, or not half where the subject is at"
        " most equal."
    )


def plane(made: Comparison) -> Figure:
    """Accuracy against the price of the front: a point with intervals per method, and its dial as a
    curve; methods on the front have a ring."""
    figure = go.Figure()
    table, reach, places = [], [], []
    for symbol, row in zip(cycle(SYMBOLS), made.rows, strict=False):
        own = row.name == made.asked.subject
        paint = colour(STEERED) if own else "var(--random)"
        if row.control is not None:
            paint = "var(--muted)"
        curve = [
            (100 * share_of(j, made.axis), 100 * j.record.arms[STEERED].accuracy)
            for j in made.dials[row.name]
        ]
        figure.add_scatter(
            x=[x for x, _ in curve],
            y=[y for _, y in curve],
            mode="lines",
            line={"color": paint, "width": 2 if own else 1, "dash": "solid" if own else "dot"},
            hoverinfo="skip",
        )
        share, (low, high) = price(row, made.axis)
        x, y = 100 * share, 100 * row.accuracy
        figure.add_scatter(
            x=[x],
            y=[y],
            mode="markers",
            marker={"color": paint, "symbol": symbol, "size": 10},
            error_x=error_bars([x], [[100 * low, 100 * high]]),
            error_y=error_bars([y], [[100 * b for b in row.ci]]),
            hovertemplate=f"{plot_text(row.title, 40)}: %{{y:.1f}} %, %{{x:.1f}} %<extra></extra>",
        )
        places.append((x, y, plot_text(row.title, 24)))
        reach += [y, *(100 * b for b in row.ci)]  # a dial that ruins everything is cut off
        table.append(
            {
                "method": row.title,
                "accuracy": row.accuracy,
                "low": row.ci[0],
                "high": row.ci[1],
                "price": share,
                "price_low": low,
                "price_high": high,
                "front": row.front,
            }
        )
    ring(figure, [(x, y) for (x, y, _), r in zip(places, made.rows, strict=True) if r.front])
    base = 100 * made.rows[0].jobs[0].record.arms[BASELINE].accuracy
    span = around([*reach, base])
    figure.update_layout(
        shapes=[line("y", base, "baseline")], annotations=_labels(places, span), height=460
    )
    figure.update_yaxes(title="accuracy on test", ticksuffix=" %", range=span)
    figure.update_xaxes(title=AXES[made.axis], ticksuffix=" %")
    return Figure.of(figure, table, right=90)


def _labels(
    places: Sequence[tuple[float, float, str]], reach: Sequence[float]
) -> list[dict[str, object]]:
    """The names of points (x and y in percent), each at the first place beside its point that no
    earlier name has taken."""
    wide = max([1.0, *(x for x, _, _ in places)])
    tall = reach[1] - reach[0]
    taken: list[tuple[float, float, float]] = []
    made: list[dict[str, object]] = []
    for x, y, name in places:
        across, up = x / wide, (y - reach[0]) / tall
        length = 0.009 * len(name)
        tries = [(side, step) for step in (1, -1, 2, -2, 3, -3, 4, -4, 5, -5) for side in (1, -1)]
        spots = [
            (side, step, across if side > 0 else across - length, up + 0.035 * step)
            for side, step in tries
        ]
        free = (
            spot
            for spot in spots
            if not any(
                spot[2] < left + size and left < spot[2] + length and abs(spot[3] - at) < 0.035
                for left, at, size in taken
            )
        )
        side, step, left, at = next(free, spots[0])
        taken.append((left, at, length))
        made.append(
            {
                **{"x": x, "y": y, "text": name, "showarrow": False, "yanchor": "middle"},
                "xanchor": "left" if side > 0 else "right",
                **{"xshift": 6 * side, "yshift": 13 * step},
                "font": {"size": 11, "color": "var(--text)"},
            }
        )
    return made


def price(row: Row, axis: str) -> tuple[float, tuple[float, float]]:
    """Of the front, with its 95 % interval over prompts or questions, each of which counts once,
    however many seeds asked it."""
    of_unit = shares(row.jobs, axis)
    if len(row.jobs) == 1:
        return float(of_unit.mean()), proportion_ci(int(of_unit.sum()), len(of_unit))
    low, high = difference_ci(of_unit.to_numpy())
    return float(of_unit.mean()), (max(low, 0.0), high)


def shown(made: Sequence[Comparison]) -> list[dict[str, object]]:
    """What the page's template reads of each comparison."""
    return [
        {
            "heading": f"{name}: rivals at equal accuracy" if name else "Rivals at equal accuracy",
            "sentence": sentence(one, name),
            "answers": [(m.rival, m.answer, explained(m), halves(m)) for m in one.matches],
            "rows": [(row, cells(row)) for row in one.rows],
            "columns": COLUMNS,
            "controls": controls(one),
            "note": NOTE,
            "matches": [
                (m, explained(m), [(p, turned(p), [times(x) for x in p.prices.values()])
                                   for p in m.pairs])
                for m in one.matches
            ],
            "prices": [BROKEN, OFF_TARGET, KL],
            "match_note": match_note(one),
            "figure": plane(one),
        }
        for one, name in zip(made, called(made), strict=True)
    ]  # fmt: skip
