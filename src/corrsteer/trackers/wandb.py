"""Weights & Biases, offline unless told otherwise: no account, no network.

Importing wandb and opening a run costs about 2 s. Failures raise, and some of wandb's calls wait
for a silent server for ever: the caller handles both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrsteer.errors import ConfigError, CorrSteerError
from corrsteer.trackers.protocol import Handle, Number

if TYPE_CHECKING:
    import pandas as pd

MODES = ("offline", "online", "disabled")
MAX_ROWS = 1000
"""Rows of a table that are logged: wandb takes 0.1 ms a row, and its viewer no more of them."""
START_S, END_S = 30, 120


FOREIGN = (
    "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_RESUME_FROM", "WANDB_FORK_FROM", "WANDB_SWEEP_ID",
    "WANDB_SWEEP_PARAM_PATH",
)  # fmt: skip
"""What would make one run of all jobs, or take settings from elsewhere."""


def _switched_off() -> bool:
    """Whether the user's environment wants nothing written."""
    off = os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on")
    return off or os.environ.get("WANDB_MODE") == "disabled"


@dataclass(frozen=True)
class Wandb:
    """``group`` None: the name of the sweep's folder, so that its runs are shown together."""

    project: str = "corrsteer"
    mode: str = "offline"
    group: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(
                f"tracker.mode={self.mode!r} is unknown; choose one of: {', '.join(MODES)}"
            )

    @property
    def enabled(self) -> bool:
        return self.mode != "disabled" and not _switched_off()

    @property
    def left_out(self) -> str:
        """What the user's environment asks of wandb and a run does not do, in words; empty if
        nothing."""
        told = [name for name in FOREIGN if os.environ.get(name)]
        text = ""
        if told:
            verb = "is" if len(told) == 1 else "are"
            text = f"{', '.join(told)} {verb} left out: every job is a run of its own"
        mode = os.environ.get("WANDB_MODE", self.mode)
        if mode in MODES and mode != self.mode:
            text += f"{'; ' if text else ''}WANDB_MODE={mode} is left out: type tracker.mode={mode}"
        return text

    @contextmanager
    def open(
        self,
        home: Path,
        *,
        name: str,
        group: str | None,
        job_type: str,
        tags: Sequence[str],
        config: Mapping[str, object],
    ) -> Iterator[Handle]:
        """A run of wandb, finished at the end.

        Its files go to ``home/wandb``, including those that wandb would put into the user's home.
        """
        with _environment(home):
            import wandb

            if self.mode == "online":
                sign_in()
            with (
                wandb.init(
                    dir=os.environ["WANDB_DIR"],
                    project=self.project,
                    mode=self.mode,  # type: ignore[arg-type]  # checked above
                    group=self.group or group,
                    job_type=job_type,
                    name=name,
                    tags=list(
                        dict.fromkeys(tag[:64] for tag in tags)
                    ),  # wandb takes no longer ones
                    config=dict(config),
                    reinit="finish_previous",
                    settings=wandb.Settings(
                        silent=True,
                        console="off",
                        x_disable_stats=True,
                        init_timeout=START_S,
                        finish_timeout=END_S,
                        finish_timeout_raises=True,
                    ),
                ) as run
            ):
                yield WandbRun(run)


def sign_in() -> None:
    """Raises CorrSteerError without a key that the server accepts; waits at most 10 s for it."""
    import wandb

    try:
        # Without prompt=False wandb asks for a key on the terminal, and a run would wait there.
        known = wandb.login(prompt=False)
    except wandb.Error as error:
        raise CorrSteerError(f"{error}: check the key, the network and WANDB_BASE_URL") from None
    if not known:
        raise CorrSteerError("wandb has no API key: type wandb login, or set WANDB_API_KEY")


def default_entity() -> str:
    """The user or team to which the key of this machine belongs."""
    import wandb

    return str(wandb.Api(timeout=START_S).default_entity)


@contextmanager
def _environment(home: Path) -> Iterator[None]:
    """wandb's folders below ``home``, and no error reports, unless the user has set otherwise.
    Without network, an error report delays the end of the program by 10 s. Nothing of ``FOREIGN``.
    """
    folder = home / "wandb"
    own = {
        "WANDB_DIR": str(home),
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_ERROR_REPORTING": "false",
    }
    new = {name: value for name, value in own.items() if name not in os.environ}
    foreign = {name: os.environ.pop(name) for name in FOREIGN if name in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)
        os.environ.update(foreign)


class WandbRun:
    """A :class:`Handle` on a run of wandb."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def axis(self, names: str, step: str) -> None:
        """Neither metric is summarised: the value of the last layer says nothing about the run."""
        self._run.define_metric(step, summary="none")
        self._run.define_metric(names, step_metric=step, summary="none")

    def log(self, values: Mapping[str, Number]) -> None:
        """One row of the history, and of the summary unless :meth:`axis` has excluded it. wandb
        would draw None and NaN as 0."""
        self._run.log({n: v for n, v in values.items() if v is not None and v == v})

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """The first 1,000 rows of a table."""
        import wandb

        frame = frame.head(MAX_ROWS).astype(object)
        rows = frame.where(frame.notna(), None).values.tolist()
        table = wandb.Table(columns=[str(column) for column in frame.columns], data=rows)
        self._run.log({name: table})

    def artifact(self, name: str, kind: str, files: Sequence[Path]) -> None:
        """Copies, because ``wandb sync`` needs the files as they are now."""
        import wandb

        artifact = wandb.Artifact(name, kind)
        for file in files:
            artifact.add_file(str(file), skip_cache=True)
        self._run.log_artifact(artifact)
