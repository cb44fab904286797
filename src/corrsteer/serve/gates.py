"""The gates that a dial can choose: the plan's own, none, its inverse, or its features' activity.

What says how active a feature is comes from the plan where it holds it, else from the SAEs, which a
thread beside is reading for seconds (:mod:`corrsteer.serve.chance`).
"""

from __future__ import annotations

from dataclasses import replace

from corrsteer.errors import ConfigError, CorrSteerError
from corrsteer.serve.chance import Chance
from corrsteer.serve.stepper import Turned
from corrsteer.steering.encoder import Encoder, reads_features
from corrsteer.steering.gates import Always, FeatureActive, FeatureInactive
from corrsteer.steering.plan import Plan, PlanEntry
from corrsteer.steering.protocol import Gate

GATES = {
    "plan": "as the plan",
    "always": "at every position",
    "inverse": "where the plan's is closed",
    "active": "where the feature is active",
    "inactive": "where the feature is silent",
}


class NotYet(CorrSteerError):
    """The SAEs are still being read."""


class Gates:
    """Those of one plan."""

    def __init__(self, plan: Plan, chance: Chance) -> None:
        self.plan, self._chance = plan, chance
        own = plan.gate
        self._gates: dict[str, Gate] = {"plan": own}
        if own.open is not None:
            self._gates["always"] = Always()
        if (inverse := getattr(own, "inverse", None)) is not None:
            self._gates["inverse"] = inverse()
        reads = chance.has_saes and not chance.unread
        if all(e.encoder is not None or (reads and e.feature >= 0) for e in plan.entries):
            self._gates |= {"active": FeatureActive(), "inactive": FeatureInactive()}

    @property
    def names(self) -> list[str]:
        return list(self._gates)

    def check(self, name: str) -> None:
        """Raises ConfigError for a gate that this plan cannot have, NotYet for one that it cannot
        have now."""
        if type(name) is not str or name not in self._gates:
            unread = self._chance.unread if name in ("active", "inactive") else ""
            why = f" ({unread})" if unread else ""
            raise ConfigError(f"gate {name!r} is none of {', '.join(self._gates)}{why}")
        if not reads_features(self._gates[name]):
            return
        if any(e.encoder is None for e in self.plan.entries):
            if self._chance.is_reading:
                raise NotYet("the SAEs are still being read: choose this gate again in a moment")
            if self._chance.why:
                raise ConfigError(f"gate {name!r} needs the SAEs: {self._chance.why}")

    def under(self, plan: Plan, name: str) -> Plan:
        """``plan``, this one or one of random features, under a gate."""
        gate = self._gates[name]
        return replace(self.watched(plan) if reads_features(gate) else plan, gate=gate)

    def turned(self, turned: Turned) -> Plan:
        """The plan as it is turned, in all its layers alike."""
        plan = self.under(self.plan, turned.gate)
        return replace(plan, coef=turned.coef, positions=turned.positions)

    def watched(self, plan: Plan) -> Plan:
        """With what reads the activation of its features, as far as that is to be had."""
        entries = tuple(replace(e, encoder=self._encoder(e)) for e in plan.entries)
        return plan.with_entries(entries)

    def under_and_watched(self, plan: Plan, name: str) -> Plan:
        return self.under(self.watched(plan), name)

    def _encoder(self, entry: PlanEntry) -> Encoder | None:
        return entry.encoder or self._chance.encoder(entry.layer, entry.feature)
