"""From a config to its components: made and checked once, before any compute.

``build(cfg)`` is the door: nobody reads ``cfg`` after it. Cost: reading the task's rows, the
model's config and the SAEs' metadata; prompts that were never answered need the tokenizer, and so
the model.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from corrsteer.config import instantiate
from corrsteer.errors import ConfigError, CorrSteerError, DataError
from corrsteer.layers import parse_layers
from corrsteer.methods.protocol import Method, Tunable
from corrsteer.models.protocol import Backend
from corrsteer.models.spec import Model
from corrsteer.records import Question
from corrsteer.run.elsewhere import Elsewhere
from corrsteer.run.fitted import check_decoding, check_selector
from corrsteer.run.measures import asked_for
from corrsteer.run.unread import check_unread
from corrsteer.saes.protocol import SAEProvider
from corrsteer.scorers.base import ModelScorer
from corrsteer.seams import fits, require
from corrsteer.selectors.classes import read_classes
from corrsteer.selectors.protocol import Selector
from corrsteer.stages.answers import check_prompts
from corrsteer.stages.bench import Asking, Bench, Collect
from corrsteer.stages.heard import check_heard
from corrsteer.stages.side_effects import SideEffects
from corrsteer.steering.arms import Arm
from corrsteer.steering.coefficients import Coefficient
from corrsteer.steering.confidence import reads_entropy
from corrsteer.steering.controls import Controls
from corrsteer.steering.encoder import made_up, reads_features
from corrsteer.steering.hooks import changed
from corrsteer.steering.operators import Add
from corrsteer.steering.plan import Plan, PlanEntry
from corrsteer.steering.positions import ON_PROMPTS
from corrsteer.steering.probe import candidates, check_chosen, made_up_probe
from corrsteer.steering.protocol import Gate, Operator
from corrsteer.store.entries import Store
from corrsteer.tasks.neutral import Unrelated, read_neutral
from corrsteer.tasks.options import one_sided, unlisted
from corrsteer.tasks.protocol import Scorer, Task
from corrsteer.tasks.splits import split_questions
from corrsteer.trackers.protocol import Tracker

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """Everything that a run works with: built and checked, nothing computed."""

    bench: Bench
    task: Task
    questions: Sequence[Question]
    dealt: Mapping[str, Sequence[Question]]
    """The task's rows, and how they were dealt to splits."""
    method: Method
    controls: Mapping[str, int]
    """Controls that steer, by kind: how many."""
    stop: int | None
    """So many draws of a kind that do as well as steering end the drawing of that kind."""
    look: int | None
    """So many draws of shuffled outcomes are enough where random features do as well; None: all."""
    unsteered: Sequence[Arm]
    """Controls that do not: constrained decoding, and an instruction in the prompt."""
    elsewhere: Elsewhere
    others: Mapping[str, Asking]
    """The tasks of ``transfer``, by name."""
    one_answer: str | None
    """What is right in every test row, whatever its letter; None where rows differ."""
    half: Asking | None
    """The test questions where that answer is wrong, called ``half_name``; None: none are asked."""
    half_name: str
    ablations: bool
    measure: tuple[str, ...]  # what a study asks for besides
    fetch: bool
    """Whether Neuronpedia may be asked for descriptions."""
    scorer_settings: Mapping[str, Any]
    """As they were typed, for the record."""


@dataclass(frozen=True)
class _Dealt:
    task: Task
    questions: Sequence[Question]
    dealt: Mapping[str, Sequence[Question]]
    asking: Asking


def build(cfg: DictConfig) -> Parts:
    """Raises ConfigError, DataError or ModelError, in one line, for whatever can be known to be
    wrong before anything is computed: a component that lacks part of its protocol among it."""
    try:
        return _build(cfg)
    except CorrSteerError as error:
        error.before_compute = True
        raise
    except OSError as error:
        if error.filename is None:
            raise
        refusal = ConfigError(f"cannot read {error.filename}: {error.strerror}; type another path")
        refusal.before_compute = True
        raise refusal from error


def asked(cfg: DictConfig) -> tuple[Model, Backend, Asking]:
    """The model, where it runs, and the run's questions: all that answering takes, without SAEs.
    Raises what :func:`build` raises."""
    spec = instantiate(cfg.model, Model)
    backend = instantiate(cfg.backend, Backend)
    _check_hashable("backend", backend)
    return spec, backend, _dealt(cfg, cfg.task, spec).asking


def _build(cfg: DictConfig) -> Parts:
    spec = instantiate(cfg.model, Model)
    own = _dealt(cfg, cfg.task, spec)
    backend, sae = instantiate(cfg.backend, Backend), instantiate(cfg.sae, SAEProvider)
    for name, part in (("backend", backend), ("sae", sae)):
        _check_hashable(name, part)
    operator, gate = instantiate(cfg.operator, Operator), instantiate(cfg.gate, Gate)
    instantiate(cfg.coefficient, Coefficient)
    instantiate(cfg.tracker, Tracker)
    bench = Bench(
        store=Store(Path(cfg.cache)),
        backend=backend,
        spec=spec,
        sae=sae,
        selector=instantiate(cfg.selector, Selector),
        asking=own.asking,
        layers=chosen_layers(cfg.layers, spec, sae),
        collect=Collect(**cfg.collect),
        seed=cfg.seed,
        hands=read_classes(cfg.classes),
    )
    check_acting(operator, gate, bench.layers[0], spec.shape()[1])
    # A provider of one's own may leave that to its SAEs, which refuse when they are asked.
    if reads_features(operator, gate) and (check_readable := getattr(sae, "check_readable", None)):
        for layer in bench.layers:
            check_readable(layer)
    method = _method(cfg)
    check_unread(cfg, getattr(method, "method", method) if cfg.search else method)
    check_chosen(operator, gate, method)
    check_decoding(method, own.task, own.questions)
    supported = backend.supports()
    if not fits(supported, frozenset[str]):
        raise ConfigError(
            f"backend {type(backend).__name__}: supports() must give a frozenset of texts, not"
            f" {supported!r}"
        )
    check_selector(bench.selector, operator, backend)
    check_heard(bench, supported)
    if lacking := sorted(method.needs - supported):
        raise ConfigError(
            f"strategy {method.name} needs {', '.join(lacking)}, but backend"
            f" {type(backend).__name__} supports {', '.join(sorted(supported))}"
        )
    others = {name: _other(cfg, name, node, spec) for name, node in cfg.transfer.items()}
    for name, node in cfg.transfer.items():
        if _resolved(node) == _resolved(cfg.task):
            log.info("transfer=%s is the run's own task: its row repeats the run's numbers", name)
    for asking in (own.asking, *others.values()):
        if isinstance(asking.task.scorer, ModelScorer):
            asking.task.scorer.prepare()
    controls = instantiate(cfg.controls, Controls)
    options = own.task.lists_options and all(q.options for q in own.questions)
    unsteered = []
    if controls.constrained and own.asking.decoding == "free" and options:
        unsteered.append(Arm("constrained", "constrained", decoding="constrained"))
    if controls.instruction:
        unsteered.append(Arm("instruction", "instruction", prefix=controls.instruction))
    answer = own.task.one_answer(own.asking.splits["test"])
    half, half_name = None, ""
    if answer is not None and controls.other_half:
        half, half_name = _half(cfg, own.task, spec)
    parts = Parts(
        bench=bench,
        task=own.task,
        questions=own.questions,
        dealt=own.dealt,
        method=method,
        controls=controls.draws(_tokens(own.asking, method)),
        stop=controls.stop,
        look=controls.look,
        unsteered=unsteered,
        elsewhere=_elsewhere(cfg),
        others=others,
        one_answer=answer,
        half=half,
        half_name=half_name,
        ablations=cfg.ablations,
        measure=asked_for(cfg.study),
        fetch=cfg.descriptions,
        scorer_settings=_resolved(cfg.task.scorer),
    )
    if bench.hands:
        saes = {sae.sae_id(n) for n in bench.layers}
        matching = sum(sae_id in saes for sae_id, _ in bench.hands)
        log.info(
            "%s: %d of %d classes are for this run's SAEs", cfg.classes, matching, len(bench.hands)
        )
    check_prompts(bench, own.asking, controls.instruction or "")
    for asking in others.values():
        check_prompts(bench, asking)
    if half is not None:
        check_prompts(bench, half)
    if parts.elsewhere.unrelated is not None:
        check_prompts(bench, parts.elsewhere.unrelated)
    return parts


def _resolved(node: DictConfig) -> Any:
    return OmegaConf.to_container(node, resolve=True)


def _check_hashable(name: str, part: Any) -> None:
    """What is loaded and read once per process is found again by its settings."""
    try:
        hash(part)
    except TypeError as error:
        raise ConfigError(
            f"{name}={type(part).__name__}: its settings must be hashable ({error}); make a tuple"
            " of a list in its constructor"
        ) from error


def check_acting(operator: Operator, gate: Gate, layer: int, width: int) -> None:
    """Refuse what would fail only after the first answers, or spoil them: one layer with a made-up
    vector and residuals of the model's ``width``. Imports torch, but for the defaults."""
    names = f"operator {type(operator).__name__} and gate {type(gate).__name__}"
    if type(operator.additive) is not bool:
        raise ConfigError(f"{names}: additive must be True or False, not {operator.additive!r}")
    for function in (operator.apply, gate.open):
        try:
            if function is not None:
                inspect.signature(function).bind(None, None, None)
        except (TypeError, ValueError):
            raise ConfigError(f"{names}: {function} must take (x, parts, dial)") from None
    vector = np.ones(width, np.float32)
    plan = Plan((PlanEntry(layer, 0, 0.0, 1.0, vector, {}, made_up(width), made_up_probe(width)),))
    try:
        operator, gate = (candidates(part, plan.entries)[0] for part in (operator, gate))
        plan = replace(plan, operator=operator, gate=gate)
        plan.key()
        wrong = "" if type(operator) is Add and gate.open is None else _acts_wrongly(plan, width)
    except ConfigError:
        raise
    except Exception as error:  # whatever their own code raises
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"{names} cannot act ({words})") from error
    if wrong:
        raise ConfigError(f"{names}: {wrong}")


def _acts_wrongly(plan: Plan, width: int) -> str:
    """What is wrong with what a plan of one layer makes of residuals; empty if nothing."""
    import torch

    x = torch.linspace(-1, 1, 3 * width).reshape(3, width)
    (arrays,) = plan.parts().values()
    parts = {name: torch.tensor(part) for name, part in arrays.items()}
    opens = None if reads_entropy(plan.gate) else plan.gate.open
    new = changed(x, parts, plan.dial, plan.operator.apply, opens)
    if new.dtype != x.dtype:
        return f"apply makes {new.dtype} of {x.dtype}; it must keep the type of x"
    if not new.isfinite().all():
        return "apply gives numbers that are not finite (nan or inf)"
    return ""


def _method(cfg: DictConfig) -> Method:
    """The strategy, or a search over what it gives."""
    if not cfg.search:
        return instantiate(cfg.strategy, Method)
    instantiate(cfg.strategy, Tunable)  # refused under its own name
    return instantiate(cfg.search, Method)


def _dealt(cfg: DictConfig, node: DictConfig, spec: Model) -> _Dealt:
    """A task's questions, how they are dealt to splits, their prompts, and how they are
    answered."""
    task = instantiate(node, Task)
    setting = str(node._get_full_key(None))
    require(task.scorer, Scorer, f"{setting}.scorer={type(task.scorer).__name__}")
    return _deal(cfg, task, spec, setting)


def _deal(cfg: DictConfig, task: Task, spec: Model, setting: str) -> _Dealt:
    """``setting``: where the task stands in the config."""
    questions = task.questions()
    decoding = task.decoding(cfg.decoding, questions)
    splits = cfg.splits
    arranged = task.arranged(questions, cfg.seed)
    if task.lists_options and (shares := one_sided(q for q in arranged if q.part != "shots")):
        log.warning(
            "task %s: the right option has not every letter equally often (%s), so a model that"
            " prefers a letter seems to know: type %s.shuffle_options=true",
            *(task.name, shares, setting),
        )
    dealt = split_questions(
        arranged,
        splits,
        cfg.seed if splits.seed is None else splits.seed,
        cfg.limit,
        official=splits.official,
        shots=task.shots,
    )
    examples, stop = task.ask(dealt, chat=spec.chat_template)
    if decoding == "free" and unlisted(examples.get("test", ())):
        log.warning(
            "task %s: the prompt shows no options, so an answer must hit the text of one by itself:"
            " write {options} in %s.prompt, or type decoding=loglikelihood",
            *(task.name, setting),
        )
    return _Dealt(task, questions, dealt, Asking(task, examples, decoding, stop, task.likelihood))


def _other(cfg: DictConfig, name: str, node: DictConfig, spec: Model) -> Asking:
    """A task of ``transfer``, its test questions. What is wrong with it says which one it is."""
    try:
        asking = _dealt(cfg, node, spec).asking
    except (ConfigError, DataError) as error:
        raise type(error)(f"transfer={name}: {error}") from None
    return replace(asking, splits={"test": asking.splits["test"]})


def _half(cfg: DictConfig, task: Task, spec: Model) -> tuple[Asking | None, str]:
    """The test questions of the task's other half, and what it is called; none where the data have
    no such rows."""
    if (other := task.other_half()) is None:
        return None, ""
    name, half = other
    try:
        asking = _deal(cfg, half, spec, "task").asking
    except DataError as error:
        log.info("%s: the %s half is not answered: %s", task.name, name, error)
        return None, ""
    return replace(asking, splits={"test": asking.splits["test"]}), name


def _tokens(asking: Asking, method: Method) -> float:
    """How long an answer may become. A pass over the whole prompt costs as much as a long answer:
    likelihoods of options need one each, and every draw of a plan that acts on the prompt."""
    if method.needs & ON_PROMPTS:
        return math.inf
    if asking.decoding == "constrained":
        return 1
    return math.inf if asking.decoding == "loglikelihood" else asking.task.max_new_tokens


def _elsewhere(cfg: DictConfig) -> Elsewhere:
    settings = instantiate(cfg.side_effects, SideEffects)
    few = cfg.limit if cfg.limit is not None else math.inf
    neutral = read_neutral(
        cfg.neutral, *(int(min(few, n)) for n in (settings.unrelated, settings.texts))
    )
    unrelated = None
    if neutral.prompts:
        unrelated = Asking(Unrelated(settings.new_tokens), {"unrelated": neutral.prompts})
    return Elsewhere(settings, unrelated, neutral.texts, neutral.source)


def chosen_layers(asked: Any, spec: Model, sae: SAEProvider) -> tuple[int, ...]:
    """The layers to steer: all that have an SAE, or those asked for.

    Raises ConfigError for a layer the model lacks or that has no SAE, ModelError when the SAEs
    are not made for a residual stream of the model's width.
    """
    available = sae.layers()
    n_layers, width = spec.shape()
    if asked == "all":
        layers = tuple(n for n in available if n < n_layers)
    else:
        layers = parse_layers(asked, n_layers)
    lacking = [n for n in layers if n not in available]
    if lacking or not layers:
        raise ConfigError(
            f"sae {sae.name} has no SAE for layer {', '.join(map(str, lacking))}; "
            f"layers that have one: {', '.join(map(str, available))}"
        )
    for n in layers:
        sae.validate(n, width)
    return layers
