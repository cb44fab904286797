"""The answer that a study writes itself: ``study.json`` in its folder."""

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
    """What :mod:`corrsteer.report.study` writes, as an answer here."""
    reference, number = content["reference"], content["number"]
    against = f"against {reference}" if reference and unit == "points" else "deciding number"
    deciding = next((r["name"] for r in content["rows"] if r["gain"]["gain"] == number), "")
    return Found(
        answer=content["answer"],
        sentence=content["sentence"],
        number=None
        if number is None
        else Number(
            what=f"{deciding} {against}".strip(), value=number, ci=content["interval"], unit=unit
        ),
        smallest=content["smallest_gain"],
        table=_table(content["rows"], reference),
    )


def _table(rows: Sequence[Mapping[str, Any]], reference: str) -> Table:
    lines = []
    for row in rows:
        equal = row.get("equal")
        lines.append([
            row["name"], row.get("dial") or "–", pct(row["accuracy"]),
            f"{points(row['gain']['gain'])} {interval(row['gain']['ci'])}",
            p_value(row["p"])[4:],
            f"{points(equal['gain'])} {interval(equal['ci'])}" if equal else "–",
        ])  # fmt: skip
    columns = ["Arm", "coef", "Accuracy", f"Against {reference or 'the reference'} [95 %]",
               "p (Holm)", "At equal norm [95 %]"]  # fmt: skip
    return Table(columns=columns, rows=lines)
