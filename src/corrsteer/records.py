"""Frozen values that travel between stages.

Arrays are NumPy, never torch: a run that only reads its cache and writes its report must not
pay for importing torch. Axis legend: ``D`` features of one SAE, ``M`` width of the residual
stream, ``P`` shuffled outcomes, ``R`` bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import NamedTuple

import numpy as np

RIGHT = 0.5
"""An answer counts as right from this score on (scores lie in [0, 1])."""


R_BINS = 10_000
"""Correlations from 0 to 1 are counted in bins of this fineness; the last bin holds 1 alone."""


def r_bin(r: np.ndarray) -> np.ndarray:
    """The bin of each correlation >= 0; rounding does not part equal ones (1e-10)."""
    return np.floor(r * R_BINS + 1e-6).astype(np.int64)


NAMES = ascii_uppercase
"""How options are named, in prompts, answers and scores alike."""

LETTERS = NAMES[:10]
"""Those that a prompt may list; an option that is chosen by its likelihood is written by no model,
so there may be more."""

LIKELIHOODS = ("sum", "per_character", "per_token")
"""What may make one option likelier than another (:meth:`Weighed.by`)."""

SIGNS = POSITIVE, NEGATIVE, BOTH = "positive", "negative", "both"
"""Which features are looked for: those of right answers, those of wrong ones, or either."""

CLASSES = ("structural", "semantic", "unclear")
"""What kind of thing a feature reacts to (:mod:`corrsteer.selectors.classes`)."""


@dataclass(frozen=True)
class Question:
    """One row of a benchmark, before it is made a prompt.

    ``fields`` are the texts that a prompt template may name. ``answer`` is a right answer as a
    model would write it, for few-shot prompts, and ``solution`` the reasoning that leads to it;
    None and empty where the benchmark has none. ``part`` is the official split the row belongs to
    (one of ``PARTS``), empty where there are none. Accuracy is reported by each field of ``meta``;
    ``notes`` are for the task's own metrics: letters of options, if of anything. ``where``: the
    file and line it was read from, for messages.
    """

    id: str
    fields: Mapping[str, str]
    gold: str
    options: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    answer: str | None = None
    solution: str = ""
    part: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    where: str = field(default="", compare=False, repr=False)

    @property
    def content(self) -> tuple[object, ...]:
        """What is asked, whatever the row is called and in whatever order options are listed, white
        space and case aside: equal for rows that are one question. A row with nothing to ask is
        like no other."""
        if not (self.fields or self.options):
            return (self.id,)
        fields = ((name, _folded(text)) for name, text in self.fields.items())
        return (*sorted(fields), *sorted(map(_folded, self.options)))


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


PARTS = ("shots", "train", "validation", "test")
"""Official splits. ``shots`` are rows that a benchmark sets aside for few-shot prompts."""


@dataclass(frozen=True)
class Example:
    """One question as a model is asked it.

    ``options`` are the option texts in letter order, empty if it has none; ``aliases`` are other
    answers that are as right as ``gold``. ``answer``: a right one as a model should write it, its
    reasoning included where it is asked for; None where the benchmark has none.
    """

    id: str
    prompt: str
    gold: str
    options: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    answer: str | None = None


@dataclass(frozen=True)
class Score:
    """The outcome of one answer. ``parsed`` is None when the scorer could not read it."""

    value: float
    parsed: str | None

    @property
    def invalid(self) -> bool:
        return self.parsed is None


class Weighed(NamedTuple):
    """One option of a question: the log probability of its tokens after the prompt, in nats, and
    its length in characters and tokens."""

    log: float
    characters: int
    tokens: int

    def by(self, likelihood: str) -> float:
        """The log probability as options are compared by it, one of ``LIKELIHOODS``: the sum over
        the option's tokens, or that per character or token, so that longer options are not at a
        disadvantage."""
        per = {"sum": 1, "per_character": self.characters, "per_token": self.tokens}
        return self.log / per[likelihood]


def named(n: int, option: str) -> str:
    """The answer where the option at place ``n`` was chosen by its likelihood: "B. its text"."""
    return f"{NAMES[n]}. {option}"


def chosen(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an answer is, written as :func:`named` does."""
    for n, option in enumerate(options):
        if text.strip() == named(n, option).strip():
            return NAMES[n]
    return None


@dataclass(frozen=True)
class Completion:
    """What a backend wrote for one prompt.

    ``tokens``: generated ids up to and including the first end-of-sequence token.
    ``steered``: how many generation positions of this sample had a vector added (under a plan
    that acts at all of them ``len(tokens)``: the last prompt token and every generated token
    except the last; 0 without).
    ``options``: every option of the question, where one of them was chosen. Rounding depends on
    what else is in a batch, so equal answers may differ in it.
    """

    text: str
    tokens: tuple[int, ...]
    steered: int
    options: tuple[Weighed, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Divergence:
    """How far a plan moves the next-token distributions of one text.

    ``kl``: sum over ``positions`` positions of KL(unsteered || steered), in nats.
    ``top1_changed``: at how many of them another token became the likeliest.
    """

    kl: float
    top1_changed: int
    positions: int


@dataclass(frozen=True)
class Scored:
    """Another score than r of every feature of one layer, as a selector ranks by it: above
    ``neutral`` where the feature is more active on right answers.

    Arrays are [D], but for those of shuffled outcomes [P] and of resamples [R, K], which are what
    their namesakes in :class:`LayerStats` are for r.
    """

    value: np.ndarray
    neutral: float
    at_least: np.ndarray
    """How many features of the layer with how many shuffled outcomes, together, score at least as
    high; 0 where the value is not above neutral."""
    max_shuffled: np.ndarray
    shuffled_best: np.ndarray
    resampled_best: np.ndarray
    resampled: np.ndarray
    error: np.ndarray
    """How far the value may be from the exact one; 0 where it is exact."""


@dataclass(frozen=True)
class LayerStats:
    """Statistics of every feature of one layer's SAE over the selection split.

    All feature arrays are float64 of shape [D]. ``r`` is 0 for a feature that never varies.
    """

    layer: int
    n: int
    n_right: int
    r: np.ndarray
    """Pearson correlation of the pooled activation with the outcome."""
    r_length: np.ndarray
    """The same with the length of the answer in tokens."""
    r_adjusted: np.ndarray
    """The partial correlation with the outcome, given the length."""
    mean: np.ndarray
    """Mean pooled activation over all samples, inactive samples counted as 0."""
    mean_right: np.ndarray
    """The same over right samples: the coefficient c of the paper (CorrSteer, section 3)."""
    mean_wrong: np.ndarray
    freq: np.ndarray
    """Share of samples on which the feature is active (> 0)."""
    freq_right: np.ndarray
    freq_wrong: np.ndarray
    max_shuffled_r: np.ndarray
    """[P] the largest correlation of any feature of the layer with each shuffled outcome."""
    shuffled_best: np.ndarray
    """[P] the feature that has it."""
    shuffled_counts: np.ndarray
    """[R_BINS + 1] int64: how many positive correlations of any feature with any shuffled outcome
    lie in each bin (:func:`r_bin`)."""
    resampled_best: np.ndarray
    """[R, K] int64: the K features that correlate best with the outcome in each bootstrap resample
    of the samples, best first, equal ones by lower number."""
    resampled_r: np.ndarray
    """[R, K] their correlations; 0 in a resample whose outcomes do not vary."""
    left_out: int = 0
    """Positions of the token source, over all samples, that were not pooled: attention sinks."""
    others: Mapping[str, Scored] = field(default_factory=dict, compare=False)
    """Scores beside r that were collected, by name (:data:`corrsteer.stats.scores.SCORES`)."""
    residual: float = float("nan")
    """Mean norm of the residuals that were pooled; not a number where it was not collected."""
    mirror: LayerStats | None = field(default=None, compare=False, repr=False)
    """The same with right and wrong exchanged, where features of wrong answers are looked for."""
    shuffled_sign: np.ndarray | None = field(default=None, compare=False, repr=False)
    """[P] 1 or -1: what ``shuffled_best`` would have been chosen as; None: all 1."""

    def ceiling(self, level: float = 0.95) -> float:
        """The r that the best feature of this layer reaches by chance in 5 % of shuffles."""
        return ceiling(self.max_shuffled_r, level)


def ceiling(highest: np.ndarray, level: float) -> float:
    """The level's quantile of the highest scores with shuffled outcomes.

    Weibull's quantile, k / (P + 1): NumPy's default would let 6 to 9 % of pure noise pass with few
    shuffles.
    """
    return float(np.quantile(highest, level, method="weibull"))


@dataclass(frozen=True)
class SiteFit:
    """How much variance an SAE explains where it says it belongs, and beside it.

    ``explained`` is 1 - squared error / variance, over ``n`` positions; ``l0`` the mean number
    of active features; ``left_out``: how many positions more there were, the first of a text and
    outliers such as attention sinks. ``before`` and ``after`` are the neighbouring sites, None
    where there is none. ``better_*``: the site and the factor on the residual that fit better,
    None if none do.
    """

    layer: int
    n: int
    explained: float
    l0: float
    before: float | None
    after: float | None
    l0_before: float | None
    l0_after: float | None
    better_site: int | None
    better_scale: float | None
    better_explained: float | None
    left_out: int = 0


@dataclass(frozen=True)
class RankedFeature:
    """One feature as a selector ranked it within its layer (``rank`` 1 is the best)."""

    layer: int
    rank: int
    feature: int
    r: float
    ceiling: float
    coefficient: float
    freq: float
    freq_right: float
    freq_wrong: float
    mean_right: float
    mean_wrong: float
    r_length: float
    r_adjusted: float
    q: float
    """Largest false discovery rate at which the feature still counts as found, among all
    features of all layers."""
    stability: float
    """Share of bootstrap resamples of the selection split in which the feature is the best eligible
    one of its layer."""
    kind: str = ""
    """One of ``CLASSES``; empty where nobody looked."""
    by: float | None = None
    """The score that it was ranked by, and that its ceiling, q and stability are of; None: r."""
    sign: int = 1
    """-1 for a feature of wrong answers, whose score and ceiling lie below ``neutral``: steering
    lowers it, so its coefficient is negative."""
    neutral: float = 0.0
    """The score of a feature that tells nothing."""

    @property
    def score(self) -> float:
        return self.r if self.by is None else self.by

    @property
    def strength(self) -> float:
        """How far the score is from neutral, in the direction that was looked for."""
        return self.sign * (self.score - self.neutral)

    @property
    def is_noise(self) -> bool:
        """A shuffled outcome would have produced a feature at least this good; False where no
        ceiling is known."""
        return self.sign * self.score <= self.sign * self.ceiling
