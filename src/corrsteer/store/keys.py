"""What stands for a result, a component or some data in the stage cache.

Everything that is cached is found by these: a change of what :func:`key` or :func:`canonical`
returns makes all that was computed before unreachable.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import Container, OmegaConf


def key(stage: str, schema: int, settings: Mapping[str, Any]) -> str:
    """32 hex digits that stand for a stage's result. ``schema`` numbers the form of its files.

    The same in every process and for ``1`` and ``1.0``. TypeError for settings that have no
    canonical form (:func:`canonical`).
    """
    content = {"stage": stage, "schema": schema, "settings": canonical(settings)}
    text = json.dumps(content, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def canonical(value: Any) -> Any:
    """The JSON-ready form that cache keys hash: equal settings give equal forms.

    Keys are sorted, tuples become lists, records become objects, and a whole float becomes an
    int, so that ``coef=1`` and ``coef=1.0`` are one setting. TypeError for anything that has no
    such form; a Path is refused on purpose: where a thing lies must not change its key.
    """
    if isinstance(value, Container):
        return canonical(OmegaConf.to_container(value, resolve=True, throw_on_missing=True))
    if is_dataclass(value) and not isinstance(value, type):
        return canonical({f.name: getattr(value, f.name) for f in fields(value)})
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value} cannot be in a cache key")
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"keys must be strings: {list(value)}")
        return {key: canonical(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    raise TypeError(f"a {type(value).__name__} cannot be in a cache key: {value!r}")


def digest(value: Any) -> str:
    """32 hex digits of bytes, or of a JSON-ready value."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return hashlib.sha256(raw).hexdigest()[:32]


def component(part: Any) -> str | dict[str, Any]:
    """What stands for a component: its class and all its settings.

    ``"Add"`` for a class without settings, else ``{"name": "Clamp", "low": 0, ...}``. Classes of
    other packages have their full name, since two packages may have one of the same name. A
    component within another is named, too. TypeError for anything that is not a frozen dataclass:
    what can change, or keeps settings elsewhere, cannot be told by its fields.
    """
    kind = type(part)
    parameters = vars(kind).get("__dataclass_params__")  # its own: a subclass may keep more
    if parameters is None or not parameters.frozen:
        raise TypeError(f"only a frozen dataclass can be in a cache key, not {part!r}")
    own = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
    name = kind.__qualname__ if own else f"{kind.__module__}.{kind.__qualname__}"
    settings = {f.name: _setting(getattr(part, f.name)) for f in fields(part)}
    if "name" in settings:
        raise TypeError(f"{name} has a field called name, which would hide the name of its class")
    return {"name": name, **settings} if settings else name


def _setting(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return component(value)
    if isinstance(value, list | tuple):
        return [_setting(item) for item in value]
    return canonical(value)
