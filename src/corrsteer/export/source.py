"""What is exported: the plan of a finished run, and its model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corrsteer.config import instantiate
from corrsteer.errors import ConfigError, DataError, ModelError
from corrsteer.export.formats import FORMATS
from corrsteer.models.spec import Model
from corrsteer.steering.identity import made_for
from corrsteer.steering.operators import Add
from corrsteer.steering.plan import Plan, load_plan
from corrsteer.store.runfolder import RunFolder

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Source:
    """``spec``: the model of the run; ``there``: empty, or why it cannot be had here."""

    plan: Plan
    run: Path
    cfg: DictConfig
    spec: Model
    there: str

    @property
    def architecture(self) -> str:
        """transformers' name of the kind of model, such as llama."""
        told = made_for(self.plan).get("architecture")
        return str(told) if told else self.model().architecture()

    def vectors(self) -> dict[int, np.ndarray]:
        """Layer -> vector at dial 1, [M] float32, in layer order."""
        return {e.layer: e.vector for e in sorted(self.plan.entries, key=lambda e: e.layer)}

    def model(self) -> Model:
        """ModelError where it cannot be had here."""
        if self.there:
            raise ModelError(self.there)
        return self.spec


def read(run: Path, name: str) -> Source:
    """The plan of a finished run, fit for the format ``name``.

    Raises DataError, ConfigError or ModelError for a run without a plan or a config, a plan that
    the format cannot say, and a model that is not the one the plan was made for.
    """
    plan = load_plan(run)
    check_says(plan, name)
    cfg = config_of(run)
    spec = instantiate(cfg.model, Model)
    there = ""
    try:
        check_made_for(plan, spec)
    except Missing as error:
        there = str(error)
    return Source(plan, run, cfg, spec, there)


def check_finished(run: Path) -> None:
    """Refuse the folder of a run that is not done."""
    status = RunFolder(run).status()
    if status and status.get("state") != "done":
        error = f" ({status['error']})" if status.get("error") else ""
        raise DataError(
            f"the run in {run} is {status.get('state')}{error}: only a finished one has a plan to"
            " take elsewhere"
        )


def config_of(run: Path) -> DictConfig:
    """The settings of a run. DataError where they cannot be read."""
    from omegaconf import DictConfig, OmegaConf

    try:
        cfg = OmegaConf.load(run / "config.yaml")
        if not (isinstance(cfg, DictConfig) and {"model", "task"} <= set(cfg)):
            raise ValueError("it has no model and no task")
    except Exception as error:  # whatever YAML and OmegaConf say of a file that is damaged
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(
            f"{run / 'config.yaml'} cannot be read ({words}): type the run's command again"
        ) from error
    return cfg


class Missing(ModelError):
    """A model is not on this machine."""


def check_says(plan: Plan, name: str) -> None:
    """Refuse a plan that a format has no words for."""
    way = "use the plan from Python (corrsteer.load_plan)"
    if not plan.entries:
        raise ConfigError("the plan has no layers: there is nothing to export")
    if type(plan.operator) is not Add:
        raise ConfigError(
            f"{name} can only add vectors, and the plan's operator is"
            f" {type(plan.operator).__name__}: {way}"
        )
    if plan.gate.open is not None:
        raise ConfigError(
            f"{name} has no gates, and the plan's is {type(plan.gate).__name__}: {way}"
        )
    takes = FORMATS[name].takes
    if plan.positions not in takes:
        others = [other for other, f in FORMATS.items() if plan.positions in f.takes]
        more = f"; formats that can: {', '.join(others)}" if others else f": {way}"
        raise ConfigError(f"{name} cannot say positions={plan.positions}, as the plan has it{more}")


def check_made_for(plan: Plan, spec: Model) -> None:
    """Refuse a model that is not the plan's: another architecture, size, or other weights. Reads
    its files once. Raises Missing where it cannot be had here."""
    told = made_for(plan)
    try:
        shape, architecture = spec.shape(), spec.architecture()
        found = spec.fingerprint(weights=False) if told.get("fingerprint") else None
    except ModelError as error:
        raise Missing(str(error)) from error
    if told.get("architecture") not in (None, architecture):
        raise ModelError(
            f"the plan was made for a {told['architecture']}, and {spec.path} is a {architecture}:"
            " give the plan's model"
        )
    check_shape(plan, *shape, spec.path)
    if found and found != told["fingerprint"]:
        raise ModelError(
            f"{spec.path} is not the model that the plan was made for ({found[:60]}, and not"
            f" {told['fingerprint'][:60]}): give that one"
        )


def check_shape(plan: Plan, n_layers: int, width: int, path: str) -> None:
    for entry in plan.entries:
        if entry.layer >= n_layers or entry.vector.size != width:
            raise ModelError(
                f"the plan has a vector of width {entry.vector.size} at layer {entry.layer}, and"
                f" {path} has layers 0 to {n_layers - 1} of width {width}: give the plan's model"
            )


def skeleton(spec: Model) -> torch.nn.Module:
    """The model without its weights, for the names of its parts."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    spec.config()  # has better words for what is wrong with it
    config: Any = AutoConfig.from_pretrained(spec.folder(weights=False), local_files_only=True)
    with torch.device("meta"):
        module: torch.nn.Module = AutoModelForCausalLM.from_config(config)
    return module
