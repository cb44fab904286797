"""The story of a run: fit, validate, evaluate, explain, report."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrsteer.errors import DegenerateOutcomesError
from corrsteer.methods.protocol import Fitted
from corrsteer.methods.search import Pareto
from corrsteer.records import RIGHT
from corrsteer.report.numbers import plain_text
from corrsteer.report.record import GateUse, Record
from corrsteer.run.build import Parts, build
from corrsteer.run.cost import measured, write_costs
from corrsteer.run.drawing import tested
from corrsteer.run.elsewhere import (
    divergence_table,
    other_answers,
    side_effects,
    unrelated_answers,
)
from corrsteer.run.fitted import checked
from corrsteer.run.measures import tables
from corrsteer.run.odometer import counted
from corrsteer.run.results import (
    answers_table,
    classes_table,
    features_table,
    one_answer,
    record,
    save_adapter,
    save_plan,
    write_cards,
)
from corrsteer.selectors.classes import named
from corrsteer.stages.ablate import ablation_arms, ablation_table
from corrsteer.stages.answers import answer_share, answers
from corrsteer.stages.bench import WRITING, Bench, Share
from corrsteer.stages.contexts import contexts, descriptions
from corrsteer.stages.controls import controls
from corrsteer.stages.evaluate import evaluate, transfer_summary, with_side_effects
from corrsteer.stages.gating import gate_use
from corrsteer.stages.heard import Heard
from corrsteer.stages.side_effects import compared
from corrsteer.stages.statistics import collect_share
from corrsteer.steering.arms import BASELINE, STEERED, Arm, baseline
from corrsteer.steering.gate_controls import gate_controls
from corrsteer.trackers.sending import track

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> float:
    """Runs one job and leaves its results in ``folder``. Returns the steered test accuracy."""
    from corrsteer.report.run_page import write_run_report

    # build: everything that can be wrong is found out before any compute
    parts = build(cfg)
    bench, asking = parts.bench, parts.bench.asking

    # fit: on the selection split without steering, and on validation where the method asks it
    with _kept_to_look_at(folder), measured() as fitting:
        fitted = checked(parts.method.fit(bench), parts.method, bench)
    plan = fitted.plan

    # validate: where the dial of a sweep is chosen
    arms = [baseline(), fitted.arm]
    ablated = ablation_arms(plan) if parts.ablations and plan is not None else []
    with measured() as answering:
        validation = answers(bench, asking, "validation", [*arms, *ablated])

    # evaluate: once, on the test split, with controls
    use, gated = _gated(parts, fitted, arms)
    asked = [*arms, *_controls(parts, fitted), *gated, *parts.unsteered]
    done = tested(bench, asking, asked, parts.stop, parts.look)
    half = answers(bench, parts.half, "test", arms, parts.half_name) if parts.half else {}
    results = evaluate(
        done.answers,
        done.arms,
        asking.splits["test"],
        fitted.chosen,
        task_metrics=parts.task.metrics,
        asked=done.asked,
        stop=parts.stop,
        letters=done.letters,
        one_answer=one_answer(parts, half),
        likelihood=asking.likelihood if asking.decoding == "loglikelihood" else "sum",
    )

    # side effects: what else the plan changed, and what it does to other tasks
    effects, unrelated = side_effects(bench, parts.elsewhere, done.arms, done.answers)
    moved = [baseline(), *compared(done.arms, parts.elsewhere.settings.draws)]
    others = other_answers(bench, parts.others, moved)
    transfer = {
        name: transfer_summary(frames, moved, parts.others[name].splits["test"])
        for name, frames in others.items()
    }

    # explain: what the chosen features react to, or all that were looked at
    cards = explained(parts, fitted)
    ranked, chosen = named(fitted.ranked, cards), named(fitted.chosen, cards)

    # report
    run_record: Record = record(
        parts,
        fitted,
        arms,
        validation,
        with_side_effects(results, effects, bench.seed),
        effects,
        transfer,
    )
    run_record = counted(parts, fitted, run_record.model_copy(update={"gate_use": use}))
    run_record.write(folder)
    learns_from = getattr(parts.method, "learns_from", "outcomes")
    made = len(validation) * len(asking.splits["validation"])
    write_costs(folder, learns_from, fitting, answering, made)
    write_cards(cards, folder)
    classes_table(cards).to_csv(folder / "classes.csv", index=False)
    features_table(ranked, chosen, run_record.score).to_csv(folder / "features.csv", index=False)
    splits = {"selection": {BASELINE: fitted.observed.selection}, "validation": validation}
    splits |= {"test": done.answers, "unrelated": unrelated}
    if done.letters is not None:
        splits["test, letters only"] = dict(zip((BASELINE, STEERED), done.letters, strict=True))
    if half:
        splits[f"test, {parts.half_name}"] = half
    splits |= {f"transfer {name}": frames for name, frames in others.items()}
    rows = [
        (split, arm, frame) for split, by_arm in splits.items() for arm, frame in by_arm.items()
    ]
    answers_table(rows).to_parquet(folder / "answers.parquet", index=False)
    if plan is not None:
        save_plan(parts, plan, chosen, folder / "plan")
        if parts.ablations:
            table = ablation_table(plan, validation)
            table.to_csv(folder / "ablations.csv", index=False)
    if (moved_texts := divergence_table(bench, parts.elsewhere, done.arms)) is not None:
        moved_texts.to_csv(folder / "divergence.csv", index=False)
    save_adapter(fitted, folder / "adapter")
    besides = tables(bench, parts.measure, fitted, done.arms, done.answers[BASELINE])
    for name, table in {**fitted.tables, **besides}.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    report = write_run_report(folder)
    track(folder)
    for sentence in run_record.verdict:
        log.info(plain_text(sentence))
    log.info("report: %s", report)
    return run_record.arms["steered"].accuracy


@contextmanager
def _kept_to_look_at(folder: Path) -> Iterator[None]:
    """Leaves the answers in the folder where they are all right or all wrong, and ends the run."""
    try:
        yield
    except DegenerateOutcomesError as error:
        if error.answers is None:
            raise
        file = folder / "answers.parquet"
        table = answers_table([("selection", BASELINE, error.answers)])
        table.to_parquet(file, index=False)
        raise DegenerateOutcomesError(f"{error}; all answers are in {file}") from error


def _controls(parts: Parts, fitted: Fitted) -> list[Arm]:
    """Those that steer are plans at the plan's norms; another intervention has none of them, nor
    has a plan whose operator edits features of its own."""
    if fitted.plan is None or any(e.arrays for e in fitted.plan.entries):
        return []
    return controls(parts.bench, fitted.plan, fitted.observed.stats, parts.controls, fitted.whole)


def _gated(parts: Parts, fitted: Fitted, arms: Sequence[Arm]) -> tuple[GateUse | None, list[Arm]]:
    """How a gate is used on the test answers, and its controls; nothing for a plan without one."""
    bench, plan = parts.bench, fitted.plan
    if plan is None or plan.gate.open is None or plan.does_nothing:
        return None, []
    examples = bench.asking.splits["test"]
    test = answers(bench, bench.asking, "test", arms)
    base = test[BASELINE]
    use = gate_use(bench, plan, examples, base, test[STEERED])
    wrong = base["id"][base["score"] < RIGHT]
    duties = {row.layer: row.duty for row in use.layers}
    return use, gate_controls(plan, duties, [e.id for e in examples], set(wrong), bench.seed)


def explained(parts: Parts, fitted: Fitted) -> Sequence[Mapping[str, Any]]:
    """A card of each feature that was looked at, if only of the chosen ones, with what
    Neuronpedia says of those."""
    observed = fitted.observed
    cards = fitted.cards or contexts(
        parts.bench, observed.selection, fitted.chosen, observed.collect
    )
    texts = descriptions(parts.bench, fitted.chosen, parts.fetch)
    return [{**c, "description": texts.get((c["layer"], c["feature"]))} for c in cards]


# -- what other processes do in a sweep: see corrsteer.sweep.pieces ------------------------------


def share(cfg: DictConfig, folder: Path) -> float:
    """Computes what the jobs of a sweep have in common, before they start side by side."""
    parts = build(cfg)
    bench, asking = parts.bench, parts.bench.asking
    with _kept_to_look_at(folder):
        for fitted in parts.method.share(bench):
            explained(parts, checked(fitted, parts.method, bench))
    answers(bench, asking, "validation", [baseline()])
    answers(bench, asking, "test", [baseline(), *parts.unsteered])
    if parts.half:
        answers(bench, parts.half, "test", [baseline()], parts.half_name)
    unrelated_answers(bench, parts.elsewhere, [baseline()])
    other_answers(bench, parts.others, [baseline()])
    return math.nan


def answer_shard(cfg: DictConfig, folder: Path, index: int) -> float:
    """Answers its share of the selection split; ``collect.shards`` says of how many."""
    bench = build(cfg).bench
    share = Share(index, bench.collect.shards)
    heard = _heard(bench, share)
    listen = heard.listener if heard else None
    answer_share(bench, bench.asking, "selection", share, listen)
    if heard is not None:
        heard.save()
    return math.nan


def _heard(bench: Bench, share: Share) -> Heard | None:
    return Heard(bench, bench.collect, share) if bench.collect.way == WRITING else None


def collect_shard(cfg: DictConfig, folder: Path, index: int) -> float:
    """Statistics of its share of the selection split, for the shared stage to merge."""
    bench = build(cfg).bench
    answered = answers(bench, bench.asking, "selection", [baseline()])[BASELINE]
    share = Share(index, bench.collect.shards)
    collect_share(bench, answered, share, _heard(bench, share))
    return math.nan


def search_worker(cfg: DictConfig, folder: Path, index: int) -> float:
    """Works on the study of a search, alongside others; ``search.workers`` says how many."""
    parts = build(cfg)
    assert isinstance(parts.method, Pareto), parts.method
    parts.method.work(parts.bench, index)
    return math.nan
