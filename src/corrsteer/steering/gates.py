"""Gates: when an operator acts. ``Always`` is the paper's, and costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from corrsteer.steering.plan import PlanEntry


@dataclass(frozen=True)
class Always:
    """At every position of the plan."""

    open: ClassVar[None] = None

    def parts(self, entry: PlanEntry) -> Mapping[str, np.ndarray]:
        return {}
