"""The answer that a study writes itself: ``study.json`` in its folder.

Either the fields of :class:`corrsteer.claims.record.Found`, or what an experiment writes, which has
``rows``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from corrsteer.claims.record import Found, Number, Table, Unit
from corrsteer.errors import DataError
from corrsteer.report.numbers import interval, p_value, pct, points

FILE = "study.json"


def study_file(claim: str, unit: Unit = "points") -> Callable[[Path], Mapping[str, Found]]:
    """What reads the answer to ``claim`` from a study's folder. ``unit``: of an experiment's
    deciding number. Raises DataError where the file is missing, or holds something else."""

    def read(folder: Path) -> Mapping[str, Found]:
        file = folder / FILE
        try:
            content: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if "rows" in content:
                return {claim: of_experiment(content, unit)}
            return {claim: Found.model_validate(content)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            words = " ".join(str(error).split())[:200]
            raise DataError(
                f"cannot read {file} ({words}): type the study's command again"
            ) from None

    return read


def of_experiment(content: Mapping[str, Any], unit: Unit) -> Found:
    """What :mod:`corrsteer.report.study` writes, as an answer here. An interval is the deciding
    number's only where it holds it: some experiments give that of another one."""
    first, number, ci = content["reference"], content["number"], content["interval"]
    reference = first["name"] if isinstance(first, Mapping) else first
    deciding = next((r["name"] for r in content["rows"] if r["gain"]["gain"] == number), "")
    what = f"{deciding} against {reference}".strip()
    if unit != "points":
        what = "deciding number"
    own = number is not None and ci is not None and ci[0] <= number <= ci[1]
    return Found(
        answer=content["answer"],
        sentence=" ".join(filter(None, (content["sentence"], content.get("note")))),
        number=None
        if number is None
        else Number(what=what, value=number, ci=tuple(ci) if own else None, unit=unit),
        smallest=content["smallest_gain"],
        table=_table(content["rows"], first if isinstance(first, Mapping) else {"name": first}),
    )


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
