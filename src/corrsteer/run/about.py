"""What a run says of itself: its rows, its prompts, its scorer and its plan.

Pure functions from built components to JSON-ready records; nothing is computed here.
"""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from corrsteer.records import Question
from corrsteer.run.build import Job, Observed, sae_origin
from corrsteer.scorers.base import ModelScorer
from corrsteer.stages.bench import Cached
from corrsteer.stages.evaluate import arm_summary
from corrsteer.stats.moments import pearson
from corrsteer.store.keys import digest
from corrsteer.tasks.prompts import unescaped

if TYPE_CHECKING:
    from omegaconf import DictConfig

PACKAGES = ("torch", "transformers", "nnsight", "sae-lens", "numpy", "corrsteer")


def about_job(cfg: DictConfig, job: Job, seen: Observed) -> dict[str, Any]:
    """The part of ``metrics.json`` that steering has no part in."""
    n_tokens, score = (seen.selection[name].to_numpy(float) for name in ("n_tokens", "score"))
    stages, task = job.stages, job.task
    return {
        "task": task.name,
        "model": stages.model_spec.name,
        "sae": stages.sae.name,
        "variant": stages.strategy.variant,
        "layers": list(job.layers),
        "seed": cfg.seed,
        "token_source": cfg.collect.token_source,
        "pooling": cfg.collect.pooling,
        "data": about_data(task, job.questions),
        "asked": about_prompts(task, stages.model_spec, job.dealt, stages.decoding, stages.stop),
        "scorer": about_scorer(cfg.task.scorer, task.scorer),
        "n": {name: len(part) for name, part in job.splits.items()},
        "sae_trained_on": sae_origin(stages, job.layers),
        "sites": [asdict(fit) for fit in seen.sites],
        "selection": {**arm_summary(seen.selection), "length_r": pearson(n_tokens, score)},
    }


def about_data(task: Any, questions: Sequence[Question]) -> dict[str, Any]:
    """Which rows a run was made on: where from, how many of what, and their content."""
    source = task.hub if task.data == "hub" else None
    return {
        "source": task.data,
        "repo": source.repo if source else None,
        "revision": source.revision if source else None,
        "licence": source.licence if source else None,
        "subset": task.subset,
        "rows": len(questions),
        "parts": dict(Counter(q.part or "all" for q in questions)),
        "categories": dict(Counter(q.meta.get("category", "") for q in questions)),
        "fingerprint": digest(
            [
                [q.id, q.part, sorted(q.fields.items()), q.options, q.gold, q.aliases]
                + [q.answer, q.solution, sorted(q.notes.items())]
                for q in questions
            ]
        ),
    }


def about_prompts(
    task: Any, model: Any, dealt: Mapping[str, Sequence[Question]], decoding: str, stop: Any
) -> dict[str, Any]:
    chat = model.chat_template
    shots = "official" if any(q.part == "shots" for q in dealt["shots"]) else "selection"
    return {
        "template": unescaped(task.chat_prompt if chat and task.chat_prompt else task.prompt),
        "chat_template": chat,
        "few_shot": task.few_shot,
        "shots": shots if task.shots else None,
        "cot": task.cot,
        "decoding": decoding,
        "max_new_tokens": task.max_new_tokens,
        "stop": list(stop),
        "max_chars": task.max_chars,
    }


def about_scorer(settings: Any, scorer: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    about = {
        "name": type(scorer).__name__,
        "version": getattr(scorer, "version", None),
        "settings": OmegaConf.to_container(settings, resolve=True),
    }
    if isinstance(scorer, ModelScorer):
        about["model"] = scorer.fingerprint()
    return about


def about_plan(
    stages: Cached, cfg: DictConfig, layers: Sequence[int], splits: Mapping[str, Any]
) -> dict[str, Any]:
    """What a plan must say so that somebody else can use and check it."""
    spec = stages.model_spec
    return {
        "model": {
            "name": spec.name,
            "revision": spec.revision,
            "fingerprint": stages.model_key["model"],
        },
        "saes": {str(n): stages.sae.sae_id(n) for n in layers},
        "task": {"name": stages.task.name, "data": stages.task.data},
        "splits": {
            name: {"n": len(part), "ids": digest([e.id for e in part])}
            for name, part in splits.items()
        },
        "seed": cfg.seed,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
