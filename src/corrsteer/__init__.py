"""Steer a language model with SAE features that correlate with success.

The front door for Python: a plan that a run left, on a plain transformers model.

    plan = corrsteer.load_plan("outputs/runs/...")
    with plan.steer(model):
        model.generate(**inputs)

Importing the package costs milliseconds; torch comes in when something is steered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corrsteer.steering.plan import Plan, load_plan

__all__ = ["Plan", "load_plan"]


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def __getattr__(name: str) -> Any:
    if name in __all__:
        from corrsteer.steering import plan

        return getattr(plan, name)
    raise AttributeError(f"module 'corrsteer' has no attribute {name!r}")
