"""Jobs that follow a sweep's own, because what they should be is known only when those are done.

They run in the process that ends the sweep, with the numbers that come next; not on a cluster,
whose last job has no GPU. Typed again, the command finds what they computed in the store.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from corrsteer.store.runfolder import RunFolder, jobs
from corrsteer.sweep.pieces import Piece, run_piece

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class More:
    """A job like ``job``, which is done, with other ``settings`` (by dotted name); ``typed``: those
    of them that stand among its words. ``why``: for the log."""

    job: int
    settings: Mapping[str, Any]
    typed: Mapping[str, Any]
    why: str


def run_more(config: DictConfig, folder: Path, some: Sequence[More]) -> None:
    """``config``: of the sweep or of one of its jobs, Hydra's own settings included. How each ended
    stands in its folder."""
    begun = [n for n in jobs(folder) if RunFolder(folder / str(n)).status()]
    for number, one in enumerate(some, start=max(begun, default=-1) + 1):
        log.info("job %d: %s", number, one.why)
        run_piece(Piece("job", str(number), settings_of(config, folder, one, number)))


def settings_of(config: DictConfig, folder: Path, one: More, number: int) -> DictConfig:
    home = folder / str(one.job)
    cfg, own = copy.deepcopy(config), OmegaConf.load(home / "config.yaml")
    words = {word.partition("=")[0]: word for word in RunFolder(home).status().get("overrides", [])}
    words |= {name: f"{name}={_shown(value)}" for name, value in one.typed.items()}
    with read_write(cfg), open_dict(cfg):
        for name in own:
            if name in ("splits", "collect"):  # typed, so that a misspelt key is refused
                OmegaConf.update(cfg, str(name), own[name], merge=True)
            else:
                cfg[name] = own[name]
        for name, value in one.settings.items():
            OmegaConf.update(cfg, name, value)
        cfg.hydra.overrides.task = list(words.values())
        cfg.hydra.job.id = cfg.hydra.job.num = number
        cfg.hydra.sweep.dir = str(folder)
    return cfg


def _shown(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
