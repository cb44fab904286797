"""A workspace on the wandb server for the runs of a sweep or of a whole project.

``python -m corrsteer dashboard FOLDER``, of a tracked sweep or run, or ``python -m corrsteer
dashboard ENTITY/PROJECT``. Runs tracked offline must have been uploaded with ``wandb sync``. Needs
the extra ``wandb-dashboard``, a key and the network.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrsteer.errors import ConfigError, CorrSteerError

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws

SETTINGS = ("coef", "seed")
"""The settings that are numbers: the first axes of the parallel coordinates."""
OUTCOMES = ("layers_steered", "noise_share", "validation/gain", "random_gain_max", "ser", "gain")


def workspace(entity: str, project: str, group: str | None) -> ws.Workspace:
    """The workspace, not yet saved. ``group``: only the runs of one sweep."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    def over(step: str, title: str, *names: str) -> Any:
        return wr.LinePlot(title=title, x=wr.Metric(step), y=[wr.Metric(name) for name in names])

    def by_coef(title: str, name: str) -> Any:
        return wr.ScatterPlot(title=title, x=wr.Config("coef"), y=wr.SummaryMetric(name))

    def table(name: str) -> Any:
        return wr.WeavePanelSummaryTable(table_name=name)

    axes: list[Any] = [*map(wr.Config, SETTINGS), *map(wr.SummaryMetric, OUTCOMES)]
    columns = [wr.ParallelCoordinatesPlotColumn(metric=axis) for axis in axes]
    kinds = {"alone": "layer", "left_out": "layer", "by_depth": "k", "by_r": "k"}
    sections = {
        "What the settings do": [
            wr.ParallelCoordinatesPlot(title="settings and outcomes", columns=columns),
            by_coef("accuracy on test by coef", "accuracy/steered"),
            by_coef("gain by coef", "gain"),
            by_coef("side effect ratio by coef", "ser"),
            wr.BarPlot(
                title="gain beside the best random draw and constrained decoding",
                metrics=[wr.Metric(n) for n in ("gain", "random_gain_max", "constrained_gain")],
            ),
        ],
        "Dose and response": [
            over("coef", "accuracy", "dose_response/steered", "dose_response/baseline"),
            over("coef", "gain", "dose_response/gain", "dose_response/random_gain_max"),
            over("coef", "side effect ratio", "dose_response/ser"),
            table("dose_response"),
        ],
        "Correlation by layer": [
            over("layer", "r and noise ceiling", "by_layer/r", "by_layer/ceiling"),
            over("layer", "active when right, wrong", "by_layer/freq_right", "by_layer/freq_wrong"),
            over("layer", "length of what is added", "by_layer/norm"),
            table("correlations"),
        ],
        "Ablations": [
            *(
                over(step, f"gain, {kind.replace('_', ' ')}", f"ablation/{kind}/gain")
                for kind, step in kinds.items()
            ),
            table("ablations"),
        ],
        "Side effects": [
            wr.BarPlot(title="answers", metrics=[wr.Metric("fixed"), wr.Metric("broken")]),
            by_coef("unrelated answers that change, by coef", "off_target/rate/steered"),
            by_coef("KL divergence on neutral text by coef", "neutral/kl/steered"),
            over("layer", "active features", "activity/l0_before", "activity/l0_after"),
            over("layer", "features that come and go", "activity/new", "activity/lost"),
            table("transfer"),
            table("flips"),
        ],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"CorrSteer {group or project}"[:128],
        sections=[
            ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()
        ],
        runset_settings=ws.RunsetSettings(
            filters=[] if group is None else expr.And(expr.Metric("Group") == group)
        ),
    )


def place(text: str) -> tuple[str | None, str, str | None]:
    """(entity or None, project, group or None) of a folder or of ENTITY/PROJECT.

    Raises ConfigError for a folder without a tracked run.
    """
    folder = Path(text)
    if not folder.is_dir():
        entity, _, project = text.rpartition("/")
        return entity or None, project, None
    from omegaconf import OmegaConf

    files = [folder / "config.yaml", *sorted(folder.glob("[0-9]*/config.yaml"))]
    configs = [file for file in files if file.exists()]
    if not configs:
        raise ConfigError(f"no run in {folder}: give the folder of a run or sweep")
    tracker = OmegaConf.load(configs[0]).tracker
    if "project" not in tracker:
        raise ConfigError(f"{folder} was not tracked: run it with tracker=wandb")
    homes = (folder.resolve(), folder.resolve().parent)
    sweep = next((home.name for home in homes if (home / "multirun.yaml").exists()), None)
    return None, tracker.project, tracker.group or sweep


def main(arguments: list[str]) -> int:
    """Save the workspace and print its address; return the exit code."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        if len(arguments) != 1:
            raise ConfigError("type python -m corrsteer dashboard FOLDER, or ENTITY/PROJECT")
        entity, project, group = place(arguments[0])
        try:
            import wandb_workspaces  # noqa: F401
        except ImportError:
            raise CorrSteerError(
                "wandb-workspaces is not installed: type pip install 'corrsteer[wandb-dashboard]'"
            ) from None
        from corrsteer.trackers.wandb import default_entity, sign_in

        sign_in()
        try:
            view = workspace(entity or default_entity(), project, group)
            view.save()
        except Exception as error:  # of requests, graphql or wandb
            raise CorrSteerError(f"the workspace could not be saved: {error}") from error
        print(view.url)
    except CorrSteerError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
