"""What a run and a sweep send to their tracker.

Everything is read from their folder, which stays the record: a tracker shows it again. It works in
a process of its own that is killed after ``LIMIT_S``, since a call of wandb may wait for a silent
server for ever; so the run goes on whatever the tracker does.
``python -m corrsteer track FOLDER`` sends a finished run, or a sweep's report, again.

Cost with wandb: 3 s, and a copy of ``report.html`` (5 MB).
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import OmegaConf

from corrsteer.config import instantiate
from corrsteer.errors import ConfigError
from corrsteer.report.record import FILE, Record, read_record
from corrsteer.store.runfolder import RunFolder, jobs
from corrsteer.trackers.protocol import Number, Tracker

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

LIMIT_S = 180
FLIPS = 200  # most flipped answers that are sent, of fixed and of broken ones each
TEXT = 500  # most characters that are sent of a prompt or an answer
JOB, REPORT = "evaluate", "report"  # job types: that of a run, and that of a sweep's report

log = logging.getLogger(__name__)


def track(folder: Path) -> None:
    """Send a finished run, or the report of a finished sweep, to the tracker that its config names.

    Never raises: a tracker that fails is a warning.
    """
    try:
        cfg = _config(folder)
        if cfg is None or not _tracker(cfg).enabled:
            return
        if words := getattr(_tracker(cfg), "left_out", ""):
            log.warning("tracker: %s", words)
        failure = _in_a_process(folder)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    if failure:
        log.warning("the tracker failed and is left out: %s", failure)


def _in_a_process(folder: Path) -> str:
    """What went wrong; empty if nothing did."""
    with subprocess.Popen(
        [sys.executable, "-m", "corrsteer", "track", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # to end the process that wandb starts, too
    ) as child:
        try:
            _, errors = child.communicate(timeout=LIMIT_S)
        except BaseException as error:
            os.killpg(child.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return f"it was not done after {LIMIT_S} s"
    log.debug("%s", errors)
    lines = errors.split("\n")
    last = next((line for line in reversed(lines) if line.strip()), f"exit {child.returncode}")
    return last.removeprefix("error: ") if child.returncode else ""


def send(folder: Path) -> None:
    """Raises whatever goes wrong, ConfigError for a folder that was not tracked."""
    cfg = _config(folder)
    if cfg is None or not _tracker(cfg).enabled:
        raise ConfigError(f"{folder} was not tracked: run it with tracker=wandb")
    if (folder / FILE).exists():
        send_run(folder)
    else:
        send_sweep(folder)


def _tracker(cfg: DictConfig) -> Tracker:
    return cast(Tracker, instantiate(cfg.tracker))


def _config(folder: Path) -> DictConfig | None:
    """The settings of a run, or of the first job of a sweep that has any; None without any."""
    homes = [folder, *(folder / str(n) for n in jobs(folder))]
    files = [home / "config.yaml" for home in homes]
    first = next((file for file in files if file.exists()), None)
    return None if first is None else cast("DictConfig", OmegaConf.load(first))


# -- one run -----------------------------------------------------------------------------------


def send_run(folder: Path) -> None:
    import pandas as pd

    from corrsteer.report.tables import ranked_by, read_features

    cfg = _config(folder)
    assert cfg is not None, folder
    sweep = folder.parent if (folder.parent / "multirun.yaml").exists() else None
    status, record = RunFolder(folder).status(), read_record(folder)
    features = read_features(folder)
    with _tracker(cfg).open(
        sweep or folder,
        name=_name(status["overrides"], sweep) or cfg.name,
        group=sweep.name if sweep else None,
        job_type=JOB,
        tags=_tags(record, cfg),
        config=cast("dict[str, object]", OmegaConf.to_container(cfg, resolve=True)),
    ) as run:
        run.axis("by_layer/*", "layer")
        plan = folder / "plan"  # not every method makes one
        entries = _json(plan / "plan.json")["entries"] if plan.exists() else []
        norms = {e["layer"]: e["norm"] for e in entries}
        by = ranked_by(features, record.score).column
        for row in layer_rows(features, norms, record.coef, by):
            run.log(row)
        if (folder / "ablations.csv").exists():
            types = {"layer": "Int64", "layers": "string"}
            ablations = pd.read_csv(folder / "ablations.csv", dtype=types)
            for step in ("layer", "k"):
                for kind in ABLATIONS[step]:
                    run.axis(f"ablation/{kind}/*", step)
                    for row in ablation_rows(ablations, kind, step):
                        run.log(row)
            run.table("ablations", ablations)
        effects = record.side_effects
        if effects and effects.activity:
            run.axis("activity/*", "layer")
            for layer in effects.activity.layers:
                counts = layer.model_dump(include={"l0_before", "l0_after", "new", "lost"})
                run.log({"layer": layer.layer} | {f"activity/{n}": v for n, v in counts.items()})
        if record.transfer:
            run.table("transfer", transfer_table(record))
        if (folder / "trials.csv").exists():
            run.table("trials", pd.read_csv(folder / "trials.csv"))
        run.table("correlations" if by == "r" else "ranked", _fair(features, most=1000))
        run.table("flips", flips_table(folder))
        run.log(summary(record) | {"seconds": _seconds(status)})
        about = "_".join((record.task, record.model, record.method_name))
        about = re.sub(r"[^\w.-]+", "-", about)
        if plan.exists():
            run.artifact(f"plan_{about}", "plan", sorted(plan.iterdir()))
        run.artifact(f"features_{about}", "statistics", [folder / "features.csv"])
        run.artifact(f"report_{about}", "report", [folder / "report.html"])


ABLATIONS = {"layer": ("alone", "left_out"), "k": ("by_depth", "by_r")}
"""Kinds of ablation by what their curves are drawn over."""


def _tags(record: Record, cfg: DictConfig) -> list[str]:
    names = [record.task, record.model, record.method_name, record.selector, record.operator]
    return [*names, _layers(cfg.layers)]


def summary(record: Record) -> dict[str, Number]:
    """The numbers of a run, flat; None for what was not measured or is undefined.

    Accuracies, gains and rates are fractions of 1.
    """
    from corrsteer.report.judgement import judge
    from corrsteer.stats.claims import Claim

    base, steered = record.arms["baseline"], record.arms["steered"]
    constrained = next((a for a in record.arms.values() if a.kind == "constrained"), None)
    judged = judge(record)
    random, noise, flips = record.controls.get("random"), record.noise, record.flips
    below = noise.below_ceiling
    validation = {name: arm.accuracy for name, arm in record.validation.items()}
    return {
        **{f"control_gain/{kind}": control.best for kind, control in record.controls.items()},
        "beats_all_controls": int(judged.beats_all),
        **{f"claim/{claim.name.lower()}": int(claim is judged.claim) for claim in Claim},
        **{f"ser_as/{name}": ratio for name, ratio in record.ser.model_dump().items()},
        **{f"changed/{name}": count for name, count in record.changes.model_dump().items()},
        **_side_effects(record),
        "accuracy/baseline": base.accuracy,
        "accuracy/steered": steered.accuracy,
        "accuracy/constrained": constrained.accuracy if constrained else None,
        "gain": record.gain,
        **dict(zip(("gain_low", "gain_high"), record.gain_ci, strict=True)),
        "fixed": flips.fixed,
        "broken": flips.broken,
        "ser": flips.ser,
        "mcnemar_p": flips.mcnemar_p,
        "margin_shift": record.margin.shift if record.margin else None,
        "invalid_rate/baseline": base.invalid_rate,
        "invalid_rate/steered": steered.invalid_rate,
        "random_gain_max": random.best if random else None,
        "random_at_least_as_good": random.at_least_as_good if random else None,
        "null_p": random.p if random else None,
        "shuffled_p": judged.nulls.get("shuffled"),
        **{f"format/{name}": count for name, count in record.format.model_dump().items()},
        "plans_on_test": record.odometer.plans if record.odometer else None,
        "constrained_gain": constrained.accuracy - base.accuracy if constrained else None,
        "noise_share": below / noise.features if noise.features and below is not None else None,
        "layers_steered": noise.features,
        "plan_coef": record.coef,
        "chance": record.chance,
        "validation/baseline": validation["baseline"],
        "validation/steered": validation["steered"],
        "validation/gain": validation["steered"] - validation["baseline"],
    }


def _side_effects(record: Record) -> dict[str, Number]:
    """By measure and arm."""
    numbers: dict[str, Number] = {}
    effects = record.side_effects
    if effects and effects.off_target:
        for name, changed in effects.off_target.arms.items():
            numbers[f"off_target/rate/{name}"] = changed.rate
    if effects and effects.neutral:
        for name, moved in effects.neutral.arms.items():
            numbers[f"neutral/kl/{name}"] = moved.kl
            numbers[f"neutral/top1_changed/{name}"] = moved.top1_changed
    if effects and effects.text:
        for name, reading in effects.text.arms.items():
            numbers[f"text/perplexity/{name}"] = reading.perplexity
            numbers[f"text/repetition/{name}"] = reading.repetition
    return numbers


def transfer_table(record: Record) -> pd.DataFrame:
    """One row of the transfer matrix: the run's plan on other tasks' questions."""
    import pandas as pd

    from corrsteer.report.tables import TransferRow

    rows = []
    for task, tested in record.transfer.items():
        row = TransferRow.of(task, tested)
        numbers = {n: v for n, v in asdict(row).items() if n not in ("gain_ci", "random_gains")}
        numbers |= {"gain_low": row.gain_ci[0], "gain_high": row.gain_ci[1]}
        rows.append(numbers | {"random_gain_max": row.best_random})
    return pd.DataFrame(rows).rename(columns={"task": "tested_on"}).assign(chosen_on=record.task)


def layer_rows(
    features: pd.DataFrame, norms: Mapping[int, float], coef: float, by: str = "r"
) -> Iterator[dict[str, Number]]:
    """The best feature of every layer with its noise ceiling. Where the layer steers, it is the
    plan's feature, and ``by_layer/norm`` is the norm of the vector that is added. ``by``: the
    column that features are ranked by, which names the ceiling where it is not r."""
    own = f"by_layer/{by.replace(' ', '_')}"
    numbers = {"by_layer/r": "r", own: by}
    numbers["by_layer/ceiling" if by == "r" else f"{own}_ceiling"] = "ceiling"
    numbers |= {f"by_layer/{name}": name for name in ("coefficient", "freq_right", "freq_wrong")}
    best = features.sort_values(["chosen", "rank"], ascending=[False, True]).groupby("layer")
    for f in best.head(1).sort_values("layer").to_dict("records"):
        layer = int(f["layer"])
        found = {name: None if math.isnan(f[x]) else float(f[x]) for name, x in numbers.items()}
        norm = abs(coef) * norms[layer] if layer in norms else None
        yield {"layer": layer, **found, "by_layer/norm": norm}


def ablation_rows(table: pd.DataFrame, kind: str, step: str) -> Iterator[dict[str, Number]]:
    for row in table[table["kind"] == kind].to_dict("records"):
        values = {n: row[n] for n in ("accuracy", "gain", "gain_low", "gain_high", "ser")}
        yield {step: int(row[step]), **{f"ablation/{kind}/{n}": v for n, v in values.items()}}


def flips_table(folder: Path) -> pd.DataFrame:
    """The first fixed and the first broken answers, with their texts cut."""
    import pandas as pd

    from corrsteer.report.examples import flipped_answers

    answers = pd.read_parquet(
        folder / "answers.parquet",
        columns=["id", "arm", "prompt", "answer", "gold", "score", "invalid"],
        filters=[("split", "==", "test"), ("arm", "in", ["baseline", "steered"])],
    )
    baseline, steered = (answers[answers["arm"] == arm] for arm in ("baseline", "steered"))
    names = {"id": "id", "kind": "kind", "from": "from", "to": "to", "prompt": "prompt"}
    names |= {"baseline": "before", "steered": "after", "gold": "gold"}
    flips = pd.DataFrame(flipped_answers(baseline, steered), columns=list(names), dtype=object)
    flips = flips.rename(columns=names).groupby("kind", sort=False).head(FLIPS)
    for column in ("prompt", "before", "after", "gold"):
        flips[column] = [_cut(text) for text in flips[column]]
    return flips.reset_index(drop=True)


def _cut(text: str) -> str:
    # Half of a surrogate pair cannot be encoded.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= TEXT else f"{text[:TEXT]} …"


def _fair(features: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most ``most`` features, equally many of each layer."""
    return features.sort_values(["rank", "layer"]).head(most).sort_values(["layer", "rank"])


def _layers(asked: Any) -> str:
    if asked == "all":
        return "all layers"
    return "one layer" if isinstance(asked, int) or len(asked) == 1 else "some layers"


def _name(overrides: list[str], sweep: Path | None) -> str:
    """The overrides that set a job apart in its sweep; empty for a single run."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if sweep is None:
        return ""
    typed = OmegaConf.select(OmegaConf.load(sweep / "multirun.yaml"), "hydra.overrides.task")
    given = OverridesParser.create().parse_overrides(list(typed or ()))
    shared = {text.key_or_group for text in given if not text.is_sweep_override()}
    return " ".join(text for text in overrides if text.split("=")[0].lstrip("+") not in shared)


def _seconds(status: Mapping[str, Any]) -> float:
    started = datetime.fromisoformat(status["started"])
    seconds = status["seconds"] or round((datetime.now(UTC) - started).total_seconds(), 2)
    return float(seconds)


# -- a sweep -----------------------------------------------------------------------------------


def send_sweep(folder: Path) -> None:
    import pandas as pd

    from corrsteer.report.sweep_table import ALIKE

    cfg = _config(folder)
    assert cfg is not None, folder
    table = pd.read_csv(folder / "summary.csv")
    done = table[table["state"] == "done"]
    with _tracker(cfg).open(
        folder,
        name=f"report of {folder.name}",
        group=folder.name,
        job_type=REPORT,
        tags=sorted(set(done["task"]) | set(done["model"])),
        config={"sweep": folder.name},
    ) as run:
        run.axis("dose_response/*", "coef")
        # dropna: one setting has no name, and most splits no seed of their own.
        for (setting, seed, dealt), part in done.groupby(list(ALIKE), sort=False, dropna=False):
            words = [setting] if done["setting"].nunique(dropna=False) > 1 else []
            words += [f"seed {seed}"] if done["seed"].nunique() > 1 else []
            words += [] if pd.isna(dealt) else [f"splits.seed {dealt:g}"]
            for row in dose_rows(part, ", ".join(words)):
                run.log(row)
        run.table("dose_response", table.drop(columns=["question"]))
        run.log({"jobs": len(table), "jobs_done": len(done)} | _chosen(done))
        files = [folder / "report.html", folder / "summary.csv"]
        run.artifact(f"sweep_{cfg.name}", "report", files)


DOSE = ("steered", "baseline", "gain", "gain_low", "gain_high", "ser", "random_gain_max")


def dose_rows(jobs: pd.DataFrame, series: str) -> Iterator[dict[str, Number]]:
    """The results at every coef, of jobs that differ in nothing else. ``series``: their name, empty
    if there are no others."""
    for job in jobs.sort_values("coef").to_dict("records"):
        group = f"dose_response/{series}/" if series else "dose_response/"
        yield {"coef": job["coef"], **{f"{group}{n}": job[n] for n in DOSE}}


def _chosen(done: pd.DataFrame) -> dict[str, Number]:
    """The job that validation chooses, if the sweep has one setting and seed."""
    best = done[done["chosen"]]
    if len(best) != 1:
        return {}
    numbers = ("coef", "validation_steered", "steered", "gain")
    return {f"chosen/{n}": best.iloc[0][n].item() for n in numbers}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
