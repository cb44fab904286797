"""What a job asks, of what: built from its config and checked, and the half of it that no dial
changes."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrsteer.config import instantiate
from corrsteer.errors import ConfigError, DataError
from corrsteer.layers import parse_layers
from corrsteer.records import Example, LayerStats, Question, SiteFit
from corrsteer.scorers.base import ModelScorer
from corrsteer.stages.bench import Cached
from corrsteer.stages.classify import read_classes
from corrsteer.stages.measured import unrelated_stages
from corrsteer.stages.side_effects import SideEffects
from corrsteer.store.entries import Store
from corrsteer.tasks.neutral import Neutral, read_neutral
from corrsteer.tasks.splits import split_questions

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a job asks, of what: built and checked, nothing computed."""

    task: Any
    questions: Sequence[Question]
    dealt: Mapping[str, Sequence[Question]]
    splits: Mapping[str, Sequence[Example]]
    stages: Cached
    layers: tuple[int, ...]
    collect: Mapping[str, Any]
    draws: Mapping[str, int]
    """Controls that steer, by kind: how many."""
    letters: bool
    """Whether the control of constrained decoding is part of it."""
    instructed: Sequence[Example]
    """The test split with the control's instruction before its prompts; empty without one."""
    effects: SideEffects
    neutral: Neutral
    """What side effects are measured on."""
    others: Mapping[str, Other]
    """The tasks of ``transfer``, by name."""


@dataclass(frozen=True)
class Other:
    """Another task's test questions, and the stages that answer them."""

    task: Any
    examples: Sequence[Example]
    stages: Cached


@dataclass(frozen=True)
class Observed:
    """What the model did without steering: all that the dial of a sweep does not change."""

    sites: list[SiteFit]
    selection: pd.DataFrame
    stats: list[LayerStats]


def prepare(cfg: DictConfig) -> Job:
    task, model = instantiate(cfg.task), instantiate(cfg.model)
    questions, dealt, splits, decoding, stop = asked(cfg, task, model)
    stages = Cached(
        store=Store(Path(cfg.cache)),
        backend=instantiate(cfg.backend),
        model_spec=model,
        sae=instantiate(cfg.sae),
        task=task,
        strategy=instantiate(cfg.strategy),
        selector=instantiate(cfg.selector),
        seed=cfg.seed,
        decoding=decoding,
        stop=stop,
        hands=read_classes(cfg.classes),
    )
    others = {name: other_task(cfg, name, node, stages) for name, node in cfg.transfer.items()}
    for scorer in (task.scorer, *(other.task.scorer for other in others.values())):
        if isinstance(scorer, ModelScorer):
            scorer.prepare()
    effects = instantiate(cfg.side_effects)
    few = cfg.limit if cfg.limit is not None else math.inf
    neutral = read_neutral(
        cfg.neutral, *(int(min(few, n)) for n in (effects.unrelated, effects.texts))
    )
    options = task.lists_options and all(q.options for q in questions)
    controls = instantiate(cfg.controls)
    instructed = [
        replace(e, prompt=f"{controls.instruction}\n\n{e.prompt}")
        for e in (splits["test"] if controls.instruction else ())
    ]
    job = Job(
        task=task,
        questions=questions,
        dealt=dealt,
        splits=splits,
        stages=stages,
        layers=chosen_layers(cfg.layers, stages),
        collect=dict(cfg.collect),
        draws=controls.draws,
        letters=controls.constrained and decoding == "free" and options,
        instructed=instructed,
        effects=effects,
        neutral=neutral,
        others=others,
    )
    if hands := stages.hands:
        saes = {stages.sae.sae_id(n) for n in job.layers}
        mine = sum(sae in saes for sae, _ in hands)
        log.info("%s: %d of %d classes are of this run's SAEs", cfg.classes, mine, len(hands))
    stages.check_prompts({**splits, **({"instructed": instructed} if instructed else {})})
    for other in others.values():
        other.stages.check_prompts({"test": other.examples})
    if neutral.prompts:
        unrelated_stages(stages, effects.new_tokens).check_prompts({"unrelated": neutral.prompts})
    return job


def asked(cfg: DictConfig, task: Any, model: Any) -> tuple[Any, ...]:
    """A task's questions, how they are dealt to splits, their prompts, how they are answered, and
    the texts that end an answer."""
    questions = task.questions()
    decoding = task.decoding(cfg.decoding, questions)
    dealt = split_questions(
        questions,
        cfg.splits,
        cfg.seed,
        cfg.limit,
        official=cfg.splits.official,
        shots=task.shots,
    )
    splits, stop = task.ask(dealt, chat=model.chat_template)
    return questions, dealt, splits, decoding, stop


def other_task(cfg: DictConfig, name: str, node: DictConfig, stages: Cached) -> Other:
    """A task of ``transfer``. What is wrong with it says which one it is."""
    try:
        task = instantiate(node)
        _, _, splits, decoding, stop = asked(cfg, task, stages.model_spec)
    except (ConfigError, DataError) as error:
        raise type(error)(f"transfer={name}: {error}") from None
    return Other(task, splits["test"], replace(stages, task=task, decoding=decoding, stop=stop))


def observe(job: Job) -> Observed:
    sites = job.stages.sites(job.splits["selection"], job.layers)
    selection = baseline(job)
    stats = job.stages.statistics(job.splits["selection"], selection, job.layers, **job.collect)
    return Observed(sites, selection, stats)


def baseline(job: Job) -> pd.DataFrame:
    arms = job.stages.answers(job.splits["selection"], {"baseline": None}, "selection")
    return arms["baseline"]


def unsteered_controls(job: Job) -> dict[str, pd.DataFrame]:
    """Answers to the test split with constrained decoding, where there are options to constrain
    to, and with a plain instruction in the prompt."""
    found: dict[str, pd.DataFrame] = {}
    if job.letters:
        arm = {"constrained": None}
        found |= job.stages.answers(job.splits["test"], arm, "test", "constrained")
    if job.instructed:
        found |= job.stages.answers(job.instructed, {"instruction": None}, "test, instructed")
    return found


def chosen_layers(spec: Any, stages: Cached) -> tuple[int, ...]:
    """The layers to steer: all that have an SAE, or those asked for.

    Raises ConfigError for a layer the model lacks or that has no SAE, ModelError when the SAEs
    are not made for a residual stream of the model's width.
    """
    model, available = stages.model_spec, stages.sae.layers()
    n_layers, width = model.shape()
    if spec == "all":
        layers = tuple(n for n in available if n < n_layers)
    else:
        layers = parse_layers(spec, n_layers)
    lacking = [n for n in layers if n not in available]
    if lacking or not layers:
        raise ConfigError(
            f"sae {stages.sae.name} has no SAE for layer {', '.join(map(str, lacking))}; "
            f"layers with one: {', '.join(map(str, available))}"
        )
    for n in layers:
        stages.sae.validate(n, width)
    return layers


def sae_origin(stages: Cached, layers: Sequence[int]) -> list[str]:
    """The models that the SAEs say they were trained on; warns where it is another one."""
    from corrsteer.saes.provider import same_model

    spec = stages.model_spec
    names = sorted({name for n in layers if (name := stages.sae.trained_on(n))})
    others = [name for name in names if not same_model(name, spec.path)]
    # A folder's name says nothing about the model in it.
    if others and not spec.is_local:
        log.warning("the SAEs were trained on %s and are used on %s", ", ".join(others), spec.path)
    return names
