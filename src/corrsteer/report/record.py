"""The typed record of a run: what ``metrics.json`` holds.

Stages build the parts, the run puts them together, reports and trackers read attributes. A new
number needs a field here, the line that computes it and the line that shows it. Accuracies, rates
and gains are fractions of 1. None means not measured, or undefined where the docstring says so.
Importing this module costs 0.1 s (pydantic).
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ConfigDict, JsonValue, ValidationError

from corrsteer.errors import DataError
from corrsteer.records import SiteFit
from corrsteer.report.evidence import Constrained as Constrained
from corrsteer.report.evidence import Control as Control
from corrsteer.report.evidence import Format as Format
from corrsteer.report.evidence import GateLayer as GateLayer
from corrsteer.report.evidence import GateUse as GateUse
from corrsteer.report.evidence import Interval as Interval
from corrsteer.report.evidence import LayerChoice as LayerChoice
from corrsteer.report.evidence import Margin as Margin
from corrsteer.report.evidence import Noise as Noise
from corrsteer.report.evidence import OneAnswer as OneAnswer
from corrsteer.report.evidence import OtherHalf as OtherHalf
from corrsteer.report.evidence import Part as Part

FILE = "metrics.json"


class ArmSummary(Part):
    """Answers of one arm to one split; accuracy with its Wilson interval. ``kind``: one of
    :data:`corrsteer.steering.arms.KINDS`."""

    kind: str
    n: int
    accuracy: float
    ci: Interval
    right: int
    wrong: int
    invalid: int
    invalid_rate: float
    degenerate: int


class Selection(ArmSummary):
    """``length_r``: correlation of answer length with outcome."""

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
    """Answers unlike the baseline's: in text, in text but not in outcome, in the parsed answer."""

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
    """Active features per position of one layer without (``before``) and with (``after``) steering;
    ``new`` are active only with it, ``lost`` only without it. ``steered``: whether the plan has the
    layer."""

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
    """The plan on another task's test questions, beside random features at its norms."""

    n: int
    chance: float | None
    arms: dict[str, ArmSummary]
    gain: float
    gain_ci: Interval
    flips: Flips
    random_gains: list[float]


class Data(Part):
    """Which rows the run used."""

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
    """How questions were asked and answered. ``ends``: tokens that end an answer; ``empty_prompt``:
    what stands for a prompt without text; ``likelihood``: how options chosen by it compare."""

    template: str
    chat_template: bool
    chat_template_kwargs: dict[str, JsonValue] | None = None
    system_prompt: str | None = None
    ends: list[str] | None = None
    empty_prompt: str | None = None
    few_shot: int | None
    shots: str | None
    cot: bool
    decoding: str
    likelihood: str | None = None
    max_new_tokens: int
    stop: list[str]
    max_chars: int | None
    shuffle_options: bool = False


class ScorerUsed(Part):
    name: str
    version: int | str | None
    settings: dict[str, JsonValue]
    model: str | None = None
    """Fingerprint of the scorer's own model, where it has one."""


class Odometer(Part):
    """``plans``: different steered plans that this test split has answered by now, from all runs
    with this cache, controls not counted; a split with other questions, even one more or fewer, is
    another one. ``best_null_gain``: what the best of as many plans of
    random features would be expected to gain
    (:func:`corrsteer.stats.joint.best_of`); None without random features."""

    plans: int
    best_null_gain: float | None


class Stability(Part):
    resamples: int


class Trial(Part):
    """One candidate of a search, on the validation split. ``broken_share``: of the answers that
    were right. Every other field is ``layer_N``, the factor of layer N."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, float]

    number: int
    coef: float
    pooling: str
    accuracy: float
    broken: int
    broken_share: float
    fixed: int
    ser: float | None
    norm: float
    on_front: bool
    chosen: bool

    @property
    def factors(self) -> dict[int, float]:
        """By layer."""
        return {int(n.removeprefix("layer_")): f for n, f in self.__pydantic_extra__.items()}


class Search(Part):
    """A search over dials, layers and poolings; all its trials are in ``trials.csv``. ``right``: of
    the ``n`` unsteered answers."""

    trials: int
    batch: int
    coef: list[float]
    start: float
    layers: str
    pooling: list[str]
    n: int
    right: int
    standard_error: float
    sure: float | None = None
    """Share of bootstrap resamples of the validation questions in which the same rule takes the
    same trial of the front; None in records of earlier versions."""
    unsteered: Trial
    plain: list[Trial]
    front: list[Trial]
    chosen: Trial
    note: str
    price: float | None = None
    """Of the shares of broken and stray answers; None where the front, not a price, decides."""


class Results(Part):
    """What steering did on the test split (:func:`corrsteer.stages.evaluate.evaluate`).
    ``controls``: by kind."""

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
    format: Format
    constrained_gain: Constrained | None
    """None for a run without the arm that is both steered and constrained."""
    one_answer: OneAnswer | None
    """None where test rows have different right answers."""
    task_metrics: dict[str, dict[str, float]]
    groups: dict[str, Group]
    noise: Noise
    off_target_ci: Interval | None = None
    """Of ``ser.off_target``, by bootstrap over prompts and questions; None where that is None."""
    margin: Margin | None = None
    """None where options were not weighed."""

    def best_gain(self, kind: str) -> float | None:
        """Of one kind of control; None for a run without it."""
        return self.controls[kind].best if kind in self.controls else None


ABSTAINS = ", which abstains"
"""How the name of an operator ends that was calibrated and found nothing to do."""


class Record(Results):
    """Everything a run measured, and on what."""

    task: str
    model: str
    sae: str
    method: str
    """Name of the method's class, such as CorrSteer."""
    variant: str
    """Which one of the method, such as A; empty where it has none."""
    operator: str
    gate: str
    positions: str
    coefficient: str = ""
    """How the plan acts, by the names of its components; empty for a method that makes none."""
    selector: str
    score: str
    """What the selector ranks features by, such as r."""
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
    left_out: dict[int, int] = {}
    """By layer, positions of the token source that were not pooled, since they are attention sinks;
    layers without one are absent."""
    versions: dict[str, str]
    """Of the packages that the results depend on."""
    search: Search | None = None
    choice: LayerChoice | None = None
    gate_use: GateUse | None = None
    odometer: Odometer | None = None
    """None for a run that steered nothing."""
    verdict: list[str] = []
    """In sentences (:func:`corrsteer.report.verdict.verdict`)."""

    @property
    def method_name(self) -> str:
        """With its variant: CorrSteer-A."""
        return f"{self.method}-{self.variant}" if self.variant else self.method

    def write(self, folder: Path) -> None:
        content = json.dumps(self.model_dump(mode="python"), indent=2, allow_nan=False)
        (folder / FILE).write_text(content + "\n", encoding="utf-8")


def read_record(folder: Path) -> Record:
    """The record of a finished run. Raises DataError where there is none, or one that this version
    cannot read."""
    try:
        content = (folder / FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"no finished run in {folder}: it has no {FILE}; give the folder of a run whose "
            "status.json says done"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read {folder / FILE}: {error.strerror}") from None
    try:
        return Record.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"this version cannot read {folder / FILE} ({where}: {first['msg']}); type the run's "
            "command again"
        ) from None
