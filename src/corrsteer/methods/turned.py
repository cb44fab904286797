"""Methods that fit one plan, which the dial then turns. Costs nothing of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from corrsteer.methods.protocol import Fitted
from corrsteer.stages.bench import Bench
from corrsteer.steering.plan import Plan


class TurnedPlan(ABC):
    """``coef``: the dial. ``positions``: where the plan acts."""

    coef: float
    positions: str

    @property
    def needs(self) -> frozenset[str]:
        return Plan((), positions=self.positions).needs

    def share(self, bench: Bench) -> Sequence[Fitted]:
        return [self.plain(bench, bench.collect.pooling)]

    def fit(self, bench: Bench) -> Fitted:
        plain = self.plain(bench, bench.collect.pooling)
        assert plain.plan is not None
        return plain.with_plan(plain.plan.turned_to(self.coef))

    @abstractmethod
    def plain(self, bench: Bench, pooling: str) -> Fitted:
        """The plan at dial 1."""
