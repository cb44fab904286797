"""What a run leaves: its record, its tables, its plan."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from corrsteer.methods.protocol import Fitted, Method
from corrsteer.models import reading
from corrsteer.records import RankedFeature
from corrsteer.report.record import (
    ABSTAINS,
    OneAnswer,
    Record,
    Results,
    ScorerUsed,
    Selection,
    SideEffects,
    Stability,
    Transfer,
)
from corrsteer.report.verdict import verdict
from corrsteer.run.build import Parts
from corrsteer.saes.provider import same_model
from corrsteer.scorers.base import ModelScorer
from corrsteer.selectors.protocol import selector_name
from corrsteer.stages.bench import Bench
from corrsteer.stages.evaluate import arm_summary, other_half
from corrsteer.stages.plan import features_of
from corrsteer.stats.moments import pearson
from corrsteer.steering.adapter import Adapter
from corrsteer.steering.arms import Arm
from corrsteer.steering.plan import Plan, PlanEntry
from corrsteer.steering.probe import is_open_ended
from corrsteer.store.keys import digest

log = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "nnsight", "sae-lens", "numpy", "corrsteer")
ANSWER_COLUMNS = (
    "id", "split", "arm", "prompt", "answer", "parsed", "gold", "score", "invalid",
    "degenerate", "n_tokens",
    "n_steered", "option_log", "option_characters", "option_tokens", "margin",
)  # fmt: skip


def record(
    parts: Parts,
    fitted: Fitted,
    arms: Sequence[Arm],
    validation: Mapping[str, pd.DataFrame],
    results: Results,
    effects: SideEffects | None,
    transfer: Mapping[str, Transfer],
) -> Record:
    """Everything that a run found, with its verdict. ``arms``: those of the validation split whose
    accuracy is part of it."""
    bench, selection, plan = parts.bench, fitted.observed.selection, fitted.plan
    n_tokens, score = (selection[name].to_numpy(float) for name in ("n_tokens", "score"))
    without_verdict = Record(
        **dict(results),
        task=parts.task.name,
        model=bench.spec.name,
        sae=bench.sae.name,
        method=parts.method.name,
        variant=parts.method.variant,
        operator=_operator(plan, parts.method) if plan else "",
        gate=type(plan.gate).__name__ if plan else "",
        positions=plan.positions if plan else "",
        coefficient=_words(plan.about.get("coefficient", "")) if plan else "",
        selector=selector_name(bench.selector),
        score=bench.selector.score,
        layers=list(bench.layers),
        seed=bench.seed,
        token_source=bench.collect.token_source,
        pooling=fitted.observed.collect.pooling,
        data=parts.task.about_data(parts.questions),
        asked=parts.task.about_prompts(
            parts.dealt,
            chat=bench.spec.chat_template,
            decoding=bench.asking.decoding,
            stop=bench.asking.stop,
        ).model_copy(update=_read(bench)),
        scorer=_scorer(parts),
        n={name: len(examples) for name, examples in bench.asking.splits.items()},
        sae_trained_on=_sae_origin(bench),
        sites=fitted.observed.sites,
        selection=Selection(
            **dict(arm_summary(selection, "baseline")), length_r=pearson(n_tokens, score)
        ),
        coef=getattr(fitted.arm.intervention, "coef", 1.0),
        validation={arm.name: arm_summary(validation[arm.name], arm.kind) for arm in arms},
        side_effects=effects,
        transfer=dict(transfer),
        stability=Stability(resamples=bench.collect.resamples),
        left_out={s.layer: s.left_out for s in fitted.observed.stats if s.left_out},
        search=fitted.search,
        choice=fitted.choice,
        versions=versions(),
    )
    return without_verdict.model_copy(update={"verdict": verdict(without_verdict)})


def _read(bench: Bench) -> dict[str, Any]:
    """How the model reads the prompts, and where it ends its answers."""
    spec = bench.spec
    prompts = [e.prompt for examples in bench.asking.splits.values() for e in examples]
    start = None if all(prompts) else reading.start(spec)
    return {
        "chat_template_kwargs": spec.chat_template_kwargs,
        "system_prompt": spec.system_prompt,
        "ends": reading.token_texts(spec, reading.ends(spec)),
        "empty_prompt": None if start is None else reading.token_texts(spec, [start])[0],
    }


def one_answer(parts: Parts, half: Mapping[str, pd.DataFrame]) -> OneAnswer | None:
    """``half``: answers to the questions where that answer is wrong, by arm; none where there are
    none."""
    if parts.one_answer is None:
        return None
    other = other_half(parts.half_name, half) if half else None
    return OneAnswer(answer=parts.one_answer, half=other)


def _scorer(parts: Parts) -> ScorerUsed:
    scorer = parts.task.scorer
    return ScorerUsed(
        name=type(scorer).__name__,
        version=getattr(scorer, "version", None),
        settings=dict(parts.scorer_settings),
        model=scorer.fingerprint() if isinstance(scorer, ModelScorer) else None,
    )


def save_plan(parts: Parts, plan: Plan, chosen: Sequence[RankedFeature], folder: Path) -> None:
    """The plan with what somebody else needs to use and check it."""
    bench = parts.bench
    score = bench.selector.score
    entries = tuple(replace(e, about={**e.about, **_about(e, chosen, score)}) for e in plan.entries)
    about = {
        "model": {
            "name": bench.spec.name,
            "architecture": bench.spec.architecture(),
            "revision": bench.spec.revision,
            "fingerprint": bench.model_key["model"],
        },
        "saes": {str(n): bench.sae.sae_id(n) for n in bench.layers},
        "sae_fingerprints": {str(n): bench.sae_key(n) for n in bench.layers},
        "task": {"name": parts.task.name, "data": parts.task.data},
        "selector": {"name": selector_name(bench.selector), "score": bench.selector.score},
        "splits": {
            name: {"n": len(examples), "ids": digest([e.id for e in examples])}
            for name, examples in bench.asking.splits.items()
        },
        "seed": bench.seed,
        "versions": versions(),
    }
    replace(plan, entries=entries, about={**plan.about, **about}).save(folder)


def save_adapter(fitted: Fitted, folder: Path) -> None:
    """The files of an adapter, a LoRA's as peft reads them; nothing of another intervention."""
    adapter = fitted.arm.intervention
    if isinstance(adapter, Adapter) and adapter.folder is not None:
        folder.mkdir(exist_ok=True)
        for file in adapter.files:
            shutil.copyfile(file, folder / file.name)


def _facts(f: RankedFeature, score: str) -> dict[str, Any]:
    """What a plan says of a feature; ``noise`` and ``ceiling`` are None where none is known."""
    known = not math.isnan(f.ceiling)
    own = {} if f.by is None else {score: f.by}
    noise, ceiling = (f.is_noise, f.ceiling) if known else (None, None)
    return {**own, "noise": noise, "ceiling": ceiling, "class": f.kind}


def _operator(plan: Plan, method: Method) -> str:
    """Abstaining is said of an operator that was calibrated so, at a dial that does something."""
    abstains = plan.coef != 0 and is_open_ended(getattr(method, "operator", None))
    abstains = abstains and getattr(plan.operator, "abstains", False)
    return type(plan.operator).__name__ + ABSTAINS * abstains


def _words(component: str | Mapping[str, Any]) -> str:
    """A component's key as text: "TotalNorm (total 100.0, spread r)"."""
    if isinstance(component, str):
        return component
    settings = ", ".join(f"{name} {x}" for name, x in component.items() if name != "name")
    return f"{component['name']} ({settings})"


def _about(entry: PlanEntry, chosen: Sequence[RankedFeature], score: str) -> dict[str, Any]:
    """What is known of the features of an entry; all are named where there are several."""
    some = [f for f in chosen if f.layer == entry.layer]
    facts = [_facts(f, score) for f in some]
    if len(some) < 2:
        return facts[0] if facts else {}
    factor = entry.coefficient / some[0].coefficient
    named = zip(features_of(some, factor), facts, strict=True)
    return {**facts[0], "features": [{**one, **more} for one, more in named]}


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def features_table(
    ranked: Sequence[RankedFeature], chosen: Sequence[RankedFeature], score: str
) -> pd.DataFrame:
    """Every ranked feature; the columns alone for a method that ranks none. ``score``: what another
    score than r is called."""
    left_out = {"by", "neutral"} | (set() if any(f.sign < 0 for f in ranked) else {"sign"})
    columns = [
        *(f.name for f in fields(RankedFeature) if f.name not in left_out),
        "noise",
        "chosen",
    ]
    if any(f.by is not None for f in ranked):
        columns.insert(columns.index("r"), "by")
    rows = [{**asdict(f), "noise": f.is_noise, "chosen": f in chosen} for f in ranked]
    return pd.DataFrame(rows, columns=columns).rename(columns={"kind": "class", "by": score})


def classes_table(cards: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """In the form that the setting ``classes`` reads."""
    names = {"class_by": "by", "class_why": "why"}
    columns = ["sae", "layer", "feature", "class", *names]
    return pd.DataFrame(cards, columns=columns).rename(columns=names)


def answers_table(frames: Sequence[tuple[str, str, pd.DataFrame]]) -> pd.DataFrame:
    """``frames``: split, arm and scored answers."""
    tables = [answered.assign(split=split, arm=arm) for split, arm, answered in frames]
    # What options weigh is null where none were weighed.
    table = pd.concat(tables, ignore_index=True).reindex(columns=list(ANSWER_COLUMNS))
    weighed = [name for name in ANSWER_COLUMNS if name.startswith("option_")]
    return table.assign(
        **{n: table[n].astype(object).where(table[n].notna(), None) for n in weighed}
    )


def write_cards(cards: Sequence[Mapping[str, Any]], folder: Path) -> None:
    text = json.dumps(cards, indent=2, allow_nan=False) + "\n"
    (folder / "contexts.json").write_text(text, encoding="utf-8")


def _sae_origin(bench: Bench) -> list[str]:
    """The models that the SAEs say they were trained on; warns where it is another one."""
    spec = bench.spec
    names = sorted({name for n in bench.layers if (name := bench.sae.trained_on(n))})
    others = [name for name in names if not same_model(name, spec.path)]
    # A folder's name says nothing about the model in it.
    if others and not spec.is_local:
        log.warning("the SAEs were trained on %s but are used on %s", ", ".join(others), spec.path)
    return names
