"""The stages behind the store: what each result depends on, and how it is kept.

Every method returns a stage's result, computed now or read from the cache. The settings dicts
here *are* the cache keys: whatever can change a result is in one, and nothing else is. The model
and the SAEs are loaded when the first stage misses, so a run that finds everything imports
neither torch nor sae_lens.
"""

from __future__ import annotations

import gc
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache, cached_property, lru_cache, reduce
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corrsteer.errors import ModelError
from corrsteer.progress import progress
from corrsteer.records import (
    RIGHT,
    Completion,
    Example,
    LayerStats,
    Plan,
    RankedFeature,
    SiteFit,
)
from corrsteer.saes import neuronpedia
from corrsteer.scorers.base import ModelScorer
from corrsteer.stages.answers import answers_frame, generate, score
from corrsteer.stages.classify import Hands, Shared, classify, overruled
from corrsteer.stages.contexts import strongest_contexts
from corrsteer.stages.plan import Narrow, select, steering_plan
from corrsteer.stages.resume import (
    Share,
    alike,
    keep_answers,
    keep_moments,
    kept_answers,
    kept_moments,
    savings,
    shares,
)
from corrsteer.stages.sites import probe, problem, sentence, site_fits
from corrsteer.stages.statistics import check_outcomes, collect
from corrsteer.stats.moments import FeatureMoments
from corrsteer.steering.controls import control_plans
from corrsteer.steering.planfile import load_plan, save_plan
from corrsteer.store.entries import Store
from corrsteer.store.keys import digest, key
from corrsteer.store.partial import Partial

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

CONTEXT_SAMPLES = 400  # samples of the selection split searched for a feature's contexts
STATS, CONTEXTS = 3, 3  # forms of what the stages collect and explain keep
PROBE_SAMPLES = 64  # samples of the selection split that the site check may read
# Half-made statistics are saved at a batch when this many times the last saving's duration has
# gone by: saving takes under 5 % of the time, and with small SAEs happens at every batch.
KEEP_EVERY = 20.0


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
    decoding: str = "free"
    stop: tuple[str, ...] = ()
    hands: Hands = field(default_factory=dict)

    @property
    def model(self) -> Any:
        return load_model(self.backend, self.model_spec)

    @cached_property
    def model_key(self) -> dict[str, Any]:
        return self.backend.key(self.model_spec)

    @cached_property
    def sae_key(self) -> Callable[[int], str]:
        """Layer -> fingerprint; each reads a whole SAE, so it is asked once a run."""
        return cache(self.sae.fingerprint)

    def check_prompts(self, splits: Mapping[str, Sequence[Example]]) -> None:
        """Raises DataError for prompts without room for an answer, of all splits at once.

        Prompts that were answered before fitted; then the model need not be loaded.
        """
        if not all(self.store.has("generate", self.answers_key(s, None)) for s in splits.values()):
            prompts = [e.prompt for examples in splits.values() for e in examples]
            room = self.task.max_new_tokens if self.decoding == "free" else 1
            self.model.check_prompts(prompts, room)

    # -- the SAEs' sites ---------------------------------------------------------------------

    def sites(self, examples: Sequence[Example], layers: Sequence[int]) -> list[SiteFit]:
        """How well each SAE fits its site, measured on prompts; empty with ``sae.check=off``.

        Raises ModelError for an SAE that fits somewhere else better, or warns if that was asked.
        """
        if self.sae.check == "off":
            return []
        prompts = [e.prompt for e in examples[:PROBE_SAMPLES]]
        shared = {**self.model_key, "prompts": digest(prompts)}
        keys = {n: {**shared, "layer": n, "sae": self.sae_key(n)} for n in layers}
        made: dict[int, SiteFit] = {}

        def make(missing: list[int]) -> None:
            taken = probe(self.model, prompts)
            for saes in self.in_budget(missing):
                for n, fit in site_fits(self.model, saes, taken).items():
                    made[n] = fit

                    def write(folder: Path, fit: SiteFit = fit) -> None:
                        (folder / "site.json").write_text(json.dumps(asdict(fit)), encoding="utf-8")

                    self.store.get("site", keys[n], write)

        self.store.fill("site", keys, make, together=True)
        fits = []
        for n in layers:
            entry = self.store.read("site", keys[n])
            fits.append(SiteFit(**json.loads((entry / "site.json").read_text(encoding="utf-8"))))
        for fit in fits:
            if fit.layer in made:
                log.info(sentence(fit))
        wrong = [text for fit in fits if (text := problem(fit, self.sae.sae_id(fit.layer)))]
        if wrong and self.sae.check == "strict":
            more = f" ({len(wrong) - 1} more SAEs of this run are wrong too)" if wrong[1:] else ""
            raise ModelError(wrong[0] + more)
        for text in wrong:
            log.warning(text)
        return fits

    def in_budget(self, layers: Sequence[int]) -> Iterator[dict[int, Any]]:
        """The layers' SAEs, as many at a time as ``sae.budget_gb`` allows, at least one.

        Drop a group before asking for the next: its SAEs are freed then.
        """
        group: dict[int, Any] = {}
        used = largest = 0
        for n in layers:
            if group and used + largest > self.sae.budget_gb * 1e9:
                yield group
                group.clear()
                used = 0
            if not group:
                # nnsight keeps the frames that traced in a cycle, and they an SAE of before.
                gc.collect()
            group[n] = self.sae.load(n, str(self.model.device))
            used += group[n].nbytes
            largest = max(largest, group[n].nbytes)
        if group:
            yield group
            group.clear()

    # -- answers -----------------------------------------------------------------------------

    def answers(
        self,
        examples: Sequence[Example],
        plans: Mapping[str, Plan | None],
        what: str,
        decoding: str | None = None,
    ) -> dict[str, pd.DataFrame]:
        """Scored answers of every arm. Arms that are missing share one prompt pass.

        ``decoding``: another than the run's, for a control.
        """
        decoding = decoding or self.decoding
        keys = {arm: self.answers_key(examples, plan, decoding) for arm, plan in plans.items()}

        def make(missing: list[str]) -> None:
            some = {arm: plans[arm] for arm in missing}
            made = self._generated(examples, some, keys, what, decoding)
            for arm in missing:

                def write(folder: Path, arm: str = arm) -> None:
                    answered = [made[arm][i] for i in range(len(examples))]
                    frame = answers_frame(examples, answered)
                    frame.to_parquet(folder / "answers.parquet", index=False)

                self.store.get("generate", keys[arm], write)

        self.store.fill("generate", keys, make)
        return {arm: self._scored(keys[arm], examples) for arm in plans}

    def answer_share(self, examples: Sequence[Example], what: str, share: Share) -> None:
        """Answer some batches without steering, and keep them for :meth:`answers`."""
        keys = {"baseline": self.answers_key(examples, None)}
        if not self.store.has("generate", keys["baseline"]):
            with self.store.claim("generate", {None: {**keys["baseline"], "share": str(share)}}):
                self._generated(examples, {"baseline": None}, keys, what, self.decoding, share)

    def _generated(
        self,
        examples: Sequence[Example],
        plans: Mapping[str, Plan | None],
        keys: Mapping[str, Mapping[str, Any]],
        what: str,
        decoding: str,
        share: Share | None = None,
    ) -> dict[str, dict[int, Completion]]:
        """Answers by arm and index of the example, going on from what was kept."""
        parts = {arm: self.store.partial("generate", keys[arm]) for arm in plans}
        label = f"answer {what}, {len(plans)} arm{'s' * (len(plans) > 1)}"
        batches = self.model.batches([e.prompt for e in examples])
        if share is not None:
            label, batches = f"{label}, {share}", share.batches(batches)
        with progress(label, sum(map(len, batches))) as show:

            def keep(new: Mapping[str, Mapping[int, Completion]], done: int) -> None:
                for arm, column in new.items():
                    keep_answers(parts[arm], column)
                show(done, known=not new)

            return generate(
                self.model,
                examples,
                plans,
                batches=batches,
                max_new_tokens=self.task.max_new_tokens,
                strategy=self.strategy,
                decoding=decoding,
                stop=self.stop,
                known={arm: kept_answers(part) for arm, part in parts.items()},
                on_batch=keep,
            )

    def answers_key(
        self, examples: Sequence[Example], plan: Plan | None, decoding: str | None = None
    ) -> dict[str, Any]:
        settings: dict[str, Any] = {
            **self.model_key,
            "prompts": digest([[e.id, e.prompt] for e in examples]),
            "decoding": decoding or self.decoding,
        }
        if settings["decoding"] == "free":
            settings |= {"max_new_tokens": self.task.max_new_tokens, "stop": list(self.stop)}
        else:
            settings["options"] = digest([e.options for e in examples])
        return settings | self.plan_key(plan)

    def plan_key(self, plan: Plan | None) -> dict[str, Any]:
        """What stands for a plan, and for how it is added, in a cache key."""
        if plan is None:
            return {"plan": None}
        vectors = {layer: digest(v.tobytes()) for layer, v in plan.vectors().items()}
        return {
            "plan": {str(layer): vectors[layer] for layer in sorted(vectors)},
            "operator": type(self.strategy).__name__,
        }

    def _scored(self, settings: Mapping[str, Any], examples: Sequence[Example]) -> pd.DataFrame:
        import pandas as pd

        frame = pd.read_parquet(self.store.read("generate", settings) / "answers.parquet")
        self.store.partial("generate", settings).clear()
        scorer = self.task.scorer
        if not isinstance(scorer, ModelScorer):
            return score(frame, examples, scorer)
        settings = {
            "answers": settings,
            "golds": digest([[e.gold, *e.aliases] for e in examples]),
            "scorer": {
                name: value
                for name, value in vars(scorer).items()
                if name not in ("model", "revision", "batch_size", "device")
            },
            "kind": type(scorer).__name__,
            "model": scorer.fingerprint(),
        }

        def write_scores(folder: Path) -> None:
            score(frame, examples, scorer).to_parquet(folder / "scored.parquet", index=False)

        return pd.read_parquet(self.store.get("score", settings, write_scores) / "scored.parquet")

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
        resamples: int,
        shards: int = 1,
    ) -> list[LayerStats]:
        """Feature statistics per layer. One entry per layer: layer subsets share them.

        ``shards``: into how many shares the samples are divided, whose statistics are merged at
        the end. Rounding aside (1e-12), the result is the same.
        """
        outcomes, keys = self._collect_keys(
            examples, answers, layers, token_source, pooling, shuffles, resamples
        )
        parts = [self._parts(keys, share) for share in shares(shards)]

        def make(missing: list[int]) -> None:
            prompts = [e.prompt for e in examples]
            batches = self.model.batches(prompts)
            rows = [sum(map(len, share.batches(batches))) for share in shares(shards)]
            kept = {n: [{seen for seen, *_ in savings(part[n])} for part in parts] for n in missing}
            # Shares that other jobs have finished need no SAE.
            whole = [
                n
                for n, found in kept.items()
                if all(total in map(len, seen) for total, seen in zip(rows, found, strict=True))
            ]
            groups = [[n for n in missing if n not in whole]]
            for k in range(shards):
                groups = [g for group in groups for g in alike({n: kept[n][k] for n in group})]
            for n in whole:
                put(
                    n,
                    reduce(
                        FeatureMoments.merge,
                        (kept_moments({n: part[n]})[0][1][n] for part in parts),
                    ),
                )
            for saes in chain.from_iterable(map(self.in_budget, groups)):
                made: dict[int, FeatureMoments] = {}
                for part, share in zip(parts, shares(shards), strict=True):
                    new = self._collected(
                        part, saes, prompts, answers, outcomes, keys, share, shards > 1
                    )
                    made = {n: made[n].merge(new[n]) if made else new[n] for n in saes}
                for n in saes:
                    put(n, made[n])

        def put(n: int, moments: FeatureMoments) -> None:
            stats = moments.finish(n)
            self.store.get("collect", keys[n], lambda folder: _save_stats(stats, folder), STATS)

        self.store.fill("collect", keys, make, STATS, together=True)
        entries = [self.store.read("collect", keys[n], STATS) for n in layers]
        for part in chain.from_iterable(p.values() for p in parts):
            part.clear()
        return [_load_stats(entry) for entry in entries]

    def collect_share(
        self,
        examples: Sequence[Example],
        answers: pd.DataFrame,
        layers: Sequence[int],
        share: Share,
        **settings: Any,
    ) -> None:
        """Statistics of some batches, kept for :meth:`statistics`, whose ``settings`` they need."""
        outcomes, keys = self._collect_keys(examples, answers, layers, **settings)
        missing = [n for n in layers if not self.store.has("collect", keys[n], STATS)]
        parts = self._parts({n: keys[n] for n in missing}, share)
        claims = {n: {**keys[n], "share": str(share)} for n in missing}
        if not missing:
            return
        with self.store.claim("collect", claims, together=True):
            found = {n: {seen for seen, *_ in savings(parts[n])} for n in missing}
            for saes in chain.from_iterable(map(self.in_budget, alike(found))):
                prompts = [e.prompt for e in examples]
                self._collected(parts, saes, prompts, answers, outcomes, keys, share, True)

    def _collect_keys(
        self,
        examples: Sequence[Example],
        answers: pd.DataFrame,
        layers: Sequence[int],
        token_source: str,
        pooling: str,
        shuffles: int,
        resamples: int,
    ) -> tuple[np.ndarray, dict[int, dict[str, Any]]]:
        outcomes = answers["score"].to_numpy(np.float64)
        check_outcomes(outcomes)
        shared = {
            **self.answers_key(examples, None),
            "outcomes": digest(outcomes.tobytes()),
            "token_source": token_source,
            "pooling": pooling,
            "shuffles": shuffles,
            "resamples": resamples,
            "seed": self.seed,
        }
        return outcomes, {n: {**shared, "layer": n, "sae": self.sae_key(n)} for n in layers}

    def _parts(self, keys: Mapping[int, Mapping[str, Any]], share: Share) -> dict[int, Partial]:
        more = {"share": str(share)} if share.of > 1 else {}
        return {n: self.store.partial("collect", {**key, **more}, STATS) for n, key in keys.items()}

    def _collected(
        self,
        parts: Mapping[int, Partial],
        saes: Mapping[int, Any],
        prompts: Sequence[str],
        answers: pd.DataFrame,
        outcomes: np.ndarray,
        keys: Mapping[int, Mapping[str, Any]],
        share: Share,
        keep_last: bool,
    ) -> dict[int, FeatureMoments]:
        """One group's accumulators, going on from what ``parts`` holds and keeping it up to date.

        A kill costs the batch at work and those since the last saving: up to ``KEEP_EVERY`` times
        what a saving takes (6 layers of 1,024 features: 70 ms, so under 2 seconds; 26 of 16,384:
        3 to 6 s for 880 MB). All layers of a saving count or none, and sums go on in the order
        of an undisturbed run, so the result has the same bits.
        """
        start, slots = kept_moments({n: parts[n] for n in saes})
        batches = share.batches(self.model.batches(prompts))
        total = sum(map(len, batches))
        if start[0]:
            log.info("collect: %d of %d samples were kept", len(start[0]), total)
        latest: tuple[list[int], dict[int, FeatureMoments]] | None = None
        saved, took = time.monotonic(), 0.0
        names = f"layer {min(saes)}" if len(saes) == 1 else f"{len(saes)} layers"
        names += f", {share}" if share.of > 1 else ""
        shared = keys[next(iter(saes))]
        try:
            with progress(f"collect {names}", total) as show:
                show(len(start[0]), known=True)

                def keep(seen: list[int], moments: dict[int, FeatureMoments]) -> None:
                    nonlocal latest, saved, took
                    latest = (seen, moments)
                    now = time.monotonic()
                    last = keep_last and len(seen) == total
                    if last or now - saved >= KEEP_EVERY * took:
                        slots.update(keep_moments(parts, slots, *latest))
                        saved = time.monotonic()
                        took = saved - now
                    show(len(seen))

                return collect(
                    self.model,
                    saes,
                    prompts,
                    answers["tokens"].tolist(),
                    outcomes,
                    batches=batches,
                    token_source=shared["token_source"],
                    pooling=shared["pooling"],
                    n_shuffles=shared["shuffles"],
                    n_resamples=shared["resamples"],
                    seed=shared["seed"],
                    start=start,
                    on_batch=keep,
                )
        except BaseException:
            # A server that went away, an interrupt: everything up to the last batch is good,
            # unless part of the next one has been added already.
            if latest is not None and all(m.n == len(latest[0]) for m in latest[1].values()):
                keep_moments(parts, slots, *latest)
            raise

    # -- plans -------------------------------------------------------------------------------

    def plan(
        self, stats: Sequence[LayerStats], narrow: Narrow | None = None
    ) -> tuple[tuple[RankedFeature, ...], tuple[RankedFeature, ...], Plan]:
        """(ranked features, chosen features, their plan at dial 1).

        ``narrow``: which of the ranked features may be chosen.
        """
        ranked, chosen = select(stats, self.selector, self.strategy, narrow)
        settings = {
            "features": [[f.layer, f.feature, f.coefficient, f.r] for f in chosen],
            "saes": [self.sae_key(f.layer) for f in chosen],
        }

        def make(folder: Path) -> None:
            save_plan(steering_plan(chosen, self._directions), folder, {})

        return ranked, chosen, load_plan(self.store.get("select", settings, make))

    def controls(
        self, plan: Plan, stats: Sequence[LayerStats], draws: Mapping[str, int]
    ) -> dict[str, Plan]:
        """Arm -> plan of a control, at the plan's norms and dial."""
        coef, plan = plan.coef, plan.turned_to(1.0)  # a sweep over the dial has the same ones
        mine = [s for s in stats if s.layer in plan.vectors()]
        settings = {
            "plan": [[e.layer, e.feature, digest(e.vector.tobytes())] for e in plan.entries],
            "live": [digest((s.freq > 0).tobytes()) for s in mine],
            "r": [digest(s.r.tobytes()) for s in mine],
            "shuffled": [s.shuffled_best[: draws["shuffled"]].tolist() for s in mine],
            "saes": [self.sae_key(s.layer) for s in mine],
            "draws": dict(draws),
            "seed": self.seed,
        }

        def make(folder: Path) -> None:
            plans = control_plans(plan, mine, self._directions, draws, self.seed)
            for arm, control in plans.items():
                save_plan(control, folder / arm, {})
            (folder / "arms.json").write_text(json.dumps(list(plans)), encoding="utf-8")

        entry = self.store.get("controls", settings, make)
        arms = json.loads((entry / "arms.json").read_text(encoding="utf-8"))
        return {arm: load_plan(entry / arm).turned_to(coef) for arm in arms}

    def study(
        self,
        examples: Sequence[Example],
        baseline: pd.DataFrame,
        plans: Mapping[str, Plan],
        settings: Mapping[str, Any],
    ) -> Path:
        """The folder of a search over the layers and dials of ``plans`` (name -> plan at dial 1).

        It holds scores, so what gives them is in its key; ``baseline``: scored answers without
        steering. It is as unfinished as ``Partial``, which it is named like: one more trial is
        always possible.
        """
        scorer = self.task.scorer
        plain = (str, int, float, bool, list, tuple, type(None))
        settings = {
            **settings,
            "seed": self.seed,
            "plans": {name: self.answers_key(examples, plan) for name, plan in plans.items()},
            "golds": digest([[e.gold, *e.aliases] for e in examples]),
            "kind": type(scorer).__name__,
            "scorer": {name: v for name, v in vars(scorer).items() if isinstance(v, plain)},
            "scores": digest(baseline["score"].to_numpy(np.float64).tobytes()),
        }
        if isinstance(scorer, ModelScorer):
            settings["model"] = scorer.fingerprint()
        return self.store.root / "search" / f".{key('search', 1, settings)}.partial"

    def _directions(self, layer: int, features: Sequence[int]) -> np.ndarray:
        return self.sae.load(layer).directions(features)

    # -- what features mean --------------------------------------------------------------------

    def contexts(
        self,
        examples: Sequence[Example],
        answers: pd.DataFrame,
        features: Sequence[RankedFeature],
    ) -> list[dict[str, Any]]:
        """A card of each feature: the tokens that activate it most, over part of the selection
        split, those its direction makes likelier, its class, and its page on Neuronpedia.

        Contexts are kept. Classes are not: they may be given by hand, and the rule is quick.
        """
        if not features:
            return []
        examples, answers = examples[:CONTEXT_SAMPLES], answers.iloc[:CONTEXT_SAMPLES]
        wanted = sorted(features, key=lambda f: (f.layer, f.feature))
        layers = list(dict.fromkeys(f.layer for f in wanted))
        settings = {
            **self.answers_key(examples, None),
            "right": digest((answers["score"] >= RIGHT).to_numpy().tobytes()),
            "features": {str(n): [f.feature for f in wanted if f.layer == n] for n in layers},
            "saes": [self.sae_key(n) for n in layers],
        }

        def make(folder: Path) -> None:
            cards = []
            texts: Shared[str] | None = None
            for saes in self.in_budget(layers):
                some, texts = strongest_contexts(
                    self.model,
                    saes,
                    [f for f in wanted if f.layer in saes],
                    [e.id for e in examples],
                    [e.prompt for e in examples],
                    answers["tokens"].tolist(),
                    (answers["score"] >= RIGHT).tolist(),
                )
                cards += some
            assert texts is not None
            found = {"cards": cards, "places": sorted(texts.places), "common": sorted(texts.common)}
            (folder / "contexts.json").write_text(json.dumps(found), encoding="utf-8")

        entry = self.store.get("explain", settings, make, CONTEXTS)
        found = json.loads((entry / "contexts.json").read_text(encoding="utf-8"))
        texts = Shared(frozenset(map(tuple, found["places"])), frozenset(found["common"]))
        cards = {(card["layer"], card["feature"]): card for card in found["cards"]}
        return [self._card(cards[f.layer, f.feature], texts) for f in features]

    def _card(self, card: Mapping[str, Any], texts: Shared[str]) -> dict[str, Any]:
        layer, feature = card["layer"], card["feature"]
        sae = self.sae.sae_id(layer)
        rule = classify(card["contexts"], texts)
        return {
            "sae": sae,
            "layer": layer,
            "feature": feature,
            **overruled(rule, self.hands.get((sae, feature))),
            "neuronpedia": neuronpedia.link(self.sae.neuronpedia(layer), feature),
            "description": None,
            "promotes": card["promotes"],
            "suppresses": card["suppresses"],
            "contexts": card["contexts"],
        }

    def descriptions(
        self, features: Sequence[RankedFeature], fetch: bool
    ) -> dict[tuple[int, int], str | None]:
        """(layer, feature) -> what Neuronpedia says of it, as far as that is kept or, with
        ``fetch``, can be had. What was said once, even that there is nothing, is not asked again.
        """
        found = {}
        for f in features:
            sae = self.sae.neuronpedia(f.layer)
            if neuronpedia.link(sae, f.feature) is None:
                continue
            settings = {"neuronpedia": sae, "feature": f.feature}
            if not self.store.has("describe", settings):
                said = neuronpedia.describe(sae, [f.feature]) if fetch else {}
                fetch = bool(said)  # after a failure no more is asked
                if not said:
                    continue
                text = json.dumps(said[f.feature])

                def write(folder: Path, text: str = text) -> None:
                    (folder / "description.json").write_text(text, encoding="utf-8")

                self.store.get("describe", settings, write)
            entry = self.store.read("describe", settings)
            kept = (entry / "description.json").read_text(encoding="utf-8")
            found[f.layer, f.feature] = json.loads(kept)
        return found


def _save_stats(stats: LayerStats, folder: Path) -> None:
    np.savez(folder / "stats.npz", **asdict(stats))


def _load_stats(folder: Path) -> LayerStats:
    with np.load(folder / "stats.npz", allow_pickle=False) as arrays:
        values = {f.name: arrays[f.name] for f in fields(LayerStats)}
    scalars = {name: int(values[name]) for name in ("layer", "n", "n_right")}
    return LayerStats(**{**values, **scalars})
