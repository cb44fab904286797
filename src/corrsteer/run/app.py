"""How a job runs and ends: its folder says what ran, and what became of it."""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from corrsteer.config import check, resolved_yaml
from corrsteer.errors import CorrSteerError
from corrsteer.store.runfolder import RunFolder


def run_in_folder(run: Callable[[DictConfig, Path], float], cfg: DictConfig) -> float:
    """Run one job in the folder Hydra made for it, and leave its settings and status there.

    A failure ends a single run with exit code 2 (one line on stderr) or 1 (a bug, with its
    traceback). A job of a sweep returns NaN instead, whatever failed: raised, its error would
    hide those of the other jobs and keep :class:`corrsteer.sweep.close.SweepReport` from running.
    """
    hydra_cfg = HydraConfig.get()
    in_sweep = hydra_cfg.mode == RunMode.MULTIRUN
    folder = RunFolder(Path(hydra_cfg.runtime.output_dir))
    code = 2
    try:
        with folder.in_one_line():
            folder.start(list(hydra_cfg.overrides.task))
        check(cfg)
        with folder.in_one_line():
            folder.write_config(resolved_yaml(cfg))
            metric = run(cfg, folder.path)
            folder.done()
        return metric
    except KeyboardInterrupt:
        folder.failed("interrupted")
        raise
    except CorrSteerError as error:
        folder.failed(str(error))
        if not in_sweep:
            print(f"error: {error}", file=sys.stderr)
    except Exception as error:
        folder.failed(f"{type(error).__name__}: {error}", traceback.format_exc())
        traceback.print_exc()
        code = 1
    if in_sweep:
        return math.nan
    sys.exit(code)
