"""Methods without a dictionary: contrastive activation addition, and CorrSteer on the residual's
own coordinates. What they are compared with is CorrSteer on an SAE's features.

Cost: one pass over the answers to the selection split, in the place of the one that encodes them;
pairs of options take two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from corrsteer.errors import check_known
from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.methods.protocol import Fitted, collected, observe
from corrsteer.methods.turned import TurnedPlan
from corrsteer.methods.variants import Asked, OfLayers, choice
from corrsteer.records import LayerStats
from corrsteer.report.record import LayerChoice
from corrsteer.saes.coordinates import Coordinates
from corrsteer.stages.bench import REPLAY, Bench
from corrsteer.stages.contrast import check_letters, contrasts
from corrsteer.steering.arms import steered
from corrsteer.steering.plan import Plan, PlanEntry
from corrsteer.steering.positions import GENERATION, where

OPTIONS, OUTCOMES = "options", "outcomes"


def on_coordinates(bench: Bench) -> Bench:
    """The bench with the residual's coordinates in the place of SAEs."""
    blocks, width = bench.spec.shape()
    return replace(bench, sae=Coordinates(width, blocks, bench.sae.budget_gb))


@dataclass(frozen=True)
class CAA(TurnedPlan):
    """Contrastive activation addition (Panickssery et al. 2023, arXiv 2312.06681): the mean
    difference of residuals, added at every layer.

    ``contrast`` "options": the right option's letter against a wrong one's, at the letter, as
    published; "outcomes": the model's own right answers against its wrong ones, at the positions
    that are pooled. Deviations: it acts at ``positions``, where the paper adds at all positions
    after the prompt, and at every layer, where the paper takes one
    (:class:`BestLayer`)."""

    name: ClassVar[str] = "CAA"
    variant: ClassVar[str] = "all"
    coef: float = 1.0
    positions: str = GENERATION
    contrast: str = OPTIONS

    def __post_init__(self) -> None:
        check_known("strategy.contrast", self.contrast, (OPTIONS, OUTCOMES))
        where(self.positions)

    @property
    def learns_from(self) -> str:
        return "pairs" if self.contrast == OPTIONS else "outcomes"

    def plain(self, bench: Bench, pooling: str) -> Fitted:
        if self.contrast == OPTIONS:
            check_letters(bench)
        observed = observe(bench, replace(bench.collect, pooling=pooling))
        if self.contrast == OPTIONS:
            vectors: Mapping[int, np.ndarray] = contrasts(bench, bench.layers)
        else:
            mean = replace(bench.collect, pooling="mean", way=REPLAY)
            vectors = outcome_differences(
                collected(on_coordinates(bench), observed.selection, mean)
            )
        entries = tuple(
            PlanEntry(n, -1, 0.0, float(np.linalg.norm(v)), v) for n, v in sorted(vectors.items())
        )
        return Fitted(steered(Plan(entries, positions=self.positions)), observed)


def outcome_differences(stats: Sequence[LayerStats]) -> dict[int, np.ndarray]:
    """[M] float32 by layer: the mean residual of right answers less that of wrong ones. ``stats``:
    of coordinates (:class:`corrsteer.saes.coordinates.Coordinates`), pooled by their mean."""
    made = {}
    for s in stats:
        positive, negative = np.split(s.mean_right - s.mean_wrong, 2)
        made[s.layer] = (positive - negative).astype(np.float32)
    return made


@dataclass(frozen=True)
class BestLayer(OfLayers):
    """The one layer that alone leaves most answers right on the validation split, of two that do
    alike the lower, as CAA is used; it steers whatever it does."""

    variant: ClassVar[str] = "best"

    @property
    def learns_from(self) -> str:
        return str(getattr(self.method, "learns_from", "outcomes"))

    def _choose(self, asked: Asked) -> LayerChoice:
        singles = [(n,) for n in asked.layers]
        net = asked.net(singles)
        (best,) = max(singles, key=lambda one: (net[one], -one[0]))
        return choice(asked, (best,), (best,), "the layer that alone leaves most answers right")


@dataclass(frozen=True)
class RawResidual(CorrSteer):
    """CorrSteer on the coordinates of the residual, without an SAE: of every layer the half
    coordinate that correlates best with success, by the run's selector; the baseline of CorrSteer
    (arXiv 2508.12535) without its features. Its ranking is the run's, so ``selector`` counts.

    Deviation: a coordinate's positive and negative part are two features, so that pooling by the
    maximum and the mean over right answers mean what they do for an SAE's."""

    name: ClassVar[str] = "Raw residual"
    learns_from: ClassVar[str] = "outcomes"

    def plain(self, bench: Bench, pooling: str) -> Fitted:
        """What is observed, for controls, are the SAEs' features."""
        own = super().plain(on_coordinates(bench), pooling)
        assert own.plan is not None
        entries = tuple(
            replace(e, feature=-1, about={**e.about, "coordinate": e.feature})
            for e in own.plan.entries
        )
        observed = observe(bench, replace(bench.collect, pooling=pooling))
        made = own.with_plan(own.plan.with_entries(entries))
        return replace(made, observed=observed, ranked=(), chosen=(), cards=())
