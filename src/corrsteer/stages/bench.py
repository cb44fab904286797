"""What every stage works on: the store, a model with its SAEs, and a task's questions.

All fields are built components, not config. The model and the SAEs are loaded when the first stage
misses, so a run that finds everything imports neither torch nor sae_lens.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from weakref import WeakSet

import numpy as np

from corrsteer.models.protocol import SINK, WHOLE, Backend, Residuals, sinks
from corrsteer.models.reading import seen
from corrsteer.models.spec import Model
from corrsteer.records import LETTERS, NAMES, Example
from corrsteer.saes.protocol import SAEProvider
from corrsteer.selectors.classes import Hands
from corrsteer.selectors.protocol import Selector
from corrsteer.steering.arms import Arm, baseline
from corrsteer.steering.encoder import Encoder
from corrsteer.store.entries import Store
from corrsteer.store.keys import digest
from corrsteer.tasks.protocol import Answerable

if TYPE_CHECKING:
    from corrsteer.models.loaded import LoadedModel
    from corrsteer.saes.loaded import LoadedSAE


REPLAY, WRITING = "replay", "writing"
"""How activations are read: in a pass over prompt and answer, or while the answer is written."""

PER_CHARACTER = "per_character"
"""How options were compared before that could be chosen: cache keys do not name it."""

_lent: WeakSet[LoadedSAE] = WeakSet()
"""SAEs of :meth:`Bench.in_budget` that are still in memory."""
GARBAGE = 2**28
"""Bytes of SAEs that may lie in memory though nobody needs them: to look for garbage takes a third
of a second, as long as collecting from a small model does."""

# Backends, models and providers of SAEs are frozen dataclasses (run.build checks it): hashable.


@lru_cache(maxsize=1)
def load_model(backend: Backend, model: Model) -> LoadedModel:
    """One model per process: the jobs of a sweep share it."""
    return backend.load(model)


@cache
def model_key(backend: Backend, model: Model) -> Mapping[str, Any]:
    """Reads every byte of a local model's weights, so it is called once per process."""
    return backend.key(model)


@cache
def sae_key(sae: SAEProvider, layer: int) -> str:
    """Reads a whole SAE, so it is called once per process."""
    return sae.fingerprint(layer)


@dataclass(frozen=True)
class Share:
    """Every ``of``-th batch, from batch ``index`` on: batches are ordered by length, so shares
    take about equally long."""

    index: int = 0
    of: int = 1

    def __str__(self) -> str:
        return f"{self.index}-of-{self.of}"

    def batches(self, batches: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        return batches[self.index :: self.of]


@dataclass(frozen=True)
class Asking:
    """A task's examples by split, how they are answered, the texts that end an answer, and how the
    likelihoods of options are compared (:data:`corrsteer.records.LIKELIHOODS`)."""

    task: Answerable
    splits: Mapping[str, Sequence[Example]]
    decoding: str = "free"
    stop: tuple[str, ...] = ()
    likelihood: str = PER_CHARACTER

    @property
    def lists_options(self) -> bool:
        """Whether the prompts show letters that an answer may be restricted to."""
        return bool(getattr(self.task, "lists_options", False))

    def right_texts(self, examples: Sequence[Example]) -> list[str] | None:
        """Of each a right answer as a model should write it, where options are weighed the option;
        None where the task has none of some."""
        if self.decoding == "loglikelihood":
            return [e.options[NAMES.index(e.gold)] for e in examples]
        texts = [e.answer for e in examples if e.answer is not None]
        return texts if len(texts) == len(examples) else None


@dataclass(frozen=True)
class Collect:
    """The settings of a collection; they are explained in ``conf/config.yaml``."""

    token_source: str
    pooling: str
    shuffles: int
    resamples: int
    shards: int = 1
    way: str = REPLAY


@dataclass(frozen=True)
class Bench:
    """A model with its SAEs, asked a task's questions, behind the store."""

    store: Store
    backend: Backend
    spec: Model
    sae: SAEProvider
    selector: Selector
    asking: Asking
    layers: tuple[int, ...]
    collect: Collect
    seed: int
    hands: Hands = field(default_factory=dict)
    """Classes of features given by hand (:func:`corrsteer.selectors.classes.read_classes`)."""

    @property
    def model(self) -> LoadedModel:
        return load_model(self.backend, self.spec)  # type: ignore[arg-type]

    @property
    def model_key(self) -> Mapping[str, Any]:
        return model_key(self.backend, self.spec)  # type: ignore[arg-type]

    def sae_key(self, layer: int) -> str:
        return sae_key(self.sae, layer)  # type: ignore[arg-type]

    @property
    def selection(self) -> Sequence[Example]:
        return self.asking.splits["selection"]

    def seen(self, examples: Sequence[Example]) -> list[str]:
        """The prompts as the model reads them, in its chat template where that is on."""
        return seen(self.spec, [e.prompt for e in examples])

    def directions(self, layer: int, features: Sequence[int]) -> np.ndarray:
        """Decoder rows [k, M] float32, in units of the raw residual stream."""
        return self.sae.load(layer).directions(features)

    def encoders(self, layer: int, features: Sequence[int]) -> Sequence[Encoder]:
        """What gives the activation of each feature, and its decoder row."""
        return self.sae.load(layer).encoders(features)

    def in_budget(self, layers: Sequence[int]) -> Iterator[dict[int, LoadedSAE]]:
        """The layers' SAEs, as many at a time as ``sae.budget_gb`` allows, at least one.

        Drop a group before asking for the next: its SAEs are freed then.
        """
        group: dict[int, LoadedSAE] = {}
        budget = self.sae.budget_gb * 1e9
        used = largest = 0
        cleaned = False
        for n in layers:
            if group and used + largest > budget:
                yield group
                group.clear()
                used, cleaned = 0, False
            left = [sae.nbytes for sae in _lent if sae not in group.values()]
            size = max(largest, *left, 0)
            if left and not cleaned and used + sum(left) + size > min(budget, GARBAGE):
                # nnsight keeps the frames that traced in a cycle, and those keep an earlier SAE.
                gc.collect()
                cleaned = True
            group[n] = self.sae.load(n, str(self.model.device))
            _lent.add(group[n])
            used += group[n].nbytes
            largest = max(largest, group[n].nbytes)
        if group:
            yield group
            group.clear()


class Pooled(NamedTuple):
    """One layer's activations of some samples, [B, D], pooled over the token source."""

    z: np.ndarray
    norms: np.ndarray
    """Of the residuals that were pooled: the sum of their norms, and how many."""
    left_out: int
    """Positions that were not pooled, since they are attention sinks."""
    features: np.ndarray | None = None
    """[D] ascending, where ``z`` is of these alone and the others are 0; None: of all."""


class Hears(Protocol):
    """What was heard while answers were written (:class:`corrsteer.stages.heard.Heard`)."""

    def batches(self, batches: Sequence[Sequence[int]]) -> list[list[int]]: ...

    def in_budget(self, layers: Sequence[int]) -> Iterator[dict[int, LoadedSAE]]: ...

    def read(
        self, saes: Mapping[int, LoadedSAE], rows: Sequence[int], answers: Sequence[Sequence[int]]
    ) -> dict[int, Pooled]: ...

    def clear(self) -> None: ...


def pooled(
    model: LoadedModel,
    saes: Mapping[int, LoadedSAE],
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]],
    token_source: str,
    pooling: str,
) -> dict[int, Pooled]:
    """Activations by layer, of a replay of one batch."""
    residuals = model.replay(prompts, answers, list(saes), token_source)
    return encoded(residuals, saes, len(prompts), token_source, pooling)


def encoded(
    residuals: Residuals,
    saes: Mapping[int, LoadedSAE],
    samples: int,
    token_source: str,
    pooling: str,
) -> dict[int, Pooled]:
    """Activations by layer. Attention sinks are left out of a token source that begins with the
    prompt: what is active there would win every maximum."""
    found = {}
    for layer, sae in saes.items():
        x, sample = residuals.layers[layer], residuals.sample
        if token_source in WHOLE:
            kept = ~sinks(x, sample)
            x, sample = x[kept], sample[kept]
        z = sae.pool(x, sample, samples, pooling).cpu().numpy()
        norms = np.array([float(x.float().norm(dim=1).cpu().double().sum()), len(sample)])
        found[layer] = Pooled(z, norms, len(residuals.sample) - len(sample))
    return found


def groups(
    rows: Sequence[int], examples: Sequence[Example], decoding: str
) -> Iterator[tuple[list[int], list[str] | None]]:
    """Which of the ``rows`` of examples can be answered together, and the letters they may be
    answered with."""
    if decoding != "constrained":
        yield list(rows), None
        return
    for n_options in sorted({len(examples[i].options) for i in rows}):
        letters = [f" {letter}" for letter in LETTERS[:n_options]]
        yield [i for i in rows if len(examples[i].options) == n_options], letters


# -- keys that several stages share ------------------------------------------------------------

ANSWERS = "generate"
"""Name of the stage of answers in the store."""


def answers_key(
    bench: Bench, asking: Asking, examples: Sequence[Example], arm: Arm
) -> dict[str, Any]:
    """``examples``: with the arm's prefix already in their prompts."""
    decoding = arm.decoding or asking.decoding
    texts = bench.seen(examples)
    settings: dict[str, Any] = {
        **bench.model_key,
        "prompts": digest([[e.id, text] for e, text in zip(examples, texts, strict=True)]),
        "decoding": decoding,
    }
    if decoding == "free":
        settings |= {"max_new_tokens": asking.task.max_new_tokens, "stop": list(asking.stop)}
    else:
        settings["options"] = digest([e.options for e in examples])
    if decoding == "loglikelihood":
        settings["weighed"] = (
            True  # entries without what every option weighs are of earlier versions
        )
        if asking.likelihood != PER_CHARACTER:
            settings["likelihood"] = asking.likelihood
    return settings | arm.key()


def statistics_keys(
    bench: Bench, outcomes: np.ndarray, layers: Sequence[int], collect: Collect
) -> dict[int, dict[str, Any]]:
    """By layer, of what is collected of the unsteered answers to the selection split."""
    shared = {
        **answers_key(bench, bench.asking, bench.selection, baseline()),
        "outcomes": digest(outcomes.tobytes()),
        "token_source": collect.token_source,
        "pooling": collect.pooling,
        "shuffles": collect.shuffles,
        "resamples": collect.resamples,
        "seed": bench.seed,
    }
    if collect.token_source in WHOLE:
        shared["without_sinks"] = SINK
    if collect.way != REPLAY:
        shared["way"] = collect.way  # another rounding
    return {n: {**shared, "layer": n, "sae": bench.sae_key(n)} for n in layers}


def prefixed(examples: Sequence[Example], prefix: str) -> Sequence[Example]:
    """The examples with a text before their prompts, an empty line between."""
    if not prefix:
        return examples
    return [replace(e, prompt=f"{prefix}\n\n{e.prompt}") for e in examples]


def golds_digest(examples: Sequence[Example]) -> str:
    return digest([[e.gold, *e.aliases] for e in examples])


def prompts_digest(bench: Bench, examples: Sequence[Example]) -> str:
    return digest(bench.seen(examples))


def write_json(folder: Path, value: Any, name: str = "value.json") -> None:
    """A stage's result that is one JSON value."""
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


def read_json(folder: Path, name: str = "value.json") -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))
