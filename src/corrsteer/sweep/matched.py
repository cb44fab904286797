"""The last jobs of a comparison of rivals: checkpoints at the subject's accuracy.

Which checkpoint of a fine-tuned rival is as accurate as the subject on validation is known only
when both have been tried. So these jobs follow the sweep's own, in the process that ends it, with
the numbers that come next; not on a cluster, whose last job has no GPU. Cost: answers to the test
split and side effects of one arm each; training and validation are in the store.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from corrsteer.errors import DataError
from corrsteer.store.runfolder import RunFolder, jobs
from corrsteer.sweep.pieces import Piece, run_piece

log = logging.getLogger(__name__)


def run_matched(config: DictConfig, folder: Path) -> None:
    """``config``: of the sweep or of one of its jobs, Hydra's own settings included. What cannot
    be read the report of the sweep tells of."""
    from corrsteer.report.compare_wanted import wanted

    try:
        lacking = wanted(folder)
        begun = [n for n in jobs(folder) if RunFolder(folder / str(n)).status()]
    except DataError:
        return
    for number, one in enumerate(lacking, start=max(begun, default=-1) + 1):
        log.info(
            "job %d: the checkpoint of job %d with %.1f %% on validation, to compare it at equal"
            " accuracy",
            *(number, one.job, 100 * one.accuracy),
        )
        home = folder / str(one.job)
        run_piece(Piece("job", str(number), settings_of(config, home, one.accuracy, number)))


def settings_of(config: DictConfig, job: Path, accuracy: float, number: int) -> DictConfig:
    """Those of a job that is done, at dial 1 and with another checkpoint."""
    cfg, own = copy.deepcopy(config), OmegaConf.load(job / "config.yaml")
    words = [
        word
        for word in RunFolder(job).status().get("overrides", [])
        if word.partition("=")[0] not in ("coef", "strategy.coef", "strategy.match")
    ]
    with read_write(cfg), open_dict(cfg):
        for name in own:
            if name in ("splits", "collect"):  # typed, so that a misspelt key is refused
                OmegaConf.update(cfg, str(name), own[name], merge=True)
            else:
                cfg[name] = own[name]
        cfg.coef = cfg.strategy.coef = 1.0  # accuracies of checkpoints are those at dial 1
        cfg.strategy.match = accuracy
        cfg.hydra.overrides.task = [*words, "coef=1", f"strategy.match={accuracy}"]
        cfg.hydra.job.id = cfg.hydra.job.num = number
        cfg.hydra.sweep.dir = str(job.parent)
    return cfg
