"""Tasks of lm-evaluation-harness, found by name and loaded, for :mod:`corrsteer.tasks.lm_eval`.

The only module that imports lm_eval. Its index of all tasks takes about 10 s, once a process.
"""

from __future__ import annotations

import difflib
import functools
import logging
from pathlib import Path
from typing import Any

from corrsteer.errors import ConfigError, DataError

log = logging.getLogger(__name__)

KINDS = ("multiple_choice", "generate_until")
LOCAL = ("json", "csv", "parquet", "text", "arrow")
"""Data sets that are files beside the task, not repositories of the Hub."""


class LeavingOut:
    """lm-eval's sampler of solved questions, never drawing one of them."""

    def __init__(self, sampler: Any, doc: dict[str, Any]) -> None:
        self._sampler, self._left_out = sampler, doc

    def sample(self, n: int, eval_doc: Any = None, **options: Any) -> Any:
        return self._sampler.sample(n, eval_doc=self._left_out, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)


def load(name: str, include_path: str | None) -> Any:
    """The task of that name. Raises ConfigError, or DataError when its data cannot be had."""
    folder = None
    if include_path is not None:
        folder = str(Path(include_path).expanduser())
        if not Path(folder).is_dir():
            raise DataError(
                f"task.include_path={include_path} is not a folder; give the one with your YAML"
                " tasks"
            )
    manager = _manager(folder, False) if folder else None
    if manager is None or name not in manager.all_tasks:
        log.info("reading the index of lm-eval's tasks (about 10 s)")
        manager = _manager(folder, True)
    if name not in manager.all_tasks:
        near = difflib.get_close_matches(name, manager.all_subtasks, n=3)
        hint = f" (did you mean {', '.join(near)}?)" if near else ""
        raise ConfigError(
            f"task.name={name}: lm-eval has no such task{hint}; `lm-eval ls tasks` lists all"
        )
    entry = manager.task_index[name]
    if name not in manager.all_subtasks:
        members = sorted(entry.tags) if entry.cfg is None else entry.cfg.get("task", [])
        names = [m if isinstance(m, str) else str(m.get("task", m.get("group"))) for m in members]
        rest = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise ConfigError(
            f"task.name={name} is a group of tasks; type one of them: {', '.join(names[:8])}{rest}"
        )
    dataset = (entry.cfg or {}).get("dataset_path")
    try:
        loaded = manager.load(name)["tasks"][name]
    except Exception as error:
        what = f"lm-eval cannot load task {name}"
        if dataset is not None and dataset not in LOCAL and isinstance(error, OSError):
            arguments = [dataset, (entry.cfg or {}).get("dataset_name")]
            call = ", ".join(repr(str(a)) for a in arguments if a)
            raise DataError(
                f"{what}: its data set {dataset} is not in the cache and cannot be downloaded "
                f"({in_a_line(error)[:80]}); with network access and without HF_HUB_OFFLINE, type "
                f'python -c "import datasets; datasets.load_dataset({call})"'
            ) from error
        raise DataError(
            f"{what} (data set {dataset}): {in_a_line(error)}; correct the task or choose another"
        ) from error
    from lm_eval.api.task import ConfigurableTask

    if not isinstance(loaded, ConfigurableTask):
        raise ConfigError(
            f"task {name} of lm-eval is written in Python, not YAML, and cannot be used; choose "
            "another"
        )
    if problem := _unusable(loaded):
        raise ConfigError(
            f"task {name} of lm-eval cannot be used: {problem}; choose one with "
            f"output_type {' or '.join(KINDS)}, and one text as context"
        )
    return loaded


def _unusable(loaded: Any) -> str:
    """What keeps a task from being asked here; empty if nothing does."""
    if loaded.OUTPUT_TYPE not in KINDS:
        return f"its output_type is {loaded.OUTPUT_TYPE}"
    if loaded.multiple_input:
        return "its options are several contexts"
    if getattr(loaded, "MULTIMODAL", False):
        return "it asks about images or sounds"
    if getattr(loaded, "UNSAFE_CODE", False):
        return "scoring it would run code that a model wrote"
    if loaded.config.repeats > 1:
        return f"it needs {loaded.config.repeats} sampled answers to a question"
    return ""


@functools.lru_cache(maxsize=4)
def _manager(folder: str | None, with_lm_evals_own: bool) -> Any:
    """Kept, since the jobs of a sweep ask for the same one."""
    try:
        import datasets
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError(
            f"task=lm_eval needs lm-evaluation-harness ({error}); type "
            "pip install 'corrsteer[lm-eval]', in a checkout .venv/bin/pip install -e '.[lm-eval]'"
        ) from error
    datasets.disable_progress_bars()
    # Its warnings speak to the authors of tasks.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=folder, include_defaults=with_lm_evals_own)


def in_a_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
