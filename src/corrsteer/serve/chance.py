"""The third pane: what features drawn at random do, as long as the plan's and in its layers.

They are drawn from those of the same SAEs that are active where steering begins, at the last token
of one of some test questions. Where the SAEs are not to be had, directions are drawn instead, and
that is said. Cost: sae_lens takes seconds to import, so that the SAEs are read in a thread beside,
and the pane begins when they are there. One SAE is in memory at a time, as at ``sae.budget_gb``'s
least; what is kept of each are the rows of :data:`KEPT` features.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from corrsteer.errors import ConfigError, CorrSteerError
from corrsteer.saes.protocol import SAEProvider
from corrsteer.steering.controls import as_long
from corrsteer.steering.encoder import Encoder
from corrsteer.steering.plan import Plan, PlanEntry, sign_of

if TYPE_CHECKING:
    import torch

    from corrsteer.saes.loaded import LoadedSAE

log = logging.getLogger(__name__)

PROMPTS = 8
"""Test questions whose last tokens say which features are live."""
KEPT = 256
"""Features of a layer that are drawn from at most."""


class Chance:
    """Plans of random features. None are drawn for a plan of several features of a layer that are
    moved each by its own activation: what would be as long?"""

    def __init__(self, plan: Plan, saes: SAEProvider | None, why: str = "") -> None:
        """``saes``: None where there are none, ``why`` says so."""
        self._plan, self._provider, self.why = plan, saes, why
        self.unread = _unread(plan, saes)
        """Why no feature of some layer's SAE can be read alone; empty where all can."""
        self.none = ""
        """Why nothing is drawn; empty where something is."""
        if any(entry.arrays for entry in plan.entries):
            name = type(plan.operator).__name__
            self.none = f"none: {name} moves several features of a layer, each by its activation"
        self._live: dict[int, np.ndarray] = {}
        self._rows: dict[int, dict[int, np.ndarray]] = {}
        self._encoders: dict[tuple[int, int], Encoder] = {}
        self._plans: dict[int, Plan] = {}
        self._read = threading.Event()

    def start(self, seen: Sequence[Mapping[int, torch.Tensor]] = ()) -> None:
        """Begin to read the SAEs. ``seen``: layer -> [M], residuals at the last tokens of some
        questions."""
        threading.Thread(target=self._load, args=(seen,), name="saes", daemon=True).start()

    def join(self) -> None:
        """Wait until the SAEs are read."""
        self._read.wait()

    def _load(self, seen: Sequence[Mapping[int, torch.Tensor]]) -> None:
        try:
            if (provider := self._provider) is not None:
                for entry in self._plan.entries:
                    self._keep(entry, provider.load(entry.layer), seen)
        except Exception as error:  # of any kind: the files are not ours
            words = " ".join(str(error).split())[:200]
            self.why = words if isinstance(error, CorrSteerError) else "the SAEs cannot be read"
            log.warning("random directions stand in for random features: %s", words)
            self._rows.clear()
            self._encoders.clear()
        finally:
            self._read.set()

    def _keep(
        self, entry: PlanEntry, sae: LoadedSAE, seen: Sequence[Mapping[int, torch.Tensor]]
    ) -> None:
        """The rows of the features to draw from, the plan's not among them; of all where none is
        active. And what reads the plan's own."""
        import torch

        layer, found = entry.layer, np.arange(sae.width)
        if seen:
            acts = sae.encode(torch.stack([x[layer].cpu() for x in seen]))
            found = np.flatnonzero((acts > 0).any(0).cpu().numpy())
        several = [one["feature"] for one in entry.about.get("features", [])]
        others = np.setdiff1d(found, [entry.feature, *several])
        live = others if len(others) else np.arange(sae.width)
        if len(live) > KEPT:
            live = np.sort(np.random.default_rng(layer).choice(live, KEPT, replace=False))
        features = live.tolist()
        self._live[layer] = live
        self._rows[layer] = dict(zip(features, sae.directions(features), strict=True))
        features += [entry.feature] if 0 <= entry.feature < sae.width else []
        try:
            encoders = sae.encoders(features)
        except ConfigError:  # none can be read alone
            return
        for feature, encoder in zip(features, encoders, strict=True):
            self._encoders[layer, feature] = encoder

    @property
    def has_saes(self) -> bool:
        """Whether there are some, or it is not known yet that they cannot be read."""
        return self._provider is not None and not self.why

    @property
    def is_reading(self) -> bool:
        """Until they are read, or it is known that they cannot be."""
        return not self._read.is_set()

    def encoder(self, layer: int, feature: int) -> Encoder | None:
        """What reads the activation of a feature, the plan's or one that may be drawn; None while
        the SAEs are being read, and where there are none or none of a feature alone."""
        return None if self.is_reading else self._encoders.get((layer, feature))

    @property
    def what(self) -> str:
        """What is drawn."""
        return "features" if self.has_saes else "directions"

    def plan(self, draw: int) -> Plan | None:
        """Draw ``draw``; None while the SAEs are being read. Not where :attr:`none` says why."""
        if self.is_reading:
            return None
        if draw not in self._plans:
            entries = tuple(self._drawn(e, draw) for e in self._plan.entries)
            if len(self._plans) >= PROMPTS:
                self._plans.clear()
            self._plans[draw] = self._plan.with_entries(entries)
        return self._plans[draw]

    def _drawn(self, entry: PlanEntry, draw: int) -> PlanEntry:
        key = np.random.SeedSequence(draw, spawn_key=(entry.layer,))
        rng = np.random.default_rng(key)
        if entry.layer not in self._rows:
            one = as_long(entry, rng.normal(size=entry.vector.size), -1, 0.0)
            return replace(one, probe=entry.probe)
        feature = int(rng.choice(self._live[entry.layer]))
        row = self._rows[entry.layer][feature]
        one = as_long(entry, row, feature, 0.0, sign_of(entry))
        return replace(one, encoder=self.encoder(entry.layer, feature), probe=entry.probe)


def _unread(plan: Plan, saes: SAEProvider | None) -> str:
    check = getattr(saes, "check_readable", None)
    try:
        if check is not None:
            for entry in plan.entries:
                check(entry.layer)
    except ConfigError as error:
        return str(error)
    except CorrSteerError:  # what else is wrong with one is told when it is read
        pass
    return ""
