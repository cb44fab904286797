"""Whether a component fits the seam it is put into, and its values their types: in words.

A *seam* is a :class:`typing.Protocol`, or a class. Cheap: annotations are looked at, nothing is
computed.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import types
import typing
from collections.abc import Mapping, Sequence, Set
from dataclasses import is_dataclass
from typing import Any

from corrsteer.errors import ConfigError


def require(component: object, seam: type, setting: str) -> None:
    """Raise ConfigError, which names the setting, where a component lacks part of a seam, or has
    another kind of value there."""
    if wrong := mismatch(component, seam) or wrong_value(component, seam):
        raise ConfigError(f"{setting}: {wrong}")


def mismatch(component: object, seam: type) -> str:
    """What a component lacks of a seam, in words; empty if nothing. Runs no code of it."""
    if not getattr(seam, "_is_protocol", False):
        return "" if isinstance(component, seam) else f"it must be {named(seam)}"
    for name, member in members(seam).items():
        if wrong := _unlike(component, name, member):
            return f"{named(seam)} must have {wrong}"
    parameters = getattr(type(component), "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        return "it must be a frozen dataclass, whose fields are its settings"
    return ""


def wrong_value(component: object, seam: type) -> str:
    """Which value that a protocol asks for is of another type, in words; empty if none. Of a
    component that has all of them."""
    if not getattr(seam, "_is_protocol", False):
        return ""
    for name, member in members(seam).items():
        if not isinstance(member, property):
            continue
        try:
            value = getattr(component, name)
        except Exception as error:  # whatever their own code raises
            return f"its {name} cannot be read ({type(error).__name__}: {error})"
        wanted = hints(member.fget).get("return", Any)
        if not fits(value, wanted):
            return f"its {name} must be {in_words(wanted)}, not {value!r}"
    return ""


def named(seam: type) -> str:
    """``a Task``, ``an Operator``."""
    return f"{'an' if seam.__name__[0] in 'AEIO' else 'a'} {seam.__name__}"


def members(seam: type) -> dict[str, Any]:
    """The members of a protocol, those of the protocols that it extends among them."""
    found: dict[str, Any] = {}
    for base in reversed(seam.__mro__):
        if getattr(base, "_is_protocol", False) and base.__name__ != "Protocol":
            found |= {
                name: value
                for name, value in vars(base).items()
                if (not name.startswith("_") or name == "__call__") and not name.startswith("_abc")
            }
    return found


def _unlike(component: object, name: str, member: Any) -> str:
    """What a component must have, where it has no such member of a protocol; else empty."""
    absent = object()
    own = getattr(component, "__dict__", {}).get(name, absent)
    is_field = own is not absent
    if not is_field:  # hasattr would find __call__ in every class, and run properties
        own = next((vars(k)[name] for k in type(component).__mro__ if name in vars(k)), absent)
    if not inspect.isfunction(member):
        if own is absent:
            return name
        is_method = inspect.isfunction(own) and not is_field
        return f"{name} as a value, but there it is a method" if is_method else ""
    _, *wanted = inspect.signature(member).parameters.values()
    text = f"{name}({', '.join(map(str, wanted))})"
    if own is absent:
        return text
    signature = None if isinstance(own, property) else _signature(getattr(component, name))
    if signature is None:
        return f"{text}, but there it is no method"
    by_name = {p.name: None for p in wanted if p.kind is p.KEYWORD_ONLY}
    try:
        signature.bind(*[None] * (len(wanted) - len(by_name)), **by_name)
    except TypeError:
        return f"{text}, but it has {name}{signature}"
    return ""


def _signature(value: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(value)
    except (TypeError, ValueError):  # not callable, or not in Python
        return None


# -- types ---------------------------------------------------------------------------------------

_WORDS = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text",
    types.NoneType: "null",
}  # fmt: skip
_LISTS = (Sequence, list, tuple)


def hints(target: Any) -> dict[str, Any]:
    """The types that a class says its fields have, or a function its parameters; without those
    that cannot be read, such as one that only type checkers know."""
    found: dict[str, Any] = {}
    for part in reversed(target.__mro__) if isinstance(target, type) else [target]:
        known = getattr(sys.modules.get(getattr(part, "__module__", "")), "__dict__", {})
        for name, text in inspect.get_annotations(part).items():
            one = types.SimpleNamespace(__annotations__={name: text})
            with contextlib.suppress(Exception):
                found |= typing.get_type_hints(one, globalns=dict(known))
    return found


def fits(value: object, hint: Any) -> bool:
    """Whether a value is of a type, as far as can be said: what is in a list is not looked at."""
    origin = typing.get_origin(hint) or hint
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in typing.get_args(hint))
    if origin in (types.NoneType, None):
        return value is None
    if origin in (int, float):
        number = int if origin is int else (int, float)
        return isinstance(value, number) and not isinstance(value, bool)
    if origin in (bool, str):
        return isinstance(value, origin)
    if origin in _LISTS:
        return isinstance(value, list | tuple)
    if origin in (set, frozenset, Set):
        items = typing.get_args(hint) or (Any,)
        return isinstance(value, Set) and all(fits(item, items[0]) for item in value)
    if origin in (Mapping, dict):
        return isinstance(value, Mapping)
    if isinstance(origin, type) and is_dataclass(origin):
        return isinstance(value, origin)
    return True


def in_words(hint: Any) -> str:
    """``a whole number or null``."""
    origin = typing.get_origin(hint) or hint
    if origin in (typing.Union, types.UnionType):
        return " or ".join(in_words(one) for one in typing.get_args(hint))
    if origin in _LISTS:
        return "a list"
    if origin in (set, frozenset, Set):
        return "a frozenset of texts"
    if origin in (Mapping, dict):
        return "a mapping, {KEY: VALUE}"
    return _WORDS.get(origin) or str(getattr(origin, "__name__", origin))
