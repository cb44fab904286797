"""The parts of a record that say what a gain is worth; :mod:`corrsteer.report.record` has the rest,
and is where all of them are imported from."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of the record. Frozen; an unknown field is an error, so that a typo cannot pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Interval = tuple[float, float]
"""95 %, low and high."""


class Control(Part):
    """Draws of one kind of control, beside steering.

    ``gains``: of each draw, in drawing order. ``asked``: how many were asked for; fewer gains mean
    that drawing ended early. ``at_least_as_good``: draws that do as well as steering. ``p``: of the
    Monte Carlo test that the plan is one more such draw
    (:func:`corrsteer.stats.draws.monte_carlo_p`); None where the control is no draw from a null,
    such as an instruction. ``band``: 5 to 95 % of the draws; None for fewer than
    :data:`corrsteer.stats.draws.BAND_NEEDS`. ``paired_*``: steering against the best draw, answer
    by answer: the gain over it, its interval, and the exact one-sided McNemar p-value that steering
    is no better; ``ahead_p``: that no draw is better than steering, corrected for their number.
    """

    gains: list[float]
    asked: int
    at_least_as_good: int
    p: float | None
    band: Interval | None
    paired_p: float
    ahead_p: float
    paired_gain: float
    paired_ci: Interval

    @property
    def best(self) -> float:
        return max(self.gains)

    @property
    def beats_all(self) -> bool:
        """Whether steering gains more than every draw."""
        return not self.at_least_as_good


class Format(Part):
    """Flips by what the other answer was: no readable one, or a wrong one. ``fixed_*`` sum to the
    fixed answers, ``broken_*`` to the broken ones."""

    fixed_from_invalid: int
    fixed_from_wrong: int
    broken_to_invalid: int
    broken_to_wrong: int


class Constrained(Part):
    """Steering where both arms may answer with option letters only. ``difference``: this gain minus
    the free one, paired by question, with its interval."""

    gain: float
    ci: Interval
    difference: float
    difference_ci: Interval


class Noise(Part):
    """Of the chosen ``features``, how many are at or below their layer's noise ceiling, and are its
    best in fewer than half of the resamples; None where the score has no null."""

    features: int
    below_ceiling: int | None
    unstable: int | None


class Margin(Part):
    """By how much the right option is likelier than the best wrong one, in nats, as options were
    compared (``likelihood``): means over ``n`` questions without and with steering, their
    difference with its paired t interval (None for one question), and the mean differences of the
    draws of each kind of control (:mod:`corrsteer.stats.margins`)."""

    likelihood: str
    n: int
    baseline: float
    steered: float
    shift: float
    ci: Interval | None
    controls: dict[str, list[float]]


class GateLayer(Part):
    """As :class:`GateUse`, of one layer."""

    layer: int
    duty: float
    dose: float
    auroc: float | None


class GateUse(Part):
    """A plan's gate on the steered answers to ``n`` test questions, at the ``n_positions``
    generation positions where the plan may act. ``duty``: the share of them where the gate is open,
    mean over layers. ``dose``: the norm of what is added, mean over these positions, summed over
    layers. ``auroc``: how well the gate's signal at the unsteered answers tells wrong from right
    ones, mean over layers, or of the layer that decides for a whole answer; None for a gate without
    a signal, or where all answers are right or wrong. ``prompt_passes``: unsteered passes over its
    prompt that an answer takes more."""

    n: int
    n_positions: int
    duty: float
    dose: float
    auroc: float | None
    layers: list[GateLayer]
    prompt_passes: int = 0


class OtherHalf(Part):
    """Questions of the same benchmark where the one answer of :class:`OneAnswer` is wrong.
    ``name``: what the benchmark calls them, such as disambig. Accuracies under the plan."""

    name: str
    n: int
    baseline: float
    steered: float
    gain: float
    ci: Interval


class OneAnswer(Part):
    """One ``answer``, by its meaning and not its letter, is right in every test row: accuracy is
    the rate of that answer. ``half``: None where the task has none, or it was not answered."""

    answer: str
    half: OtherHalf | None


class LayerAlone(Part):
    """What one layer of a plan does alone to the validation split. ``factor``: what its vector was
    multiplied by, beside the dial. ``p``: exact one-sided McNemar that it fixes no more answers
    than it breaks; ``q``: the same over all layers (Benjamini and Hochberg 1995). ``kept``: by the
    method's rule, which need not look at ``p``."""

    layer: int
    factor: float
    fixed: int
    broken: int
    gain: float
    ci: Interval
    p: float
    q: float
    kept: bool


class LayerChoice(Part):
    """Which layers of a plan a method keeps, on ``n`` answers to the validation split.

    ``rule``: how it chooses, in a sentence. ``unsteered``, ``whole``: accuracy without steering and
    of all layers at the method's dial; None where the method did not ask for the latter.
    ``kept``: layers by the rule, in the order in which they came in. ``used``: those that steer,
    which are others where the kept ones together were not good enough. Of the kept ones ``joint``
    is the gain together, ``singles`` the sum of their gains alone, ``interaction`` the difference,
    each with its interval. ``path``: accuracy after each layer that came in; empty for a rule
    without an order.
    """

    rule: str
    n: int
    unsteered: float
    whole: float | None
    alone: list[LayerAlone]
    kept: list[int]
    used: list[int]
    joint: float
    joint_ci: Interval
    singles: float
    singles_ci: Interval
    interaction: float
    interaction_ci: Interval
    path: list[float]
