"""How a job runs and ends: its folder says what ran, and what became of it."""

from __future__ import annotations

import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from corrsteer.config import check, resolved_yaml
from corrsteer.errors import CorrSteerError
from corrsteer.run.interrupt import prompt_end
from corrsteer.store.made import unmake, unmake_all
from corrsteer.store.runfolder import RunFolder

log = logging.getLogger(__name__)


def run_in_folder(run: Callable[[DictConfig, Path], float], cfg: DictConfig) -> float:
    """Run one job in the folder Hydra made for it, and leave its settings and status there.

    A failure ends a single run with exit code 2 (one line on stderr) or 1 (a bug, with its
    traceback). A job of a sweep returns NaN instead, whatever failed: raised, its error would
    hide those of the other jobs and keep :class:`corrsteer.sweep.close.SweepReport` from running.
    A single run that is refused before anything is computed leaves no folder.
    """
    hydra_cfg = HydraConfig.get()
    in_sweep = hydra_cfg.mode == RunMode.MULTIRUN
    folder = RunFolder(Path(hydra_cfg.runtime.output_dir))
    code = 2
    try:
        with folder.in_one_line():
            folder.start(list(hydra_cfg.overrides.task))
        if hydra_cfg.job.chdir:
            # Paths in settings, that of the cache among them, mean the folder they were typed in.
            os.chdir(hydra_cfg.runtime.cwd)
            log.warning("hydra.job.chdir=true is not followed: paths are those of %s", Path.cwd())
        with _before_compute():
            check(cfg)
        with folder.in_one_line():
            folder.write_config(resolved_yaml(cfg))
            with prompt_end():
                metric = run(without_own_classes(cfg, folder.path), folder.path)
            folder.done()
        return metric
    except KeyboardInterrupt:
        folder.failed("interrupted")
        raise
    except CorrSteerError as error:
        folder.failed(str(error), refused=error.before_compute)
        if not in_sweep:
            print(f"error: {error}", file=sys.stderr)
            if error.before_compute:
                unmake(folder.path)
    except Exception as error:
        folder.failed(f"{type(error).__name__}: {error}", traceback.format_exc())
        traceback.print_exc()
        code = 1
    if in_sweep:
        return math.nan
    sys.exit(code)


@contextmanager
def _before_compute() -> Iterator[None]:
    try:
        yield
    except CorrSteerError as error:
        error.before_compute = True
        raise


def without_own_classes(cfg: DictConfig, folder: Path) -> DictConfig:
    """The settings without ``classes`` where that file is the one which the run itself writes, as
    with ``hydra.run.dir=.``: what an earlier run left there, by rule, is nobody's own classes."""
    own = folder / "classes.csv"
    if not cfg.classes or Path(os.path.abspath(cfg.classes)) != own or not own.exists():
        return cfg
    log.info("%s is an earlier run's: its classes are not taken for yours", own)
    cfg = cfg.copy()
    cfg.classes = None
    return cfg


def leave_no_folder() -> None:
    """After a command that Hydra, or a launcher, refused."""
    unmake_all()
