"""What a run and a sweep send to their tracker.

Everything is read from their folder, which is the record: a tracker adds another view of it. It
works in a process of its own that is killed after ``LIMIT_S``, since a call of wandb may wait for
a silent server for ever; so whatever it does, the run goes on.
``python -m corrsteer.trackers.sending FOLDER`` sends a finished run, or a sweep's report, again.

Cost with wandb: 3 s, and a copy of ``report.html`` (5 MB).
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from corrsteer.config import instantiate
from corrsteer.store.runfolder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

LIMIT_S = 180
FLIPS = 200
"""Flipped answers that are sent, of each kind."""
TEXT = 500
"""Characters that are sent of a prompt or an answer."""
JOB, REPORT = "evaluate", "report"
"""The job types: of a run, and of the report of a sweep."""

log = logging.getLogger(__name__)


def track(folder: Path) -> None:
    """Send a finished run, or the report of a finished sweep, to the tracker that its config names.

    Never raises: a tracker that fails is a warning.
    """
    try:
        cfg = _config(folder)
        if cfg is None or not instantiate(cfg.tracker).enabled:
            return
        failure = _in_a_process(folder)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    if failure:
        log.warning("the tracker failed and is left out: %s", failure)


def _in_a_process(folder: Path) -> str:
    """What was wrong; empty if nothing was."""
    with subprocess.Popen(
        [sys.executable, "-m", "corrsteer.trackers.sending", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # wandb has a process of its own, which must go with it
    ) as child:
        try:
            _, said = child.communicate(timeout=LIMIT_S)
        except BaseException as error:
            os.killpg(child.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return f"it was not done after {LIMIT_S} s"
    log.debug("%s", said)
    lines = said.split("\n")
    last = next((line for line in reversed(lines) if line.strip()), f"exit {child.returncode}")
    return last.removeprefix("error: ") if child.returncode else ""


def main(arguments: list[str]) -> int:
    """Send what is in one folder. Returns the exit code."""
    try:
        send(Path(arguments[0]))
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        log.debug("the tracker failed", exc_info=True)
        print(f"error: {words}", file=sys.stderr)
        return 1
    return 0


def send(folder: Path) -> None:
    """Raises whatever goes wrong."""
    if (folder / "metrics.json").exists():
        send_run(folder)
    else:
        send_sweep(folder)


def _config(folder: Path) -> Any:
    """The settings of a run, or of the first job of a sweep; None where no job got that far."""
    jobs = (job for job in folder.iterdir() if job.name.isdigit())
    homes = [folder, *sorted(jobs, key=lambda job: int(job.name))]
    files = [home / "config.yaml" for home in homes]
    found = next((file for file in files if file.exists()), None)
    return found and OmegaConf.load(found)


# -- one run -----------------------------------------------------------------------------------


def send_run(folder: Path) -> None:
    import pandas as pd

    cfg = _config(folder)
    sweep = folder.parent if (folder.parent / "multirun.yaml").exists() else None
    status, metrics = RunFolder(folder).status(), _json(folder / "metrics.json")
    features = pd.read_csv(folder / "features.csv")
    with instantiate(cfg.tracker).open(
        sweep or folder,
        name=_name(status["overrides"], sweep) or cfg.name,
        group=sweep.name if sweep else None,
        job_type=JOB,
        tags=[metrics["task"], metrics["model"], metrics["variant"], _layers(cfg.layers)],
        config=OmegaConf.to_container(cfg, resolve=True),
    ) as run:
        run.axis("by_layer/*", "layer")
        norms = {e["layer"]: e["norm"] for e in _json(folder / "plan" / "plan.json")["entries"]}
        for row in layer_rows(features, norms, metrics["coef"]):
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
        effects = metrics["side_effects"] or {}
        if effects.get("activity"):
            run.axis("activity/*", "layer")
            for row in effects["activity"]["layers"]:
                counts = {n: row[n] for n in ("l0_before", "l0_after", "new", "lost")}
                run.log({"layer": row["layer"]} | {f"activity/{n}": v for n, v in counts.items()})
        if metrics["transfer"]:
            run.table("transfer", transfer_table(metrics))
        if (folder / "trials.csv").exists():
            run.table("trials", pd.read_csv(folder / "trials.csv"))
        run.table("correlations", _fair(features, most=1000))
        run.table("flips", flips_table(folder))
        run.log(summary(metrics) | {"seconds": _seconds(status)})
        about = re.sub(
            r"[^\w.-]+", "-", "_".join((metrics["task"], metrics["model"], metrics["variant"]))
        )
        run.artifact(f"plan_{about}", "plan", sorted((folder / "plan").iterdir()))
        run.artifact(f"features_{about}", "statistics", [folder / "features.csv"])
        run.artifact(f"report_{about}", "report", [folder / "report.html"])


ABLATIONS = {"layer": ("alone", "left_out"), "k": ("by_depth", "by_r")}
"""The kinds of ablation by what their curves are drawn over."""


def summary(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Flat numbers of a run's ``metrics.json``; None for what does not exist or is undefined.

    Accuracies, gains and rates are shares of 1.
    """
    arms, flips, validation = metrics["arms"], metrics["flips"], metrics["validation"]
    base, steered = arms["baseline"], arms["steered"]
    constrained = arms.get("constrained")
    noise = metrics["noise"]
    effects = metrics["side_effects"] or {}
    off, neutral = effects.get("off_target"), effects.get("neutral")
    best = {kind: max(control["gains"]) for kind, control in metrics["controls"].items()}
    read = (effects.get("text") or {}).get("arms")
    return {
        **{f"control_gain/{kind}": gain for kind, gain in best.items()},
        "beats_all_controls": int(all(c["beats_all"] for c in metrics["controls"].values())),
        **{f"ser_as/{name}": ratio for name, ratio in metrics["ser"].items()},
        **{f"changed/{name}": count for name, count in metrics["changes"].items()},
        **_by_arm("off_target/rate", off and off["arms"], "rate"),
        **_by_arm("neutral/kl", neutral and neutral["arms"], "kl"),
        **_by_arm("neutral/top1_changed", neutral and neutral["arms"], "top1_changed"),
        **_by_arm("text/perplexity", read, "perplexity"),
        **_by_arm("text/repetition", read, "repetition"),
        "accuracy/baseline": base["accuracy"],
        "accuracy/steered": steered["accuracy"],
        "accuracy/constrained": constrained and constrained["accuracy"],
        "gain": metrics["gain"],
        "gain_low": metrics["gain_ci"][0],
        "gain_high": metrics["gain_ci"][1],
        "fixed": flips["fixed"],
        "broken": flips["broken"],
        "ser": flips["ser"],
        "mcnemar_p": flips["mcnemar_p"],
        "invalid_rate/baseline": base["invalid_rate"],
        "invalid_rate/steered": steered["invalid_rate"],
        "random_gain_max": max(metrics["controls"]["random"]["gains"]),
        "beats_random": int(metrics["controls"]["random"]["beats_all"]),
        "constrained_gain": constrained and constrained["accuracy"] - base["accuracy"],
        "noise_share": noise["below_ceiling"] / noise["features"] if noise["features"] else None,
        "layers_steered": noise["features"],
        "plan_coef": metrics["coef"],
        "chance": metrics["chance"],
        "validation/baseline": validation["baseline"]["accuracy"],
        "validation/steered": validation["steered"]["accuracy"],
        "validation/gain": validation["steered"]["accuracy"] - validation["baseline"]["accuracy"],
    }


def _by_arm(
    name: str, arms: Mapping[str, Mapping[str, Any]] | None, value: str
) -> dict[str, float | None]:
    return {f"{name}/{arm}": found[value] for arm, found in (arms or {}).items()}


def transfer_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """One row of the transfer matrix: the run's plan on other tasks' questions."""
    import pandas as pd

    from corrsteer.report.tables import transfer_row

    table = pd.DataFrame([transfer_row(*tested) for tested in metrics["transfer"].items()])
    table[["gain_low", "gain_high"]] = table.pop("gain_ci").tolist()
    table = table.drop(columns="random_gains")
    table = table.rename(columns={"task": "tested_on", "best_random": "random_gain_max"})
    return table.assign(chosen_on=metrics["task"])


def layer_rows(
    features: pd.DataFrame, norms: Mapping[int, float], coef: float
) -> Iterator[dict[str, Any]]:
    """The best feature of every layer, beside its noise ceiling; where the layer steers, that
    feature is the plan's and ``by_layer/norm`` is the length of what is added there."""
    best = features.sort_values(["chosen", "rank"], ascending=[False, True]).groupby("layer")
    for f in best.head(1).sort_values("layer").itertuples():
        steers = f.layer in norms
        yield {
            "layer": int(f.layer),
            "by_layer/r": float(f.r),
            "by_layer/ceiling": float(f.ceiling),
            "by_layer/coefficient": float(f.coefficient),
            "by_layer/freq_right": float(f.freq_right),
            "by_layer/freq_wrong": float(f.freq_wrong),
            "by_layer/norm": abs(coef) * norms[f.layer] if steers else None,
        }


def ablation_rows(table: pd.DataFrame, kind: str, step: str) -> Iterator[dict[str, Any]]:
    for row in table[table["kind"] == kind].to_dict("records"):
        values = {n: row[n] for n in ("accuracy", "gain", "gain_low", "gain_high", "ser")}
        yield {step: int(row[step]), **{f"ablation/{kind}/{n}": v for n, v in values.items()}}


def flips_table(folder: Path) -> pd.DataFrame:
    """The first flipped answers of each kind, with their texts cut."""
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
    # Half of a surrogate pair cannot be sent.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= TEXT else f"{text[:TEXT]} …"


def _fair(features: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many features, of all layers alike."""
    return features.sort_values(["rank", "layer"]).head(most).sort_values(["layer", "rank"])


def _layers(asked: Any) -> str:
    if asked == "all":
        return "all layers"
    return "one layer" if isinstance(asked, int) or len(asked) == 1 else "some layers"


def _name(overrides: list[str], sweep: Path | None) -> str:
    """What sets a job apart in its sweep; empty for a run alone."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if sweep is None:
        return ""
    typed = OmegaConf.select(OmegaConf.load(sweep / "multirun.yaml"), "hydra.overrides.task")
    given = OverridesParser.create().parse_overrides(list(typed or ()))
    shared = {text.key_or_group for text in given if not text.is_sweep_override()}
    return " ".join(text for text in overrides if text.split("=")[0].lstrip("+") not in shared)


def _seconds(status: Mapping[str, Any]) -> float:
    started = datetime.fromisoformat(status["started"])
    return status["seconds"] or round((datetime.now(UTC) - started).total_seconds(), 2)


# -- a sweep -----------------------------------------------------------------------------------


def send_sweep(folder: Path) -> None:
    import pandas as pd

    from corrsteer.report.sweep_table import QUESTION, SETTINGS

    cfg = _config(folder)
    table = pd.read_csv(folder / "summary.csv")
    done = table[table["state"] == "done"]
    with instantiate(cfg.tracker).open(
        folder,
        name=f"report of {folder.name}",
        group=folder.name,
        job_type=REPORT,
        tags=sorted(set(done["task"]) | set(done["model"])),
        config={"sweep": folder.name},
    ) as run:
        run.axis("dose_response/*", "coef")
        curves = [
            n for n in (*SETTINGS, "question") if n != "coef" and done[n].nunique(dropna=False) > 1
        ]
        for series, part in done.groupby(curves, sort=False) if curves else [((), done)]:
            named = [f"{n} {v}" for n, v in zip(curves, series, strict=True) if n != "question"]
            for row in dose_rows(part, ", ".join(named)):
                run.log(row)
        run.table("dose_response", table.drop(columns=["question"]))
        run.log({"jobs": len(table), "jobs_done": len(done)} | _chosen(done, list(QUESTION)))
        files = [folder / "report.html", folder / "summary.csv"]
        run.artifact(f"sweep_{cfg.name}", "report", files)


DOSE = ("steered", "baseline", "gain", "gain_low", "gain_high", "ser", "random_gain_max")


def dose_rows(jobs: pd.DataFrame, series: str) -> Iterator[dict[str, Any]]:
    """What comes of every coef, for jobs that differ in nothing else; ``series`` names them where
    there are others."""
    for job in jobs.sort_values("coef").to_dict("records"):
        where = f"dose_response/{series}/" if series else "dose_response/"
        yield {"coef": job["coef"], **{f"{where}{n}": job[n] for n in DOSE}}


def _chosen(done: pd.DataFrame, question: list[str]) -> dict[str, Any]:
    """The job that validation chooses, where the sweep asks one question."""
    if len(done[question].drop_duplicates()) != 1:
        return {}
    best = done[done["chosen"]].iloc[0]
    return {
        f"chosen/{n}": best[n].item() for n in ("coef", "validation_steered", "steered", "gain")
    }


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
