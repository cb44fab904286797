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
from corrsteer.records import RIGHT, RankedFeature
from corrsteer.seams import require
from corrsteer.selectors.classes import counts, named, of_classes
from corrsteer.stages.answers import answers
from corrsteer.stages.bench import Bench
from corrsteer.stages.contexts import contexts
from corrsteer.stages.plan import make_plan, strengthened, with_coefficients
from corrsteer.stages.probes import probes
from corrsteer.steering.arms import Arm, steered
from corrsteer.steering.coefficients import Coefficient, MeanRight
from corrsteer.steering.encoder import reads_features
from corrsteer.steering.gates import Always
from corrsteer.steering.operators import Add
from corrsteer.steering.plan import Plan
from corrsteer.steering.positions import GENERATION, where
from corrsteer.steering.probe import candidates, is_open_ended, reads_probe
from corrsteer.steering.protocol import Gate, Operator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorrSteer:
    """``variant`` A: the ``k`` best features of every layer, whose vectors add up there. S: the
    ``k`` best features of all layers.

    ``coef``: the dial. ``operator``, ``positions``, ``gate``: how the plan acts. ``coefficient``:
    how strong its vectors are.
    """

    name: ClassVar[str] = "CorrSteer"
    chooses_thresholds: ClassVar[bool] = True
    variant: str = "A"
    coef: float = 1.0
    operator: Operator = Add()
    positions: str = GENERATION
    gate: Gate = Always()
    coefficient: Coefficient = MeanRight()
    k: int = 1

    def __post_init__(self) -> None:
        if self.variant not in ("A", "S"):
            raise ConfigError(
                f"strategy.variant={self.variant}: unknown; type strategy.variant=A (the best "
                "feature of every layer) or strategy.variant=S (the one best feature of all)"
            )
        where(self.positions)
        if type(self.k) is not int or self.k < 1:
            raise ConfigError(
                f"strategy.k={self.k}: it must be a whole number, at least 1, such as strategy.k=1"
            )
        for name, part, seam in (
            ("operator", self.operator, Operator),
            ("gate", self.gate, Gate),
            ("coefficient", self.coefficient, Coefficient),
        ):
            require(part, seam, f"strategy.{name}")
        reads_probe(self.operator, self.gate)
        if self.k > 1 and (not self.operator.additive or reads_features(self.operator, self.gate)):
            raise ConfigError(
                f"strategy.k={self.k}: several features of a layer can only be added, whichever of"
                " them is active; type operator=add gate=always, or strategy.k=1"
            )

    @property
    def needs(self) -> frozenset[str]:
        return Plan((), positions=self.positions).needs

    def choose(self, ranked: Sequence[RankedFeature]) -> tuple[RankedFeature, ...]:
        """The features to steer with, layers and ranks ascending; none if nothing was ranked. S
        takes the lower layer of two with equal scores."""

        def place(f: RankedFeature) -> tuple[int, int]:
            return f.layer, f.rank

        best = sorted((f for f in ranked if f.rank <= self.k), key=place)
        if self.variant == "S":
            best = sorted(sorted(best, key=lambda f: -f.strength)[: self.k], key=place)
        return tuple(best)

    def share(self, bench: Bench) -> Sequence[Fitted]:
        return [self.plain(bench, bench.collect.pooling)]

    def fit(self, bench: Bench) -> Fitted:
        plain = self.plain(bench, bench.collect.pooling)
        assert plain.plan is not None
        return plain.with_plan(calibrated(bench, plain.plan.turned_to(self.coef)))

    def plain(self, bench: Bench, pooling: str) -> Fitted:
        collect = replace(bench.collect, pooling=pooling)
        observed = observe(bench, collect, wholly=self.coefficient.reads_residuals)
        ranked = strengthened(bench.selector.rank(observed.stats), self.coefficient)
        chosen = self.choose(ranked)
        if not chosen:
            right = int((observed.selection["score"] >= RIGHT).sum())
            raise DataError(
                f"no feature {bench.selector.criterion} on any chosen layer ({right} of"
                f" {len(observed.selection)} answers of the selection split are right): give more"
                " samples (a larger limit=, or limit=null), or layers= others"
            )
        cards: list[Mapping[str, Any]] = []
        if bench.selector.classes is not None:
            cards = list(contexts(bench, observed.selection, ranked, observed.collect))
            ranked = _of_classes(named(ranked, cards), bench.selector.classes)
            chosen = self.choose(ranked)
        plan = replace(
            make_plan(
                bench,
                chosen,
                reads_features(self.operator, self.gate),
                coefficient=self.coefficient,
                residuals={s.layer: s.residual for s in observed.stats},
            ),
            operator=self.operator,
            positions=self.positions,
            gate=self.gate,
        )
        if source := reads_probe(self.operator, self.gate):
            layers = [e.layer for e in plan.entries]
            found = probes(bench, observed.selection, layers, source)
            entries = tuple(replace(e, probe=found[e.layer]) for e in plan.entries)
            plan = plan.with_entries(entries)
        ranked, chosen = (with_coefficients(some, chosen, plan) for some in (ranked, chosen))
        return Fitted(steered(plan), observed, ranked, chosen, cards)


def calibrated(bench: Bench, plan: Plan) -> Plan:
    """With the thresholds of gate and operator that give most right answers to the validation
    split, of equals the one that acts least. As it is where none is open."""
    parts = [plan.operator, plan.gate]
    if not any(is_open_ended(part) for part in parts):
        return plan
    operators, gates = (candidates(part, plan.entries) for part in parts)
    tried = [replace(plan, operator=o, gate=g) for o in operators for g in gates]
    arms = [Arm(f"threshold_{n}", "steered", some) for n, some in enumerate(tried)]
    made = answers(bench, bench.asking, "validation", arms)
    right = [int((made[arm.name]["score"] >= RIGHT).sum()) for arm in arms]
    best = max(range(len(tried)), key=lambda n: (right[n], n))
    log.info(
        "%d thresholds on validation: %s and %s, %d of %d right",
        *(len(tried), tried[best].operator, tried[best].gate, right[best], len(made[arms[0].name])),
    )
    return tried[best]


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
