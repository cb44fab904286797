"""The story of a run: load, generate, collect, select, validate, evaluate, report."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrsteer.about import about_job, about_plan
from corrsteer.config import instantiate
from corrsteer.job import baseline, letters_only, observe, prepare
from corrsteer.planfile import save_plan
from corrsteer.records import RankedFeature
from corrsteer.resume import Share
from corrsteer.stages.evaluate import arm_summary, evaluate, verdict

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
    from corrsteer.stages.report import write_run_report

    # load: everything that can be wrong is found out before any compute
    job = prepare(cfg)
    stages, splits, tracker = job.stages, job.splits, instantiate(cfg.tracker)

    # generate, collect, select: on the selection split, without steering
    seen = observe(job)
    ranked, chosen, plan, random = stages.plans(seen.stats, cfg.controls.random_draws)
    plan = plan.turned_to(cfg.coef)

    # validate: where the dial of a sweep is chosen
    arms = {"baseline": None, "steered": plan}
    validation = stages.answers(splits["validation"], arms, "validation")

    # evaluate: once, on the test split, with controls
    draws = {f"random_{n}": p.turned_to(cfg.coef) for n, p in enumerate(random, start=1)}
    test = stages.answers(splits["test"], {**arms, **draws}, "test") | letters_only(job)
    results = evaluate(test, splits["test"], chosen, task_metrics=job.task.metrics, seed=cfg.seed)

    # report
    metrics = {
        **about_job(cfg, job, seen),
        "validation": {arm: arm_summary(answers) for arm, answers in validation.items()},
        **results,
    }
    metrics["verdict"] = verdict(metrics)
    write(folder / "metrics.json", metrics)
    write(folder / "contexts.json", stages.contexts(splits["selection"], seen.selection, chosen))
    features_table(ranked, chosen).to_csv(folder / "features.csv", index=False)
    frames = [("selection", "baseline", seen.selection)]
    frames += [("validation", arm, answers) for arm, answers in validation.items()]
    frames += [("test", arm, answers) for arm, answers in test.items()]
    answers_table(frames).to_parquet(folder / "answers.parquet", index=False)
    save_plan(plan, folder / "plan", about_plan(stages, cfg, job.layers, splits))
    track(tracker, cfg, folder, metrics, ranked, chosen)
    report = write_run_report(folder)
    for sentence in metrics["verdict"]:
        log.info(sentence)
    log.info("report: %s", report)
    return metrics["arms"]["steered"]["accuracy"]


def share(cfg: DictConfig, folder: Path) -> float:
    """Computes what the jobs of a sweep have in common, before they start side by side."""
    job = prepare(cfg)
    observe(job)
    for split in ("validation", "test"):
        job.stages.answers(job.splits[split], {"baseline": None}, split)
    letters_only(job)
    return math.nan


def answer_shard(cfg: DictConfig, folder: Path, index: int) -> float:
    """Answers its share of the selection split; ``collect.shards`` says of how many."""
    job, part = prepare(cfg), Share(index, cfg.collect.shards)
    job.stages.answer_share(job.splits["selection"], "selection", part)
    return math.nan


def collect_shard(cfg: DictConfig, folder: Path, index: int) -> float:
    """Statistics of its share of the selection split, for :func:`observe` to merge."""
    job, part = prepare(cfg), Share(index, cfg.collect.shards)
    selection = baseline(job)
    settings = {name: value for name, value in job.collect.items() if name != "shards"}
    job.stages.collect_share(job.splits["selection"], selection, job.layers, part, **settings)
    return math.nan


def features_table(ranked: Sequence[RankedFeature], chosen: Sequence[RankedFeature]) -> Any:
    import pandas as pd

    rows = [{**asdict(f), "noise": f.is_noise, "chosen": f in chosen} for f in ranked]
    return pd.DataFrame(rows)


def answers_table(frames: Sequence[tuple[str, str, pd.DataFrame]]) -> pd.DataFrame:
    import pandas as pd

    parts = [answers.assign(split=split, arm=arm) for split, arm, answers in frames]
    return pd.concat(parts, ignore_index=True)[list(ANSWER_COLUMNS)]


def track(
    tracker: Any,
    cfg: DictConfig,
    folder: Path,
    metrics: dict[str, Any],
    ranked: Sequence[RankedFeature],
    chosen: Sequence[RankedFeature],
) -> None:
    from omegaconf import OmegaConf

    handle = tracker.open(folder, OmegaConf.to_container(cfg, resolve=True), cfg.name)
    flips = metrics["flips"]
    handle.log(
        {
            **{f"accuracy/{arm}": values["accuracy"] for arm, values in metrics["arms"].items()},
            "gain": metrics["gain"],
            "fixed": flips["fixed"],
            "broken": flips["broken"],
            "ser": flips["ser"],
            "validation/steered": metrics["validation"]["steered"]["accuracy"],
        }
    )
    handle.table("features", features_table(ranked, chosen))
    handle.close("done")


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
