"""Settings that a strategy does not read, refused where they are not as ``conf/`` has them: a run
must not look as if it had followed them. Costs a few small files of ``conf/``, read once.

What is a plan's reaches a strategy through its own YAML alone, so one that nowhere says
``${operator}`` cannot read ``operator``. What belongs to the run as a whole a method has at hand
all the same; those that it never looks at are its ``unread``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from corrsteer.errors import ConfigError
from corrsteer.methods.protocol import Method

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

CONF = Path(__file__).parents[1] / "conf"
OF_PLANS = ("operator", "gate", "coefficient", "positions")
"""Of the root, what a strategy takes by ``${NAME}``."""


def check_unread(cfg: DictConfig, strategy: Method) -> None:
    """Raises ConfigError, in one line, for settings that the strategy does not read. ``strategy``:
    the one of ``cfg``, under a search its own.

    Where rivals are compared such a setting is for those that read it, and is told of in the log.
    """
    found = list(_unread(cfg, strategy))
    if not found:
        return
    own = [name for name in OF_PLANS if name in found and name in cfg.strategy]
    told = f"strategy {'-'.join(filter(None, (strategy.name, strategy.variant)))} does not read"
    if cfg.study is not None and "margin" in cfg.study:
        log.info("%s %s: it answers as without", told, ", ".join(found))
        return
    words = [f"{name}={_shown(cfg[name])}" for name in found]
    advice = "".join(f", or type strategy.{n}={_shown(cfg[n])} for its own" for n in own)
    leave = f"leave {_them(found)} out"
    if cfg.study is not None:  # whose experiment may set what nobody typed
        leave = f"type {' '.join(f'{n}={_typed(n)}' for n in found)}"
    raise ConfigError(f"{told} {', '.join(words)}: {leave}{advice}")


def _them(found: list[str]) -> str:
    return "it" if len(found) == 1 else "them"


def _unread(cfg: DictConfig, strategy: Method) -> Iterator[str]:
    taken = str(OmegaConf.to_container(cfg.strategy, resolve=False))
    own = _plain(cfg.strategy)
    unread = [name for name in OF_PLANS if f"${{{name}}}" not in taken]
    for name in (*unread, *sorted(getattr(strategy, "unread", ()))):
        value = _plain(cfg[name])
        # In the config.yaml of a run, which is resolved, the strategy has the value itself.
        if value != default(name) and not _has(own, name, value):
            yield name


def _has(node: Any, name: str, value: Any) -> bool:
    """Whether a strategy, or one that it holds, has this value of a setting."""
    if not isinstance(node, dict):
        return False
    return node.get(name) == value or any(_has(part, name, value) for part in node.values())


def default(name: str) -> Any:
    """A setting of the root as ``conf/`` has it, of a group its option's."""
    root = _read(CONF / "config.yaml")
    return root[name] if name in root else _read(CONF / name / f"{_option(name)}.yaml")


def _typed(name: str) -> str:
    """The word for the default."""
    root = _read(CONF / "config.yaml")
    return _shown(root[name]) if name in root else _option(name)


def _option(group: str) -> str:
    every = _read(CONF / "config.yaml")["defaults"]
    (option,) = (one[group] for one in every if isinstance(one, dict) and group in one)
    return str(option)


@cache
def _read(file: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(file), resolve=False)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _shown(value: Any) -> str:
    """A group by its component's name."""
    plain = _plain(value)
    if isinstance(plain, dict):
        return str(plain.get("_target_", plain)).rpartition(".")[2]
    return str(plain).replace(" ", "")
