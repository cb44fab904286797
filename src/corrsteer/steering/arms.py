"""Arms: the ways of answering the questions that are compared with each other.

An arm is what is done to the model, what stands before every prompt, and how the answer is decoded.
Baseline, steered and every control are arms; ``KINDS`` is the one place that says what a kind of
arm is called and how it is drawn. Costs nothing: plain values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from corrsteer.steering.protocol import Intervention


@dataclass(frozen=True)
class Kind:
    """How a kind of arm is shown. ``label``: in a table, with a number where there are several;
    ``plural``: in a sentence. ``colour``: a CSS variable of the pages (report/templates/style.css).
    ``drawn``: whether there are several draws, whose range is a band."""

    label: str
    plural: str
    colour: str = "random"
    drawn: bool = False


KINDS: dict[str, Kind] = {
    "baseline": Kind("Baseline", "the unsteered model", "baseline"),
    "steered": Kind("Steered", "steering", "steered"),
    "constrained": Kind("Constrained decoding", "constrained decoding", "constrained"),
    "instruction": Kind("Instruction", "an instruction"),
    "flipped": Kind("Flipped sign", "a flipped sign"),
    "layers": Kind("Other layers", "other layers"),
    "oracle": Kind("Oracle (upper bound)", "an oracle (upper bound)"),
    "inverse": Kind("Inverse gate", "an inverse gate"),
    "dosed": Kind("Ungated plan at equal dose", "an ungated plan at equal dose"),
    "static": Kind("Ungated plan", "an ungated plan"),
    "dealt": Kind("Plans on random answers", "plans on random answers", "direction", drawn=True),
    "subset": Kind("Random layers", "random layers", "direction", drawn=True),
    "shuffled": Kind("Shuffled outcomes", "shuffled outcomes", "shuffled", drawn=True),
    "direction": Kind("Random directions", "random directions", "direction", drawn=True),
    "random": Kind("Random features", "random features", "random", drawn=True),
}
"""Kinds of arms, in the order they are shown. All but the first two are controls, the closest to
the plan last."""

BOUND = "oracle"
"""A kind that knows the right answers: nothing that steering could be told to beat."""

NULL, SECOND = "random", "shuffled"
"""The kinds of controls that a gain due to steering must beat, the second where it is drawn often
enough: a run draws it where the first leaves a claim open."""

BASELINE, STEERED = "baseline", "steered"
"""Names, and kinds, of the two arms that every comparison has."""


@dataclass(frozen=True)
class Arm:
    """``intervention`` None: the model as it is. ``prefix``: text put before every prompt, with an
    empty line between. ``decoding`` None: that of the run. ``kind``: one of ``KINDS``. ``among``:
    ids of the questions on which the intervention acts, the others being answered without it; None:
    on all. ``stop``: texts that end an answer besides the run's."""

    name: str
    kind: str
    intervention: Intervention | None = None
    prefix: str = ""
    decoding: str | None = None
    among: frozenset[str] | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind

    def key(self) -> dict[str, Any]:
        """What stands for the intervention in a cache key; prompts and decoding have keys of their
        own (:func:`corrsteer.stages.answers.answers_key`)."""
        return {"plan": None} if self.intervention is None else self.intervention.key()


def baseline() -> Arm:
    return Arm(BASELINE, "baseline")


def steered(intervention: Intervention | None) -> Arm:
    return Arm(STEERED, "steered", intervention)
