"""CorrSteer: steer with the features whose activation correlates with success (arXiv 2508.12535).

Cost: what observing costs; choosing is a sort, and the plan loads one SAE per layer once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from corrsteer.errors import ConfigError, DataError
from corrsteer.methods.protocol import Fitted, observe
from corrsteer.records import RankedFeature
from corrsteer.seams import require
from corrsteer.selectors.classes import counts, named, of_classes
from corrsteer.stages.bench import Bench
from corrsteer.stages.contexts import contexts
from corrsteer.stages.plan import make_plan, strengthened, with_coefficients
from corrsteer.steering.arms import steered
from corrsteer.steering.coefficients import Coefficient, MeanRight
from corrsteer.steering.gates import Always
from corrsteer.steering.operators import Add
from corrsteer.steering.plan import GENERATION, Plan
from corrsteer.steering.protocol import Gate, Operator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorrSteer:
    """``variant`` A: the best feature of every layer. S: the one best feature of all layers.

    ``coef``: the dial. ``operator``, ``positions``, ``gate``: how the plan acts. ``coefficient``:
    how strong its vectors are.
    """

    name: ClassVar[str] = "CorrSteer"
    variant: str = "A"
    coef: float = 1.0
    operator: Operator = Add()
    positions: str = GENERATION
    gate: Gate = Always()
    coefficient: Coefficient = MeanRight()

    def __post_init__(self) -> None:
        if self.variant not in ("A", "S"):
            raise ConfigError(
                f"strategy.variant={self.variant}: unknown; type strategy.variant=A (the best "
                "feature of every layer) or strategy.variant=S (the one best feature of all)"
            )
        for name, part, seam in (
            ("operator", self.operator, Operator),
            ("gate", self.gate, Gate),
            ("coefficient", self.coefficient, Coefficient),
        ):
            require(part, seam, f"strategy.{name}")

    @property
    def needs(self) -> frozenset[str]:
        return Plan((), positions=self.positions).needs

    def choose(self, ranked: Sequence[RankedFeature]) -> tuple[RankedFeature, ...]:
        """The features to steer with, layers ascending; none if nothing was ranked. S takes
        the lower layer of two with equal scores."""
        best = sorted((f for f in ranked if f.rank == 1), key=lambda f: f.layer)
        if self.variant == "S":
            best = sorted(best, key=lambda f: -f.score)[:1]
        return tuple(best)

    def share(self, bench: Bench) -> Sequence[Fitted]:
        return [self.plain(bench, bench.collect.pooling)]

    def fit(self, bench: Bench) -> Fitted:
        plain = self.plain(bench, bench.collect.pooling)
        assert plain.plan is not None
        return plain.with_plan(plain.plan.turned_to(self.coef))

    def plain(self, bench: Bench, pooling: str) -> Fitted:
        collect = replace(bench.collect, pooling=pooling)
        observed = observe(bench, collect, wholly=self.coefficient.reads_residuals)
        ranked = strengthened(bench.selector.rank(observed.stats), self.coefficient)
        chosen = self.choose(ranked)
        if not chosen:
            raise DataError(
                f"no feature {bench.selector.criterion} on any chosen layer; "
                "steer more layers (layers=all) or give more samples (limit=null)"
            )
        cards: list[Mapping[str, Any]] = []
        if bench.selector.classes is not None:
            cards = list(contexts(bench, observed.selection, ranked, observed.collect))
            ranked = _of_classes(named(ranked, cards), bench.selector.classes)
            chosen = self.choose(ranked)
        residuals = {s.layer: s.residual for s in observed.stats}
        plan = replace(
            make_plan(bench, chosen, self.coefficient, residuals),
            operator=self.operator,
            positions=self.positions,
            gate=self.gate,
        )
        ranked = with_coefficients(ranked, chosen, plan)
        chosen = with_coefficients(chosen, chosen, plan)
        return Fitted(steered(plan), observed, ranked, chosen, cards)


def _of_classes(
    ranked: tuple[RankedFeature, ...], classes: Sequence[str]
) -> tuple[RankedFeature, ...]:
    kept = of_classes(ranked, classes)
    bare = sorted({f.layer for f in ranked} - {f.layer for f in kept})
    log.info(
        "selector.classes=[%s]: of %d ranked features (%s), %d are left; layers without one,"
        " which are not steered: %s",
        *(",".join(classes), len(ranked), counts(ranked), len(kept)),
        ", ".join(map(str, bare)) or "none",
    )
    return kept
