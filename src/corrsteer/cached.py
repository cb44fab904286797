"""The stages behind the store: what each result depends on, and how it is kept.

Every method returns a stage's result, computed now or read from the cache. The settings dicts
here *are* the cache keys: whatever can change a result is in one, and nothing else is. The model
and the SAEs are loaded when the first stage misses, so a run that finds everything imports
neither torch nor sae_lens.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corrsteer.planfile import load_plan, save_plan
from corrsteer.records import RIGHT, Example, LayerStats, Plan, RankedFeature
from corrsteer.stages.collect import check_outcomes, collect
from corrsteer.stages.explain import strongest_contexts
from corrsteer.stages.generate import generate, generate_constrained, score
from corrsteer.stages.select import make_plan, random_plans, select
from corrsteer.store import Store

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

CONTEXT_SAMPLES = 400  # samples of the selection split searched for a feature's contexts


@lru_cache(maxsize=1)
def load_model(backend: Any, model: Any) -> Any:
    """One model per process: the jobs of a sweep share it."""
    return backend.load(model)


@dataclass(frozen=True)
class Cached:
    """Stages for one model, SAE set and task. All fields are built components, not config."""

    store: Store
    backend: Any
    model_spec: Any
    sae: Any
    task: Any
    strategy: Any
    selector: Any
    seed: int

    @property
    def model(self) -> Any:
        return load_model(self.backend, self.model_spec)

    @cached_property
    def model_key(self) -> dict[str, Any]:
        return self.backend.key(self.model_spec)

    @cached_property
    def _sae_key(self) -> Callable[[int], str]:
        """Layer -> fingerprint; each reads a whole SAE, so it is asked once a run."""
        return cache(self.sae.fingerprint)

    # -- answers -----------------------------------------------------------------------------

    def answers(
        self, examples: Sequence[Example], plans: Mapping[str, Plan | None], what: str
    ) -> dict[str, pd.DataFrame]:
        """Scored answers of every arm. Arms that are missing share one prompt pass."""
        keys = {arm: self._answers_key(examples, plan) for arm, plan in plans.items()}
        missing = {arm: p for arm, p in plans.items() if not self.store.has("generate", keys[arm])}
        made: dict[str, pd.DataFrame] = {}
        if missing:
            label = f"answer {what}, {len(missing)} arm{'s' * (len(missing) > 1)}"
            with progress(label, len(examples)) as on_batch:
                made = generate(
                    self.model,
                    examples,
                    missing,
                    max_new_tokens=self.task.max_new_tokens,
                    strategy=self.strategy,
                    on_batch=on_batch,
                )
        return {arm: self._kept(keys[arm], examples, made.get(arm)) for arm in plans}

    def constrained(self, examples: Sequence[Example]) -> pd.DataFrame:
        """Scored unsteered answers restricted to the option letters."""
        settings = {**self._answers_key(examples, None), "allowed": "letters"}
        made = None
        if not self.store.has("generate", settings):
            made = generate_constrained(self.model, examples)
        return self._kept(settings, examples, made)

    def _answers_key(self, examples: Sequence[Example], plan: Plan | None) -> dict[str, Any]:
        settings = {
            **self.model_key,
            "prompts": digest([[e.id, e.prompt] for e in examples]),
            "max_new_tokens": self.task.max_new_tokens,
            "plan": None,
        }
        if plan is not None:
            vectors = {layer: digest(v.tobytes()) for layer, v in plan.vectors().items()}
            settings["plan"] = {str(layer): vectors[layer] for layer in sorted(vectors)}
            settings["operator"] = type(self.strategy).__name__
        return settings

    def _kept(
        self, settings: Mapping[str, Any], examples: Sequence[Example], made: pd.DataFrame | None
    ) -> pd.DataFrame:
        import pandas as pd

        def write(folder: Path) -> None:
            assert made is not None
            made.to_parquet(folder / "answers.parquet", index=False)

        entry = self.store.get("generate", settings, write)
        frame = pd.read_parquet(entry / "answers.parquet")
        return score(frame, examples, self.task.scorer)

    # -- statistics --------------------------------------------------------------------------

    def statistics(
        self,
        examples: Sequence[Example],
        answers: pd.DataFrame,
        layers: Sequence[int],
        *,
        token_source: str,
        pooling: str,
        shuffles: int,
    ) -> list[LayerStats]:
        """Feature statistics per layer. One entry per layer: layer subsets share them."""
        outcomes = answers["score"].to_numpy(np.float64)
        check_outcomes(outcomes)
        shared = {
            **self._answers_key(examples, None),
            "outcomes": digest(outcomes.tobytes()),
            "token_source": token_source,
            "pooling": pooling,
            "shuffles": shuffles,
            "seed": self.seed,
        }
        keys = {n: {**shared, "layer": n, "sae": self._sae_key(n)} for n in layers}
        missing = [n for n in layers if not self.store.has("collect", keys[n])]
        made: dict[int, LayerStats] = {}
        if missing:
            with progress(f"collect {len(missing)} layers", len(examples)) as on_batch:
                made = collect(
                    self.model,
                    self._loaded_saes(missing),
                    [e.prompt for e in examples],
                    answers["tokens"].tolist(),
                    outcomes,
                    token_source=token_source,
                    pooling=pooling,
                    n_shuffles=shuffles,
                    seed=self.seed,
                    on_batch=on_batch,
                )
        found = []
        for n in layers:

            def write(folder: Path, n: int = n) -> None:
                _save_stats(made[n], folder)

            found.append(_load_stats(self.store.get("collect", keys[n], write)))
        return found

    def _loaded_saes(self, layers: Sequence[int]) -> dict[int, Any]:
        return {n: self.sae.load(n, str(self.model.device)) for n in layers}

    # -- plans -------------------------------------------------------------------------------

    def plans(
        self, stats: Sequence[LayerStats], draws: int
    ) -> tuple[tuple[RankedFeature, ...], tuple[RankedFeature, ...], Plan, tuple[Plan, ...]]:
        """(ranked features, chosen features, plan at dial 1, random plans at matched norm)."""
        ranked, chosen = select(stats, self.selector, self.strategy)
        settings = {
            "features": [[f.layer, f.feature, f.coefficient] for f in chosen],
            "live": [digest((s.freq > 0).tobytes()) for s in stats],
            "saes": [self._sae_key(s.layer) for s in stats],
            "draws": draws,
            "seed": self.seed,
        }

        def make(folder: Path) -> None:
            plan = make_plan(chosen, self._directions)
            save_plan(plan, folder / "plan", {})
            drawn = random_plans(stats, chosen, plan, self._directions, draws=draws, seed=self.seed)
            for n, random_plan in enumerate(drawn, start=1):
                save_plan(random_plan, folder / f"random_{n}", {})

        entry = self.store.get("select", settings, make)
        random = tuple(load_plan(entry / f"random_{n}") for n in range(1, draws + 1))
        return ranked, chosen, load_plan(entry / "plan"), random

    def _directions(self, layer: int, features: Sequence[int]) -> np.ndarray:
        return self.sae.load(layer).directions(features)

    def contexts(
        self,
        examples: Sequence[Example],
        answers: pd.DataFrame,
        chosen: Sequence[RankedFeature],
    ) -> list[dict[str, Any]]:
        """The tokens that activate the chosen features most, over part of the selection split."""
        examples, answers = examples[:CONTEXT_SAMPLES], answers.iloc[:CONTEXT_SAMPLES]
        settings = {
            **self._answers_key(examples, None),
            "right": digest((answers["score"] >= RIGHT).to_numpy().tobytes()),
            "features": {str(f.layer): f.feature for f in chosen},
            "saes": [self._sae_key(f.layer) for f in chosen],
        }

        def make(folder: Path) -> None:
            contexts = strongest_contexts(
                self.model,
                self._loaded_saes([f.layer for f in chosen]),
                chosen,
                [e.id for e in examples],
                [e.prompt for e in examples],
                answers["tokens"].tolist(),
                (answers["score"] >= RIGHT).tolist(),
            )
            (folder / "contexts.json").write_text(json.dumps(contexts), encoding="utf-8")

        entry = self.store.get("explain", settings, make)
        return json.loads((entry / "contexts.json").read_text(encoding="utf-8"))


def digest(value: Any) -> str:
    """32 hex digits of bytes, or of a JSON-ready value."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return hashlib.sha256(raw).hexdigest()[:32]


def _save_stats(stats: LayerStats, folder: Path) -> None:
    np.savez(folder / "stats.npz", **asdict(stats))


def _load_stats(folder: Path) -> LayerStats:
    with np.load(folder / "stats.npz", allow_pickle=False) as arrays:
        values = {f.name: arrays[f.name] for f in fields(LayerStats)}
    scalars = {name: int(values[name]) for name in ("layer", "n", "n_right")}
    return LayerStats(**{**values, **scalars})


@contextmanager
def progress(label: str, total: int) -> Iterator[Any]:
    """A bar while a stage runs, on a terminal only; one line when it is done, everywhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console, start = Console(stderr=True), time.monotonic()
    columns = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)
    log.info("%s: %d samples in %.1f s", label, total, time.monotonic() - start)
