"""Scores a sum: the number after the last ``####``, else the last number of the answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from corrsteer.records import Example, Score

# ASCII digits only: \d would match digits of every script.
_NUMBER = re.compile(r"[-−]?[0-9][0-9,]*(?:\.[0-9]+)?|[-−]?\.[0-9]+")


@dataclass(frozen=True)
class Numeric:
    version: int = 1

    def __call__(self, example: Example, text: str) -> Score:
        parsed = _number(text)
        if parsed is None:
            return Score(0.0, None)
        return Score(float(parsed == _number(example.gold)), str(parsed))


def _number(text: str) -> Decimal | None:
    tail = text.rsplit("####", 1)[1] if "####" in text else text
    found = _NUMBER.findall(tail)
    if not found:
        return None
    # After #### the first number is the answer; in free text it is the last.
    token = found[0] if "####" in text else found[-1]
    try:
        return Decimal(token.replace(",", "").replace("−", "-"))
    except InvalidOperation:
        return None
