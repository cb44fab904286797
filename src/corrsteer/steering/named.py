"""Operators and gates as a plan's file names them: ``_target_`` and fields, as in a config."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from corrsteer.errors import DataError


def spec_of(part: Any) -> Any:
    """A component as a config names it, ``_target_`` and its fields, those within it likewise."""
    if isinstance(part, list | tuple):
        return [spec_of(item) for item in part]
    if not is_dataclass(part):
        return part
    kind = type(part)
    values = {f.name: spec_of(getattr(part, f.name)) for f in fields(part)}
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **values}


def made(spec: Mapping[str, Any], does: str, file: Path) -> Any:
    """The component of a spec, which has the member ``does``."""
    part = _made(spec, file)
    for member in (does, "parts", *(("additive",) if does == "apply" else ())):
        if not hasattr(part, member):
            raise DataError(
                f"{file} names {str(spec)[:200]}, which has no {member}; make the plan again"
            )
    return part


def _made(spec: Any, file: Path) -> Any:
    if isinstance(spec, list):
        return [_made(item, file) for item in spec]
    if not isinstance(spec, dict) or "_target_" not in spec:
        return spec
    values = {key: _made(value, file) for key, value in spec.items() if key != "_target_"}
    try:
        kind = _named(str(spec["_target_"]))
        if not (isinstance(kind, type) and is_dataclass(kind)):
            raise TypeError("it is no dataclass")
        return kind(**values)
    except (Exception, SystemExit) as error:  # whatever the module, or the class, does
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise DataError(
            f"{file} needs {str(spec['_target_'])[:100]}, which cannot be created"
            f" ({words}); install or import the package that has it"
        ) from error


def _named(name: str) -> Any:
    """What a dotted name stands for; a class within a class, too."""
    module, inside = name, list[str]()
    while True:
        module, _, last = module.rpartition(".")
        inside.insert(0, last)
        try:
            found: Any = importlib.import_module(module)
            break
        except ModuleNotFoundError as error:
            if not (error.name and f"{module}.".startswith(f"{error.name}.") and "." in module):
                raise
    for part in inside:
        found = getattr(found, part)
    return found
