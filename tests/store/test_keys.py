"""What stands for settings and components in a cache key."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import pytest
from omegaconf import OmegaConf

from corrsteer.scorers.choice import Choice
from corrsteer.store.keys import canonical, component, digest


def test_the_canonical_form():
    @dataclasses.dataclass(frozen=True)
    class Part:
        b: float
        a: tuple[int, ...]

    form = canonical({"z": Part(1.0, (3, 4)), "a": OmegaConf.create({"c": [0.5, None]})})
    assert json.dumps(form) == '{"a": {"c": [0.5, null]}, "z": {"a": [3, 4], "b": 1}}'
    assert canonical(True) is True


@dataclass(frozen=True)
class Inner:
    depth: int = 2


@dataclass(frozen=True)
class Outer:
    inner: Any = Inner()
    scale: float = 1.0
    kinds: tuple[str, ...] = ("a",)


@dataclass(frozen=True)
class Plain:
    pass


def test_a_component_is_its_class_and_its_settings():
    assert component(Choice(reasoning=True)) == {
        "name": "Choice",
        "reasoning": True,
        "version": Choice.version,
    }
    assert component(Outer(scale=2.0)) == {
        "name": f"{__name__}.Outer",
        "inner": {"name": f"{__name__}.Inner", "depth": 2},
        "scale": 2,
        "kinds": ["a"],
    }
    assert json.dumps(component(Outer()))


def test_a_component_without_settings_is_its_name():
    assert component(Plain()) == f"{__name__}.Plain"


@dataclass
class Loose:
    x: int = 1


@dataclass(frozen=True)
class Named:
    name: str = "x"


class Other:
    pass


@pytest.mark.parametrize("part", [Loose(), Other(), Plain, Outer(inner=Loose()), None, Named()])
def test_what_cannot_be_told_by_its_fields_is_no_component(part):
    with pytest.raises(TypeError):
        component(part)


@pytest.mark.parametrize("value", [float("inf"), {"a": object()}])
def test_a_component_with_a_setting_that_has_no_form_is_refused(value):
    with pytest.raises(TypeError):
        component(Outer(inner=value))


def test_a_digest_is_of_bytes_or_of_json():
    assert digest(b"[1]") == digest([1]) == hashlib.sha256(b"[1]").hexdigest()[:32]
    assert digest({"a": 1}) != digest({"a": 2})
