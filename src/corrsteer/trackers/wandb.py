"""Weights & Biases, offline unless told otherwise: no account, no network.

Importing wandb and opening a run costs about 2 s. A tracker that fails never stops a run: it
says so once in the log and goes quiet; the run's own files hold everything anyway. Look at
offline runs with ``wandb leet`` and upload them with ``wandb sync``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrsteer.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

MODES = ("offline", "online", "disabled")
MAX_ROWS = 1000
"""Rows of a table that are logged: wandb takes 0.1 ms a row, and its viewer no more of them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wandb:
    """``group`` None: the name of the sweep's folder, so that a sweep's runs stand together."""

    project: str = "corrsteer"
    mode: str = "offline"
    group: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(
                f"tracker.mode={self.mode!r} is unknown; choose one of: {', '.join(MODES)}"
            )

    def open(self, folder: Path, config: Mapping[str, Any], name: str) -> Handle:
        """Start a run called ``name``. Its files go to ``wandb/`` in the run's folder, or in the
        sweep's, where the viewer shows all jobs together."""
        handle = Handle()
        handle.attempt(lambda: handle.start(self, folder, config, name))
        return handle


class Handle:
    def __init__(self) -> None:
        self._run: Any = None

    def attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            log.warning("wandb failed and is left out from here on: %s", error)
            self._run = None

    def start(self, settings: Wandb, folder: Path, config: Mapping[str, Any], name: str) -> None:
        import wandb

        sweep = folder.parent if (folder.parent / "multirun.yaml").exists() else None
        self._run = wandb.init(
            dir=str(sweep or folder),
            project=settings.project,
            mode=settings.mode,  # type: ignore[arg-type]  # checked by Wandb
            group=settings.group or (sweep.name if sweep else None),
            name=name,
            config=dict(config),
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, values: Mapping[str, Any]) -> None:
        if self._run is not None:
            self.attempt(lambda: self._run.log(dict(values)))

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """The first 1,000 rows of a table."""
        if self._run is not None:
            self.attempt(lambda: self._run.log({name: _table(frame)}))

    def close(self, status: str) -> None:
        """``status`` is "done" or "failed"."""
        if self._run is not None:
            self.attempt(lambda: self._run.finish(exit_code=0 if status == "done" else 1))
        self._run = None


def _table(frame: pd.DataFrame) -> Any:
    import wandb

    if len(frame) > MAX_ROWS:
        log.info("wandb gets the first %d of %d rows", MAX_ROWS, len(frame))
    rows = frame.head(MAX_ROWS).astype(object).values.tolist()
    return wandb.Table(columns=[str(column) for column in frame.columns], data=rows)
