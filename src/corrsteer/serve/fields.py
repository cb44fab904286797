"""The fields of a request: what is read, in what range; anything else is refused in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from corrsteer.errors import ConfigError
from corrsteer.serve.gates import Gates, NotYet
from corrsteer.serve.guard import Refused
from corrsteer.serve.stepper import LARGEST, Turned
from corrsteer.steering.plan import Plan

if TYPE_CHECKING:
    from starlette.requests import Request


async def body(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises Refused."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "send JSON, with the header Content-Type: application/json")
    from starlette.requests import ClientDisconnect

    try:
        found = json.loads(await request.body())
    except ClientDisconnect:
        raise Refused(400, "the body has no end") from None
    except (ValueError, RecursionError) as error:
        words = " ".join(str(error).split())[:100]
        raise Refused(400, f"the body is not JSON ({words})") from None
    if not isinstance(found, dict):
        raise Refused(400, "the body must be a JSON object")
    return found


def number(
    fields: Mapping[str, Any], name: str, default: float | None, low: float, high: float
) -> float | None:
    value = fields.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not low <= value <= high:
        raise wrong(name, f"must be a number from {low:g} to {high:g}")
    return float(value)


def whole(fields: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise wrong(name, f"must be a whole number from {low} to {high}")
    return value


def flag(fields: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not bool:
        raise wrong(name, "must be true or false")
    return value


def text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if type(value) is not str:
        raise wrong(name, "must be a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise wrong(name, "holds half of a surrogate pair") from None
    return value


def wrong(name: str, words: str) -> Refused:
    return Refused(400, f"{name} {words}", "invalid_value", name)


def steering(fields: Any, gates: Gates) -> Turned:
    """``{coef, layers, positions, gate}``; what is not given is the plan's. ``layers``: those that
    are steered, or by layer what the dial is multiplied by there. Raises Refused."""
    fields, plan = {} if fields is None else fields, gates.plan
    if not isinstance(fields, dict):
        raise wrong("steering", 'must be an object such as {"coef": 1.5}')
    if unknown := fields.keys() - {"coef", "layers", "positions", "gate"}:
        raise wrong("steering", f"has {min(unknown)!r}; it takes coef, layers, positions and gate")
    coef = number(fields, "coef", plan.coef, -LARGEST, LARGEST)
    assert coef is not None
    positions, gate = fields.get("positions", plan.positions), fields.get("gate", "plan")
    try:
        gates.check(gate)
        return Turned(coef, _factors(fields.get("layers"), plan), positions, gate)
    except NotYet as error:
        raise Refused(503, str(error), "not_yet", "steering.gate") from None
    except ConfigError as error:
        raise wrong("steering", f"is refused: {error}") from None


def _factors(layers: Any, plan: Plan) -> dict[int, float]:
    planned = sorted(e.layer for e in plan.entries)
    among = f"layers of this plan: {', '.join(map(str, planned))}"
    if layers is None:
        return {}
    if isinstance(layers, list):
        if any(type(n) is not int or n not in planned for n in layers):
            raise wrong("steering.layers", f"must be a list of {among}")
        return {n: float(n in layers) for n in planned}
    if isinstance(layers, dict):
        by_name = {str(n): n for n in planned}
        if layers.keys() - by_name.keys():
            raise wrong("steering.layers", f"must have names of {among}")
        for name, value in layers.items():
            if type(value) not in (int, float) or not abs(value) <= LARGEST:
                raise wrong(
                    "steering.layers", f"has no number for {name}, or one that is too large"
                )
        return {by_name[name]: float(value) for name, value in layers.items()}
    raise wrong("steering.layers", "must be a list of layers, or an object from layer to factor")
