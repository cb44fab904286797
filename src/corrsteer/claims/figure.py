"""``docs/claims.svg``: the deciding numbers that are differences in points, with their intervals.

Plain SVG, so that the same file is made everywhere; its colours follow the reader's light or dark
page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from corrsteer.claims.asked import CLAIMS
from corrsteer.claims.page import MODELS, anchor
from corrsteer.claims.record import Found, Kept
from corrsteer.report.numbers import points

FIGURE = "claims.svg"
LEFT, WIDE, ROW, TOP = 260, 420, 26, 34
STYLE = (
    "text{font:13px sans-serif;fill:#222}line,path{stroke:#222}.grid{stroke:#ccc}"
    ".supported{fill:#1a7f37;stroke:#1a7f37}.refuted{fill:#b3261e;stroke:#b3261e}"
    ".undecided{fill:#777;stroke:#777}"
    "@media (prefers-color-scheme:dark){text{fill:#ddd}line,path{stroke:#ddd}.grid{stroke:#555}"
    ".supported{fill:#3fb950;stroke:#3fb950}.refuted{fill:#ff7b72;stroke:#ff7b72}"
    ".undecided{fill:#aaa;stroke:#aaa}}"
)


def rows(kept: Kept) -> list[tuple[str, Found]]:
    """Label and answer, in the order of the page."""
    found = []
    for claim in CLAIMS:
        for model, name in MODELS.items():
            got = kept.answer(claim.study, claim.name, model)
            if got and (number := got[1].number) and number.unit == "points" and number.ci:
                label = anchor(claim) + ("" if model == "bundled" else f", {name}")
                found.append((label, got[1]))
    return found


def figure(kept: Kept) -> str:
    """An empty drawing where there is no such number."""
    drawn = rows(kept)
    reach = [abs(100 * x) for _, f in drawn if f.number and f.number.ci for x in f.number.ci]
    most = max(5, 5 * math.ceil(max(reach, default=0.0) / 5))
    height = TOP + ROW * len(drawn) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDE + 30} {height}"'
        ' role="img">',
        f"<title>Deciding numbers in points, with 95 % intervals</title><style>{STYLE}</style>",
        *_axis(most, height),
    ]
    for n, (label, found) in enumerate(drawn):
        parts += _row(label, found, TOP + ROW * n + ROW / 2, most)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _at(share: float, most: float) -> str:
    return f"{LEFT + WIDE * (100 * share + most) / (2 * most):.1f}"


def _axis(most: float, height: int) -> Iterator[str]:
    for tick in (-most, -most / 2, 0.0, most / 2, most):
        x, kind = _at(tick / 100, most), "" if tick == 0 else ' class="grid"'
        said = points(tick / 100) if tick else "0"
        yield f'<line{kind} x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{height - 6}"/>'
        yield f'<text x="{x}" y="{TOP - 14}" text-anchor="middle">{said}</text>'


def _row(label: str, found: Found, y: float, most: float) -> Iterator[str]:
    assert found.number is not None and found.number.ci is not None
    low, high = (_at(bound, most) for bound in found.number.ci)
    kind = f'class="{found.answer}"'
    yield f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(label)}</text>'
    yield f'<line {kind} stroke-width="2" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
    yield f'<circle {kind} cx="{_at(found.number.value, most)}" cy="{y}" r="4"/>'
