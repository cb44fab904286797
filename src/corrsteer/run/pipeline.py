"""The story of a run: load, generate, collect, select, validate, evaluate, report."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrsteer.config import instantiate
from corrsteer.records import RankedFeature
from corrsteer.run.about import about_job, about_plan
from corrsteer.run.build import baseline, prepare, unsteered_controls
from corrsteer.stages.ablate import ablation_plans, ablation_table
from corrsteer.stages.classify import named
from corrsteer.stages.effects import other_answers, side_effects, transfer, unrelated_answers
from corrsteer.stages.evaluate import arm_summary, evaluate, verdict, with_side_effects
from corrsteer.stages.resume import Share
from corrsteer.steering.planfile import save_plan
from corrsteer.trackers.sending import track

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

ANSWER_COLUMNS = (
    "id", "split", "arm", "prompt", "answer", "parsed", "gold", "score", "invalid",
    "degenerate", "n_tokens",
    "n_steered",
)  # fmt: skip


def run(cfg: DictConfig, folder: Path) -> float:
    """Runs one job and leaves its results in ``folder``. Returns the steered test accuracy."""
    from corrsteer.report.run_page import write_run_report

    # load: everything that can be wrong is found out before any compute
    search = instantiate(cfg.search)
    job = prepare(cfg)
    stages, splits = job.stages, job.splits
    instantiate(cfg.tracker)

    # generate, collect, select: on the selection split, without steering; search: on validation
    found = search.find(job)
    seen, chosen, plan = found.seen, found.chosen, found.plan

    # validate: where the dial of a sweep is chosen
    arms = {"baseline": None, "steered": plan}
    more = ablation_plans(plan) if cfg.ablations else {}
    validation = stages.answers(splits["validation"], {**arms, **more}, "validation")

    # evaluate: once, on the test split, with controls
    controls = stages.controls(plan, seen.stats, job.draws)
    test = stages.answers(splits["test"], {**arms, **controls}, "test") | unsteered_controls(job)
    results = evaluate(test, splits["test"], chosen, task_metrics=job.task.metrics, seed=cfg.seed)

    # side effects: what else the plan changed, and what it does to other tasks
    effects, unrelated = side_effects(job, plan, controls, test)
    moved, others = transfer(job, plan, controls)

    # explain: what the chosen features react to, or all that were looked at
    cards = found.explained(job, cfg.descriptions)
    ranked, chosen = named(found.ranked, cards), named(chosen, cards)

    # report
    metrics = {
        **about_job(cfg, job, seen),
        "coef": plan.coef,
        **found.about,
        "validation": {arm: arm_summary(validation[arm]) for arm in arms},
        **with_side_effects(results, effects),
        "transfer": moved,
        "stability": {"resamples": cfg.collect.resamples},
    }
    metrics["verdict"] = verdict(metrics)
    write(folder / "metrics.json", metrics)
    write(folder / "contexts.json", cards)
    classes_table(cards).to_csv(folder / "classes.csv", index=False)
    features_table(ranked, chosen).to_csv(folder / "features.csv", index=False)
    frames = [("selection", "baseline", seen.selection)]
    frames += [("validation", arm, answers) for arm, answers in validation.items()]
    frames += [("test", arm, answers) for arm, answers in test.items()]
    frames += [("unrelated", arm, answers) for arm, answers in unrelated.items()]
    frames += [
        (f"transfer {name}", arm, answers)
        for name, theirs in others.items()
        for arm, answers in theirs.items()
    ]
    answers_table(frames).to_parquet(folder / "answers.parquet", index=False)
    facts = {f.layer: {"noise": f.is_noise, "ceiling": f.ceiling, "class": f.kind} for f in chosen}
    save_plan(plan, folder / "plan", about_plan(stages, cfg, job.layers, splits), facts)
    if found.trials is not None:
        found.trials.to_csv(folder / "trials.csv", index=False)
    if cfg.ablations:
        table = ablation_table(plan, validation, seed=cfg.seed)
        table.to_csv(folder / "ablations.csv", index=False)
    report = write_run_report(folder)
    track(folder)
    for sentence in metrics["verdict"]:
        log.info(sentence)
    log.info("report: %s", report)
    return metrics["arms"]["steered"]["accuracy"]


def share(cfg: DictConfig, folder: Path) -> float:
    """Computes what the jobs of a sweep have in common, before they start side by side."""
    search, job = instantiate(cfg.search), prepare(cfg)
    for found in search.options(job).values():
        found.explained(job, cfg.descriptions)
    for split in ("validation", "test"):
        job.stages.answers(job.splits[split], {"baseline": None}, split)
    unrelated_answers(job, {"baseline": None})
    other_answers(job, {"baseline": None})
    unsteered_controls(job)
    return math.nan


def answer_shard(cfg: DictConfig, folder: Path, index: int) -> float:
    """Answers its share of the selection split; ``collect.shards`` says of how many."""
    job, part = prepare(cfg), Share(index, cfg.collect.shards)
    job.stages.answer_share(job.splits["selection"], "selection", part)
    return math.nan


def collect_shard(cfg: DictConfig, folder: Path, index: int) -> float:
    """Statistics of its share of the selection split, for the shared stage to merge."""
    job, part = prepare(cfg), Share(index, cfg.collect.shards)
    selection = baseline(job)
    settings = {name: value for name, value in job.collect.items() if name != "shards"}
    job.stages.collect_share(job.splits["selection"], selection, job.layers, part, **settings)
    return math.nan


def search_worker(cfg: DictConfig, folder: Path, index: int) -> float:
    """Works on the study of a search, beside others; ``search.workers`` says how many."""
    search, job = instantiate(cfg.search), prepare(cfg)
    search.work(job, index)
    return math.nan


def features_table(ranked: Sequence[RankedFeature], chosen: Sequence[RankedFeature]) -> Any:
    import pandas as pd

    rows = [{**asdict(f), "noise": f.is_noise, "chosen": f in chosen} for f in ranked]
    return pd.DataFrame(rows).rename(columns={"kind": "class"})


def classes_table(cards: Sequence[Mapping[str, Any]]) -> Any:
    """In the form that the setting ``classes`` reads."""
    import pandas as pd

    names = {"class_by": "by", "class_why": "why"}
    columns = ["sae", "layer", "feature", "class", *names]
    return pd.DataFrame(cards, columns=columns).rename(columns=names)


def answers_table(frames: Sequence[tuple[str, str, pd.DataFrame]]) -> pd.DataFrame:
    import pandas as pd

    parts = [answers.assign(split=split, arm=arm) for split, arm, answers in frames]
    return pd.concat(parts, ignore_index=True)[list(ANSWER_COLUMNS)]


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
