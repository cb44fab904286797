"""How a report page is written: text made visible, and templates with everything escaped.

Cheap but for the 5 MB of plotly.js that each page embeds (10 ms).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from math import isfinite
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from corrsteer.report.numbers import (
    counted,
    date,
    interval,
    layer_text,
    nats,
    p_value,
    pct,
    points,
    r_value,
    ratio,
    short,
    whole,
)

Plain = str | bool | int | float | None
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def visible(text: str) -> str:
    """``text`` with control characters, which a browser drops, written as ``\\x00``."""
    return _CONTROL.sub(lambda c: f"\\x{ord(c.group()):02x}", text)


def cut(text: str, most: int) -> str:
    """The first ``most`` characters of a text, where there is no room for more."""
    return text if len(text) <= most else text[: most - 1] + "…"


def plain(value: object) -> Plain:
    """A number, text or truth value of Python or NumPy as JSON holds it; None for NaN, infinities
    and NA."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, str):
        return visible(value)
    if value is None or value is pd.NA or (isinstance(value, float) and not isfinite(value)):
        return None
    assert isinstance(value, bool | int | float), value
    return value


_FILTERS = {
    "pct": pct, "points": points, "r": r_value, "ratio": ratio, "short": short, "whole": whole,
    "counted": counted, "nats": nats,
    "p": p_value, "layers": layer_text, "date": date, "interval": interval, "cut": cut,
    "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
}  # fmt: skip


def _show(value: object) -> object:
    foreign = isinstance(value, str) and not isinstance(value, Markup)
    return visible(str(value)) if foreign else value


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
    """No connections, and no scripts but the page's own two, identified by their hashes."""
    digests = (hashlib.sha256(script.encode()).digest() for script in _scripts().values())
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def write_page(path: Path, template: str, page: Mapping[str, object]) -> Path:
    """Render ``template`` with the values of ``page`` to ``path``; return ``path``."""
    own = {**_scripts(), "policy": _policy()}
    html = _templates().get_template(template).render(page, **own)
    # A token may be half of a surrogate pair, which UTF-8 cannot encode: it becomes "?".
    path.write_bytes(html.encode("utf-8", "replace"))
    return path
