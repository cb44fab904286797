"""The typed record of a run: what ``metrics.json`` holds.

Stages build the parts, the run puts them together, reports and trackers read attributes. A new
number is a field here, the line that computes it and the line that shows it. Shares, accuracies and
gains are shares of 1. None: not measured, or undefined where the docstring says so. Importing it
costs 0.1 s (pydantic).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from corrsteer.errors import DataError
from corrsteer.records import SiteFit

FILE = "metrics.json"


class Part(BaseModel):
    """A part of the record. Frozen; an unknown field is an error, so that a typo cannot pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Interval = tuple[float, float]
"""95 %, low and high."""


class ArmSummary(Part):
    """Answers of one arm to one split; accuracy with its Wilson interval. ``kind``: one of
    :data:`corrsteer.steering.arms.KINDS`."""

    n: int
    accuracy: float
    ci: Interval
    right: int
    wrong: int
    invalid: int
    invalid_rate: float
    degenerate: int
    kind: str = "baseline"


class Selection(ArmSummary):
    """``length_r``: correlation of the length of an answer with its outcome."""

    length_r: float


class Flips(Part):
    """``counts[i][j]``: answers in state i without and in state j with the intervention."""

    states: list[str]
    counts: list[list[int]]
    n: int
    fixed: int
    broken: int
    changed: int
    ser: float | None
    """Undefined where nothing flipped."""
    mcnemar_p: float


class Changes(Part):
    """Answers that differ from the baseline's: in their text, in their text with the same outcome,
    in what was read of them."""

    text: int
    text_same_outcome: int
    answer: int


class Ratios(Part):
    """Side effect ratios as published (:func:`corrsteer.stats.flips.side_effect_ratios`)."""

    flips: float | None
    changed: float | None
    right: float | None
    negative_flip_rate: float
    relative_negative_flip_rate: float | None
    off_target: float | None


class Control(Part):
    """Gains of each draw of one kind of control."""

    gains: list[float]
    beats_all: bool
    """Whether steering gains more than every draw."""


class Noise(Part):
    """Of the chosen ``features``: how many are at or below their layer's noise ceiling, and how
    many win their layer in fewer than half of the resamples."""

    features: int
    below_ceiling: int
    unstable: int


class Group(Part):
    n: int
    baseline: float
    steered: float


class Changed(Part):
    changed: int
    rate: float
    ci: Interval


class Reading(Part):
    """How an arm's answers read (:func:`corrsteer.stages.side_effects.text_summary`)."""

    n: int
    n_tokens: int
    repetition: float | None
    repetition_n: int
    perplexity: float | None
    degenerate: int


class Readings(Part):
    arms: dict[str, Reading]


class OffTarget(Part):
    n: int
    source: str
    arms: dict[str, Changed]
    text: Readings


class Moved(Part):
    """KL divergence to the unsteered model, nats per token."""

    kl: float
    kl_ci: Interval
    top1_changed: float


class Neutral(Part):
    n_texts: int
    n_positions: int
    source: str
    arms: dict[str, Moved]


class LayerActivity(Part):
    """Active features per position of one layer, before and after; ``new`` and ``lost`` ones."""

    layer: int
    n_positions: int
    steered: bool
    l0_before: float
    l0_after: float
    new: float
    lost: float


class Activity(Part):
    n: int
    n_positions: int
    layers: list[LayerActivity]


class SideEffects(Part):
    off_target: OffTarget | None
    neutral: Neutral | None
    text: Readings | None
    activity: Activity | None


class Transfer(Part):
    """The plan on another task's test questions."""

    n: int
    chance: float | None
    arms: dict[str, ArmSummary]
    gain: float
    gain_ci: Interval
    flips: Flips
    random_gains: list[float]


class Data(Part):
    """Which rows a run was made on."""

    source: str
    repo: str | None
    revision: str | None
    licence: str | None
    subset: str | list[str] | None
    rows: int
    parts: dict[str, int]
    categories: dict[str, int]
    fingerprint: str


class Asked(Part):
    """How the questions were put, and how they were answered."""

    template: str
    chat_template: bool
    few_shot: int | None
    shots: str | None
    cot: bool
    decoding: str
    max_new_tokens: int
    stop: list[str]
    max_chars: int | None


class ScorerUsed(Part):
    name: str
    version: int | str | None
    settings: dict[str, Any]
    model: str | None = None
    """Fingerprint of the scorer's own model, where it has one."""


class Stability(Part):
    resamples: int


class Search(Part):
    """A search over dials, layers and poolings. Trials are rows of ``trials.csv``, whose columns
    ``layer_N`` depend on the run."""

    trials: int
    batch: int
    coef: list[float]
    start: float
    layers: str
    pooling: list[str]
    n: int
    right: int
    standard_error: float
    unsteered: dict[str, Any]
    plain: list[dict[str, Any]]
    front: list[dict[str, Any]]
    chosen: dict[str, Any]
    note: str


class Results(Part):
    """What the test split says (:func:`corrsteer.stages.evaluate.evaluate`)."""

    chance: float | None
    arms: dict[str, ArmSummary]
    gain: float
    gain_ci: Interval
    flips: Flips
    changes: Changes
    ser: Ratios
    ser_ci: Interval | None
    detectable_gain: float | None
    controls: dict[str, Control]
    task_metrics: dict[str, dict[str, float]]
    groups: dict[str, Group]
    noise: Noise


class Record(Results):
    """Everything that a run found."""

    task: str
    model: str
    sae: str
    method: str
    """Name of the method's class, such as CorrSteer."""
    variant: str
    """What of the method; empty where it has no variants."""
    operator: str
    selector: str
    score: str
    """What features are ranked by, such as r."""
    layers: list[int]
    seed: int
    token_source: str
    pooling: str
    data: Data
    asked: Asked
    scorer: ScorerUsed
    n: dict[str, int]
    """Examples by split."""
    sae_trained_on: list[str]
    sites: list[SiteFit]
    selection: Selection
    coef: float
    validation: dict[str, ArmSummary]
    side_effects: SideEffects | None
    transfer: dict[str, Transfer]
    """By the other task's name."""
    stability: Stability
    search: Search | None = None
    verdict: list[str] = []

    def write(self, folder: Path) -> None:
        content = json.dumps(self.model_dump(mode="python"), indent=2, allow_nan=False)
        (folder / FILE).write_text(content + "\n", encoding="utf-8")


def read_record(folder: Path) -> Record:
    """What a finished run found. Raises DataError where there is no readable record."""
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(
            f"no finished run in {folder}: it has no {FILE}; give the folder of a run whose "
            "status.json says done"
        ) from None
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"{folder / FILE} is no record of this version ({where}: {first['msg']}); type the "
            "run's command again"
        ) from None
