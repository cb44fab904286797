"""The third pane: what features drawn at random do, as long as the plan's and in its layers.

They are drawn from those of the same SAEs that are active where steering begins, at the last token
of one of some test questions. Where the SAEs are not to be had, directions are drawn instead, and
that is said. Cost: sae_lens takes seconds to import, so that the SAEs are read in a thread beside,
and the pane begins when they are there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from corrsteer.errors import CorrSteerError
from corrsteer.saes.protocol import SAEProvider
from corrsteer.steering.controls import as_long
from corrsteer.steering.encoder import Encoder
from corrsteer.steering.plan import Plan, PlanEntry

if TYPE_CHECKING:
    from corrsteer.saes.loaded import LoadedSAE
    from corrsteer.serve.stepper import Stepper

log = logging.getLogger(__name__)

PROMPTS = 8
"""Test questions whose last tokens say which features are live."""


class Chance:
    """Plans of random features. :meth:`plan` is for the thread that owns the model."""

    def __init__(self, plan: Plan, saes: SAEProvider | None, why: str = "") -> None:
        """``saes``: None where there are none, ``why`` says so."""
        self._plan, self._provider, self.why = plan, saes, why
        self._saes: dict[int, LoadedSAE] = {}
        self._encoders: dict[tuple[int, int], Encoder] = {}
        self._live: dict[int, np.ndarray] | None = None
        self._plans: dict[int, Plan] = {}
        self._thread = threading.Thread(target=self._load, name="saes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait until the SAEs are read."""
        self._thread.join()

    def _load(self) -> None:
        if self._provider is None:
            return
        try:
            for entry in self._plan.entries:
                self._saes[entry.layer] = self._provider.load(entry.layer)
        except Exception as error:  # of any kind: the files are not ours
            words = " ".join(str(error).split())[:200]
            self.why = words if isinstance(error, CorrSteerError) else "the SAEs cannot be read"
            log.warning("random directions stand in for random features: %s", words)
            self._saes = {}

    @property
    def has_saes(self) -> bool:
        """Whether there are some, or it is not known yet that they cannot be read."""
        return self._provider is not None and not self.why

    @property
    def is_reading(self) -> bool:
        return self._thread.is_alive()

    def encoder(self, layer: int, feature: int) -> Encoder | None:
        """What reads the activation of a feature; None while the SAEs are being read, and where
        there are none."""
        if self.is_reading or feature < 0 or (sae := self._saes.get(layer)) is None:
            return None
        if (layer, feature) not in self._encoders:
            self._encoders[layer, feature] = sae.encoders([feature])[0]
        return self._encoders[layer, feature]

    @property
    def what(self) -> str:
        """What is drawn."""
        return "features" if self.has_saes else "directions"

    def plan(self, stepper: Stepper, draw: int, prompts: Sequence[list[int]]) -> Plan | None:
        """Draw ``draw``; None while the SAEs are being read. ``prompts``: token ids."""
        if self._thread.is_alive():
            return None
        if draw not in self._plans:
            if self._live is None:
                self._live = self._alive(stepper, prompts)
            entries = tuple(self._drawn(e, draw) for e in self._plan.entries)
            if len(self._plans) >= PROMPTS:
                self._plans.clear()
            self._plans[draw] = self._plan.with_entries(entries)
        return self._plans[draw]

    def _alive(self, stepper: Stepper, prompts: Sequence[list[int]]) -> dict[int, np.ndarray]:
        """Layer -> features to draw from, the plan's not among them; all of an SAE where none is
        active."""
        import torch

        seen = [stepper.residuals(ids) for ids in prompts[:PROMPTS]] if self._saes else []
        live = {}
        for entry in self._plan.entries:
            if (sae := self._saes.get(entry.layer)) is None:
                continue
            found = np.arange(sae.width)
            if seen:
                acts = sae.encode(torch.stack([x[entry.layer].cpu() for x in seen]))
                found = np.flatnonzero((acts > 0).any(0).cpu().numpy())
            several = [one["feature"] for one in entry.about.get("features", [])]
            others = np.setdiff1d(found, [entry.feature, *several])
            live[entry.layer] = others if len(others) else np.arange(sae.width)
        return live

    def _drawn(self, entry: PlanEntry, draw: int) -> PlanEntry:
        key = np.random.SeedSequence(draw, spawn_key=(entry.layer,))
        rng = np.random.default_rng(key)
        if (sae := self._saes.get(entry.layer)) is None or self._live is None:
            one = as_long(entry, rng.normal(size=entry.vector.size), -1, 0.0)
            return replace(one, probe=entry.probe)
        feature = int(rng.choice(self._live[entry.layer]))
        one = as_long(entry, sae.directions([feature])[0], feature, 0.0)
        return replace(one, encoder=sae.encoders([feature])[0], probe=entry.probe)
