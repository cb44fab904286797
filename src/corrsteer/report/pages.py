"""How a report page is written: numbers as text, and templates with everything escaped.

Cheap but for the 5 MB of plotly.js that each page embeds (10 ms).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

_ABSENT = "–"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
NBSP = "\N{NO-BREAK SPACE}"


def visible(text: str) -> str:
    """Write control characters, which a browser drops or shows as nothing, as ``\\x00``."""
    return _CONTROL.sub(lambda c: f"\\x{ord(c.group()):02x}", text)


def cut(text: str, most: int) -> str:
    """At most so many characters of a text, for places that have no room for more."""
    return text if len(text) <= most else text[: most - 1] + "…"


def plain(value: Any) -> Any:
    """A number, text or truth value as JSON holds it; None for NaN, infinities and NA."""
    if isinstance(value, str):
        return visible(value)
    value = value.item() if hasattr(value, "item") else value
    missing = value is None or value is pd.NA or (isinstance(value, float) and not isfinite(value))
    return None if missing else value


def pct(share: float | None) -> str:
    return _ABSENT if share is None else _minus(f"{100 * share:.1f}{NBSP}%")


def points(share: float | None) -> str:
    """A difference of shares in percentage points, signed."""
    # float(): NumPy's scalars round 7.15 another way, and one number would read two ways.
    return _ABSENT if share is None else _minus(f"{round(100 * float(share), 1) + 0.0:+.1f}")


def r_value(r: float | None) -> str:
    return _ABSENT if r is None else _minus(f"{r:.3f}")


def ratio(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.2f}"


def short(value: float | None) -> str:
    return _ABSENT if value is None else _minus(f"{value:.3g}")


def whole(value: float | None) -> str:
    return _ABSENT if value is None else f"{int(value):,}"


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


def _minus(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text


_FILTERS = {
    "pct": pct, "points": points, "r": r_value, "ratio": ratio, "short": short, "whole": whole,
    "p": p_value, "layers": layer_text, "date": date, "interval": interval, "cut": cut,
    "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
}  # fmt: skip


def _show(value: Any) -> Any:
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return visible(value) if plain else value


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("corrsteer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_show,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    return environment


@cache
def _scripts() -> dict[str, Markup]:
    own = _templates().loader.get_source(_templates(), "report.js")[0]  # type: ignore[union-attr]
    return {"plotly": Markup(get_plotlyjs()), "script": Markup(own)}


@cache
def _policy() -> str:
    """No connection, no script but the page's own two, which it knows by their hashes."""
    digests = (hashlib.sha256(script.encode()).digest() for script in _scripts().values())
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def write_page(path: Path, template: str, page: Mapping[str, Any]) -> Path:
    """Render ``template`` with the values of ``page`` into ``path``; return ``path``."""
    own = {**_scripts(), "policy": _policy()}
    html = _templates().get_template(template).render(page, **own)
    # A token may be half of a surrogate pair, which UTF-8 cannot hold: it shows as "?".
    path.write_bytes(html.encode("utf-8", "replace"))
    return path
