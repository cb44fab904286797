"""The answer of a comparison of rivals for programs: ``study.json`` in the sweep's folder, with the
fields that every experiment has, and ``matches`` in the place of ``rows``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from corrsteer.report.compare import Comparison, Match, Row
from corrsteer.report.compare_page import explained, sentences, turned
from corrsteer.report.study import write_answer
from corrsteer.stats.matching import SUPPORTED, UNDECIDED, PriceRatio


def write_comparison(folder: Path, made: Sequence[Comparison], done: pd.DataFrame) -> None:
    """``made``: of every question under every model, at least one. The number is the smallest of
    the ratios of prices at equal accuracy, with its rival and price in ``of``; null without one."""
    matches = [match for one in made for match in one.matches]
    least = min(_ratios(matches), key=lambda found: found[0], default=None)
    content = {
        "claim": made[0].asked.claim,
        "answer": answer(matches),
        "sentence": " ".join(sentences(made)),
        "note": "",
        "number": None if least is None else least[0],
        "of": None if least is None else least[1],
        "interval": None if least is None else least[2],
        "smallest_gain": None,
        "reference": {"name": made[0].asked.subject},
        "margin": made[0].asked.margin,
        "matches": [_match(match) for match in matches],
        "controls": [_control(row) for one in made for row in one.rows if row.control is not None],
    }
    write_answer(folder, content, done)


def answer(matches: Sequence[Match]) -> str:
    """That of all rivals, where it is the same: so it is wrong no more often than one of them, and
    needs no correction for their number."""
    said = {match.answer for match in matches}
    return said.pop() if len(said) == 1 else UNDECIDED


def _ratios(matches: Sequence[Match]) -> list[tuple[float, str, list[float | None]]]:
    """Of the pairs that are as accurate as each other: ratio, of what, interval."""
    return [
        (price.ratio, f"{match.rival}, {name}", [_finite(bound) for bound in price.ci])
        for match in matches
        if match.deciding.equal.answer == SUPPORTED
        for name, price in match.deciding.prices.items()
        if price is not None and price.ratio is not None and math.isfinite(price.ratio)
    ]


def _match(match: Match) -> dict[str, Any]:
    pair = match.deciding
    return {
        "rival": match.rival,
        "answer": match.answer,
        "why": explained(match),
        "compared": turned(pair),
        "accuracies": list(pair.accuracies),
        "difference": pair.equal.difference,
        "interval_90": list(pair.equal.ci),
        "equal": pair.equal.answer,
        "half": pair.half,
        "prices": {name: _price(price) for name, price in pair.prices.items()},
    }


def _control(row: Row) -> dict[str, Any]:
    """Its gain over the unsteered model; p is not corrected."""
    gain = row.control
    assert gain is not None
    return {"name": row.name, "gain": gain.gain, "interval": list(gain.ci), "p": gain.p}


def _price(price: PriceRatio | None) -> dict[str, Any] | None:
    """``ratio`` null: infinite, or nothing to divide; the two prices tell which."""
    if price is None:
        return None
    ratio = None if price.ratio is None else _finite(price.ratio)
    ci = [_finite(bound) for bound in price.ci]
    return {"subject": price.subject, "rival": price.rival, "ratio": ratio, "interval": ci}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
