"""One coefficient per layer and one dial, for the highest accuracy less a price for what changes
besides: a search (:mod:`corrsteer.methods.search`) for one number instead of a front.

Cost: that of ``trials`` candidates, over one pass of the validation prompts per ``batch``, and as
much again each time that the range is widened.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import ClassVar

from corrsteer.errors import ConfigError
from corrsteer.methods.protocol import Fitted
from corrsteer.methods.search import Pareto, norms, plans_of, priced
from corrsteer.methods.study import Trial
from corrsteer.methods.variants import Asked, choice, layers_table
from corrsteer.stages.bench import Bench

log = logging.getLogger(__name__)

EDGE = 0.95
"""A dial above this share of the range's end is at its edge."""


@dataclass(frozen=True)
class Optimised(Pareto):
    """The settings of ``conf/strategy/corrsteer_optimised.yaml``, where they are explained.

    Maximised is accuracy - ``price`` * (broken share of right answers + share of stray answers,
    those that changed and were neither fixed nor broken). Answers to unrelated prompts and the
    divergence on neutral texts are no part of it: they are measured once, like the test split, and
    what was tuned on them would look better than it is. ``widen``: so many times the range is
    doubled while the best dial lies at its end.
    """

    group: ClassVar[str] = "strategy"
    variant: ClassVar[str] = "optimised"
    workers: int = field(default=1, init=False)
    price: float = 0.5
    widen: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.price < float("inf"):
            raise ConfigError(
                f"strategy.price={self.price}: it must be a number, at least 0, such as"
                " strategy.price=0.5"
            )
        if self.widen < 0:
            raise ConfigError(
                f"strategy.widen={self.widen}: it must be a whole number, at least 0, such as"
                " strategy.widen=1"
            )

    def fit(self, bench: Bench) -> Fitted:
        """The trial that is worth most, of equal ones the one that adds least."""
        plain = self._plain(bench)
        plans = plans_of(plain)
        trials, base = self._study(bench, plans, None, self.price)
        worth, norm = priced(base, self.price), norms(plans)

        def order(t: Trial) -> tuple[float, float, int]:
            return -worth((t.accuracy, t.broken, t.stray)), norm(t), t.number

        best = min(trials, key=order)
        low, high = self.coef
        if best.candidate.coef > EDGE * high and self.widen:
            log.info("the best dial is at the end of strategy.coef=[%g,%g]: twice that", low, high)
            return replace(self, coef=[low, 2 * high], widen=self.widen - 1).fit(bench)
        found = self._found(plain, trials, base, best, None, self.price)
        assert found.plan is not None
        if found.plan.does_nothing:  # then no layer did anything that could be told of
            return found
        whole = plans[best.candidate.pooling].turned_to(found.plan.coef)
        kept = [e.layer for e in found.plan.entries]
        made = choice(
            Asked(bench, found.plan),
            kept,
            tuple(kept),
            "every layer has its own coefficient, and one at 0 is left out: those of the candidate"
            f" with the highest accuracy less {self.price:g} times what broke or became another",
            factors=best.candidate.scales,
        )
        tables = {**found.tables, "layers": layers_table(made)}
        return replace(found, whole=whole, choice=made, tables=tables)
