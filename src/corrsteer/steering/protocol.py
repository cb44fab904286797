"""What can be done to a model while it answers: the seams of steering.

An *intervention* is all of it. A plan (:mod:`corrsteer.steering.plan`) is one: at each of its
layers an *operator* changes the residual stream, at the plan's positions, where its *gate* is open.
What is done lives here as plain functions on tensors; where they are applied is the backend's
business (:mod:`corrsteer.models`). Torch is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from corrsteer.steering.plan import PlanEntry

Parts = Mapping[str, "Tensor"]
"""What an operator and a gate read at one layer, by name: tensors made of their ``parts``."""
Apply = Callable[["Tensor", Parts, float], "Tensor"]
"""(x [..., M], parts, dial) -> the new x, of the same shape, type and device; x is not changed."""
Open = Callable[["Tensor", Parts, float], "Tensor"]
"""(x [..., M], parts, dial) -> [...] bool: where the operator acts."""


class Operator(Protocol):
    """What happens to the residual stream at one layer; at dial 0 nothing does, whatever it is.

    A frozen dataclass: all its fields are part of its key, its code is not. Numbers that ``apply``
    needs come through ``parts``, never from the object, so that ``apply`` is a plain function whose
    source can be sent to a server. One that does not look at the sign of its vector sets ``signed``
    to False: then a flipped sign is no control of it. One that can only raise an activation sets
    ``only_raises``: then features that steering lowers are refused. One that was calibrated to do
    nothing says so in ``abstains``. One that does not read its vector at all sets
    ``reads_vector`` to False: then no other vector is, random features among them."""

    @property
    def additive(self) -> bool:
        """Whether ``apply`` is x plus dial times ``parts["vector"]``: then the dial is folded into
        the vector once, and a plan whose vectors are all zero does nothing."""

    @property
    def apply(self) -> Apply: ...

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        """What ``apply`` reads at the entry's layer, at dial 1. An array of any shape, float32."""


class Gate(Protocol):
    """When it happens. Reads the stream before the operator writes. A frozen dataclass, too. One
    that sets ``whole_answer`` is asked once, at the last prompt token of the unsteered model; of
    the entropy of its next token, [B] in the place of x, where it sets ``reads_entropy``."""

    @property
    def open(self) -> Open | None:
        """None: always."""

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        """What ``open`` reads at the entry's layer; names that no operator uses."""


class Intervention(Protocol):
    """Anything that changes the model while it answers."""

    @property
    def changes_prompt(self) -> bool:
        """Whether keys and values of the prompt differ from the unsteered model's: then it cannot
        share a prompt cache."""

    @property
    def needs(self) -> frozenset[str]:
        """What a backend must support (``model.supports()``)."""

    def key(self) -> dict[str, Any]:
        """What stands for it in a cache key: everything that can change an answer."""
