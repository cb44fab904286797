"""What a plan's file says of its making: checked in form, and else kept as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OBJECTS = ("model", "task", "splits", "versions", "saes", "sae_fingerprints", "selector")


def check_told(content: Mapping[str, Any]) -> None:
    """ValueError where a part of a plan's file has not the form in which it is read."""
    for name in _OBJECTS:
        if not isinstance(content.get(name) or {}, dict):
            raise ValueError(f"{name} is no object")
    for name, split in (content.get("splits") or {}).items():
        if not isinstance(split, dict):
            raise ValueError(f"splits.{name} is no object")
    for name, value in (content.get("model") or {}).items():
        if not isinstance(value, str | None):
            raise ValueError(f"model.{name} is no text")
