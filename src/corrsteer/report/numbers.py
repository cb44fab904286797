"""Numbers as text: fractions in percent, differences in points, layers as ranges.

With typographic minus signs, and no-break spaces before units. Cheap to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

_ABSENT = "–"
NBSP = "\N{NO-BREAK SPACE}"


def pct(share: float | None) -> str:
    return _ABSENT if share is None else _minus(f"{100 * share:.1f}{NBSP}%")


def points(share: float | None) -> str:
    """A difference of fractions in percentage points, signed."""
    # float(): NumPy's scalars round 7.15 differently, and one number would be shown as two.
    return _ABSENT if share is None else _minus(f"{round(100 * float(share), 1) + 0.0:+.1f}")


def r_value(r: float | None) -> str:
    return _ABSENT if r is None else _minus(f"{r:.3f}")


def ratio(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.2f}"


def short(value: float | None) -> str:
    return _ABSENT if value is None else _minus(f"{value:.3g}")


def nats(value: float | None) -> str:
    """A log-likelihood or a difference of two, signed."""
    return _ABSENT if value is None else _minus(f"{value + 0.0:+.3g}")


def whole(value: float | None) -> str:
    return _ABSENT if value is None else f"{int(value):,}"


def counted(n: int, noun: str) -> str:
    """1 -> "1 answer", 2 -> "2 answers"."""
    return f"{whole(n)} {noun}{'' if n == 1 else 's'}"


def p_value(p: float | None) -> str:
    if p is None:
        return _ABSENT
    if p < 1e-300:
        sign, text = "<", "1e-300"
    elif p < 1e-3:
        sign, text = "=", f"{p:.0e}".replace("e-0", "e-")
    else:
        sign, text = "=", f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
    return f"p{NBSP}{sign}{NBSP}{text}"


def interval(bounds: Sequence[float]) -> str:
    """[0.049, 0.073] -> "[+4.9, +7.3]", in points."""
    return f"[{points(bounds[0])}, {points(bounds[1])}]"


def layer_text(layers: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def date(stamp: str) -> str:
    return datetime.fromisoformat(stamp).strftime("%Y-%m-%d %H:%M")


def plain_text(text: str) -> str:
    """A sentence for a terminal, which may know ASCII alone: plain minus signs, quotes, spaces."""
    return text.translate(str.maketrans(f"−–{NBSP}“”", '-- ""'))


def _minus(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text
