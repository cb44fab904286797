"""The answer that a study writes itself: ``study.json`` in its folder.

Either the fields of :class:`corrsteer.claims.record.Found`, or what an experiment writes, which has
``rows``, or ``matches`` where it compares rivals.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from corrsteer.claims.record import Found, Number, Table
from corrsteer.errors import DataError
from corrsteer.report.numbers import interval, p_value, pct, points

FILE = "study.json"


def study_file(claim: str, what: str = "") -> Callable[[Path], Mapping[str, Found]]:
    """What reads the answer to ``claim`` from a study's folder. ``what``: as for
    :func:`of_experiment`. Raises DataError where the file is missing, or holds something else."""

    def read(folder: Path) -> Mapping[str, Found]:
        file = folder / FILE
        try:
            content: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if "rows" in content:
                return {claim: of_experiment(content, what)}
            if "matches" in content:
                return {claim: of_comparison(content)}
            return {claim: Found.model_validate(content)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            words = " ".join(str(error).split())[:200]
            raise DataError(
                f"cannot read {file} ({words}): type the study's command again"
            ) from None

    return read


def of_experiment(content: Mapping[str, Any], what: str = "") -> Found:
    """What :mod:`corrsteer.report.study` writes, as an answer here. ``what``: the deciding number,
    of a study where it is no gain of an arm."""
    first, number, ci = content["reference"], content["number"], content["interval"]
    reference = first["name"] if isinstance(first, Mapping) else first
    if not what:
        deciding = next((r["name"] for r in content["rows"] if r["gain"]["gain"] == number), "")
        what = f"{deciding} against {reference}".strip()
    own = number is not None and ci is not None and ci[0] <= number <= ci[1]
    return Found(
        answer=content["answer"],
        sentence=" ".join(filter(None, (content["sentence"], content.get("note")))),
        number=None
        if number is None
        else Number(what=what, value=number, ci=tuple(ci) if own else None, unit="points"),
        smallest=content["smallest_gain"],
        held=content["held"],
        table=_table(content["rows"], first if isinstance(first, Mapping) else {"name": first}),
    )


def of_comparison(content: Mapping[str, Any]) -> Found:
    """What :mod:`corrsteer.report.compare_answer` writes: the number is the smallest ratio of a
    price at equal accuracy, where there is one."""
    number, ci = content["number"], content["interval"]
    known = ci is not None and None not in ci
    return Found(
        answer=content["answer"],
        sentence=content["sentence"],
        number=None
        if number is None
        else Number(
            what=f"smallest ratio of a price ({content['of']})", value=number,
            ci=tuple(ci) if known else None, unit="number",
        ),
        table=_matches(content["matches"], content["reference"]["name"]),
    )  # fmt: skip


def _matches(matches: Sequence[Mapping[str, Any]], subject: str) -> Table:
    prices = list(dict.fromkeys(name for match in matches for name in match["prices"]))
    lines = [
        [match["rival"], match["compared"], *(pct(a) for a in match["accuracies"]),
         f"{points(match['difference'])} {interval(match['interval_90'])}",
         *(_times(match["prices"].get(name)) for name in prices),
         f"{match['answer']}: {match['why']}"] for match in matches
    ]  # fmt: skip
    columns = ["Rival", "Compared", subject, "Rival's accuracy", "Difference [90 %]",
               *(f"{name}, ratio [95 %]" for name in prices), "Answer"]  # fmt: skip
    return Table(columns=columns, rows=lines)


def _times(price: Mapping[str, Any] | None) -> str:
    if price is None or (price["ratio"] is None and not (price["rival"] and price["subject"] == 0)):
        return "–"
    at, low, high = ("∞" if x is None else f"{x:.2g}" for x in (price["ratio"], *price["interval"]))
    return f"{at} [{low}, {high}]"


def _table(rows: Sequence[Mapping[str, Any]], first: Mapping[str, Any]) -> Table:
    name = first["name"] or "the reference"
    lines = [[name, first.get("dial") or "–", pct(first.get("accuracy")), "–", "–", "–"]]
    for row in rows:
        equal = row.get("equal")
        lines.append([
            row["name"], row.get("dial") or "–", pct(row["accuracy"]),
            f"{points(row['gain']['gain'])} {interval(row['gain']['ci'])}",
            p_value(row["p"])[4:],
            f"{points(equal['gain'])} {interval(equal['ci'])}" if equal else "–",
        ])  # fmt: skip
    columns = ["Arm", "coef", "Accuracy", f"Against {name} [95 %]", "p (Holm)",
               "At equal norm [95 %]"]  # fmt: skip
    return Table(columns=columns, rows=lines)
