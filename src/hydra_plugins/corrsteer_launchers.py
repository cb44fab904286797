"""``hydra/launcher=slurm`` and ``hydra/launcher=local``, for Hydra's plugin search.

Hydra imports this file at every command, so it imports nothing of weight; the work is done in
:mod:`corrsteer.sweep.pieces`.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.utils import JobReturn, configure_log
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class _PiecesLauncher(Launcher):  # type: ignore[misc]  # Hydra is not followed
    def __init__(self, **params: Any) -> None:
        self.params = {
            key: OmegaConf.to_container(value, resolve=True)
            if OmegaConf.is_config(value)
            else value
            for key, value in params.items()
        }

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Wrong settings, of the launcher or of any job, end the sweep before its first job."""
        from corrsteer.errors import ConfigError
        from corrsteer.sweep.pieces import forget, job_returns, pieces

        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        try:
            run = self.prepare()
            compose = self.hydra_context.config_loader.load_sweep_config
            planned = pieces(self.config, compose, job_overrides, initial_job_idx)
            forget(planned)
            run(planned)
        except ConfigError as error:
            raise HydraException(str(error)) from None
        return job_returns(planned)

    @abstractmethod
    def prepare(self) -> Callable[[Any], None]:
        """What runs the pieces. Raises ConfigError for wrong settings of the launcher."""


class SlurmLauncher(_PiecesLauncher):
    def prepare(self) -> Callable[[Any], None]:
        from corrsteer.sweep.pieces import built
        from corrsteer.sweep.slurm import Slurm

        launcher: Slurm = built(Slurm, self.params)
        return launcher.sweep


class LocalLauncher(_PiecesLauncher):
    def prepare(self) -> Callable[[Any], None]:
        from corrsteer.sweep.local import Processes
        from corrsteer.sweep.pieces import built

        launcher: Processes = built(Processes, self.params)
        return launcher.sweep
