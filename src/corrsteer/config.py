"""The typed root config, its checks, and the messages for wrong settings.

``import corrsteer.config`` registers the schema and the resolvers that ``conf/`` uses; it costs
as much as importing Hydra (0.3 s). Values and their meaning are in ``conf/config.yaml`` alone:
the schema gives types only.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import hydra.utils
from hydra.core.config_store import ConfigStore
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from corrsteer.errors import ConfigError

DECODINGS = ("auto", "free", "constrained", "loglikelihood")
POOLINGS = ("max", "mean")
TOKEN_SOURCES = ("generated", "last_prompt", "prompt", "all")

T = TypeVar("T")

SETTING_ERRORS = (HydraException, OmegaConfBaseException, OSError, ValueError)
"""What Hydra raises outside jobs. OSError: a run folder that cannot be made. ValueError: two
modes asked for at once (``--cfg job -m``) or a group set to a number or null."""


@dataclass
class Splits:
    selection: int = MISSING
    validation: int = MISSING
    test: int = MISSING
    official: bool = MISSING


@dataclass
class Collect:
    token_source: str = MISSING
    pooling: str = MISSING
    shuffles: int = MISSING
    resamples: int = MISSING
    shards: int = MISSING


@dataclass
class Root:
    model: Any = MISSING
    sae: Any = MISSING
    task: Any = MISSING
    selector: Any = MISSING
    strategy: Any = MISSING
    operator: Any = MISSING
    gate: Any = MISSING
    search: Any = MISSING
    backend: Any = MISSING
    tracker: Any = MISSING
    layers: Any = MISSING
    coef: float = MISSING
    positions: str = MISSING
    seed: int = MISSING
    limit: int | None = MISSING
    decoding: str = MISSING
    ablations: bool = MISSING
    data: str = MISSING
    classes: str | None = MISSING
    descriptions: bool = MISSING
    cache: str = MISSING
    name: str = MISSING
    splits: Splits = field(default_factory=Splits)
    collect: Collect = field(default_factory=Collect)
    controls: Any = MISSING
    side_effects: Any = MISSING
    neutral: str = MISSING
    transfer: dict[str, Any] = MISSING


def bundled(folder: str) -> str:
    """``${bundled:model}``: a folder that ships inside the package."""
    return str(Path(__file__).parent / "bundled" / folder)


def run_name(name: str, overrides: Sequence[str]) -> str:
    """What a run's folder is called after its time: ``name``, or all tasks of a task sweep.

    Hydra names a sweep's folder from the defaults, before it looks at swept values, so a sweep
    over ``task=mmlu,bbq`` would be called ``bbq``.
    """
    given = dict(text.split("=", 1) for text in overrides if "=" in text)
    swept = given.get("name", given.get("task", ""))
    return re.sub(r"[^\w.-]+", "-", swept if "," in swept else name).strip("-.")


ConfigStore.instance().store(name="schema", node=Root)
OmegaConf.register_new_resolver("bundled", bundled, replace=True)
# Cached: Hydra hands the cache to the jobs of a sweep, and all of them must find one folder.
OmegaConf.register_new_resolver("run_name", run_name, replace=True, use_cache=True)


def check(cfg: DictConfig) -> None:
    """Refuse unknown keys and values out of range, before anything is computed.

    Raises ConfigError. Hydra has refused misspelt keys and wrong types by now, but lets
    ``+coeff=1`` add a key that nothing reads, and ``~coef`` take one away. The keys of a group
    are :func:`instantiate`'s.
    """
    names = [f.name for f in fields(Root)]
    _check_keys("", cfg, names)
    missing = [name for name in names if name not in cfg]
    if missing:
        raise ConfigError(
            f"{missing[0]} is missing: leave out ~{missing[0]}, or type {missing[0]}=VALUE"
        )
    for node in (cfg.task, *cfg.transfer.values()):
        _check_prompts(node)
    try:
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from None
    for group in ("splits", "collect"):
        legal = [f.name for f in fields(OmegaConf.get_type(cfg, group))]
        _check_keys(group, cfg[group], legal)
    for name, node in cfg.transfer.items():
        if not _is_mapping(node) or "_target_" not in node:
            raise ConfigError(
                f"transfer.{name} has settings but no task: type transfer=[{name}] too"
            )
    if not abs(cfg.coef) < 1e30:  # NaN, infinite, or so in float32
        raise ConfigError(f"coef={cfg.coef}: it must be a finite number, such as coef=1")
    for key in ("pooling", "token_source"):
        legal_values = POOLINGS if key == "pooling" else TOKEN_SOURCES
        if cfg.collect[key] not in legal_values:
            raise ConfigError(
                f"collect.{key}={cfg.collect[key]} is unknown"
                f"{_nearest(cfg.collect[key], legal_values)}; choose one of:"
                f" {', '.join(legal_values)}"
            )
    if cfg.decoding not in DECODINGS:
        raise ConfigError(
            f"decoding={cfg.decoding} is unknown{_nearest(cfg.decoding, DECODINGS)}; choose one "
            f"of: {', '.join(DECODINGS)}"
        )
    least = {f"splits.{name}": 1 for name in ("selection", "validation", "test")}
    least |= {"collect.shuffles": 20, "collect.resamples": 20, "collect.shards": 1, "limit": 1}
    for key, smallest in least.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and value < smallest:
            raise ConfigError(
                f"{key}={value}: it must be at least {smallest}; type {key}={smallest}"
            )
    for key in ("name", "data", "cache", "neutral"):
        if not cfg[key]:
            raise ConfigError(f"{key} is empty: type {key}=VALUE, or leave it out")
    if cfg.classes == "":
        raise ConfigError("classes is empty: type classes=FILE, or classes=null for none")


def _check_prompts(task: Any) -> None:
    """Refuse a field of a row that would be taken for a setting: it stands behind a dollar sign."""
    for key in ("prompt", "chat_prompt"):
        node = task._get_node(key, validate_access=False) if _is_mapping(task) else None
        raw = node._value() if node is not None else None
        if field := re.search(r"(?<!\\)\$(\{\w+\})", raw if isinstance(raw, str) else ""):
            raise ConfigError(
                f"{task._get_full_key(key)}={raw!r}: ${field[1]} is replaced by a setting of that"
                f" name; for a dollar sign before the field {field[1]} write \\${field[1]}"
            )


def instantiate(node: DictConfig, seam: type[T] = object) -> T:  # type: ignore[assignment]
    """Build the component that a node's ``_target_`` names. It gets plain lists and dicts.

    Raises ConfigError for a key its constructor does not have, a ``_target_`` that does not exist,
    or a component that lacks part of ``seam`` (a protocol, or a class it must be one of); what the
    constructor itself raises comes out as it is.
    """
    _check_target(node)
    try:
        component = hydra.utils.instantiate(node, _convert_="all")
    except InstantiationException as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None
    require(component, seam, f"{node._get_full_key(None)}={node.get('_target_')}")
    return cast(T, component)


def require(component: object, seam: type, setting: str) -> None:
    """Raise ConfigError, which names the setting, where a component lacks part of a seam."""
    if wrong := mismatch(component, seam):
        raise ConfigError(f"{setting}: {wrong}")


def mismatch(component: object, seam: type) -> str:
    """What a component lacks of a seam, in words; empty if nothing. Runs no code of it."""
    if not getattr(seam, "_is_protocol", False):
        return "" if isinstance(component, seam) else f"it must be a {seam.__name__}"
    for name, member in _members(seam).items():
        if wrong := _unlike(component, name, member):
            return f"a {seam.__name__} must have {wrong}"
    parameters = getattr(type(component), "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        return "it must be a frozen dataclass, whose fields are its settings"
    return ""


def _unlike(component: object, name: str, member: Any) -> str:
    """What a component must have, where it has no such member of a protocol; else empty."""
    absent = object()
    own = getattr(component, "__dict__", {}).get(name, absent)
    is_field = own is not absent
    if not is_field:  # hasattr would find __call__ in every class, and run properties
        own = next((vars(k)[name] for k in type(component).__mro__ if name in vars(k)), absent)
    if not inspect.isfunction(member):
        if own is absent:
            return name
        is_method = inspect.isfunction(own) and not is_field
        return f"{name} as a value, but there it is a method" if is_method else ""
    _, *wanted = inspect.signature(member).parameters.values()
    text = f"{name}({', '.join(map(str, wanted))})"
    if own is absent:
        return text
    signature = None if isinstance(own, property) else _signature(getattr(component, name))
    if signature is None:
        return f"{text}, but there it is no method"
    by_name = {p.name: None for p in wanted if p.kind is p.KEYWORD_ONLY}
    try:
        signature.bind(*[None] * (len(wanted) - len(by_name)), **by_name)
    except TypeError:
        return f"{text}, but it has {name}{signature}"
    return ""


def _signature(value: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(value)
    except (TypeError, ValueError):  # not callable, or not in Python
        return None


def _members(seam: type) -> dict[str, Any]:
    """The members of a protocol, those of the protocols that it extends among them."""
    members: dict[str, Any] = {}
    for base in reversed(seam.__mro__):
        if getattr(base, "_is_protocol", False) and base.__name__ != "Protocol":
            members |= {
                name: value
                for name, value in vars(base).items()
                if (not name.startswith("_") or name == "__call__") and not name.startswith("_abc")
            }
    return members


def resolved_yaml(cfg: DictConfig) -> str:
    """All settings of a run, interpolations resolved: what its config.yaml holds."""
    text: str = OmegaConf.to_yaml(cfg, resolve=True)
    return text


def explain(error: BaseException) -> str:
    """One line for an error of Hydra, OmegaConf or ours: what was wrong, what is legal."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, wrong = str(error.missing_cfg_file).rpartition("/")
        group = "task.scorer" if group == "scorer" else group
        options = [option for option in error.options if option]
        return (
            f"{group}={wrong} does not exist{_nearest(wrong, options)};"
            f" choose one of: {', '.join(sorted(options))}"
        )
    if isinstance(error, OverrideParseException):
        what = [line for line in error.message.splitlines() if not line.startswith("See http")][-1]
        return f"cannot read {error.override!r}: {what}; a setting is KEY=VALUE, such as coef=1"
    words = " ".join(str(error).split())
    if choice := re.match(r"You must specify '\w+@([\w.]+)'.*Available options: (.*)", words):
        names = ", ".join(choice[2].split())
        return f"{choice[1]} has no value: type {choice[1]}=NAME; choose one of: {names}"
    inner = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(inner, ConfigKeyError | ConfigAttributeError) and inner.parent_node is not None:
        parent = inner.parent_node
        keys = [str(key) for key in parent if key != "hydra"] if _is_mapping(parent) else []
        return _unknown_key(parent._get_full_key(None), str(inner.key), keys)
    if isinstance(inner, MissingMandatoryValue):
        return f"{inner.full_key} has no value: type {inner.full_key}=VALUE"
    if isinstance(inner, ValidationError) and inner.full_key:
        return f"{inner.full_key}: {str(inner).splitlines()[0]}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot write {error.filename}: {error.strerror}; choose another folder"
    if inner is not error:
        return f"{' '.join(str(error).split())}: {str(inner).splitlines()[0]}".lstrip(": ")
    if isinstance(error, OmegaConfBaseException):
        return str(error).splitlines()[0]
    return " ".join(str(error).split())


def _check_target(node: Any) -> None:
    """Compare the keys of a node, and of all nodes in it, with the constructors they name."""
    if isinstance(node, ListConfig):
        for item in node:
            _check_target(item)
    if not isinstance(node, DictConfig):
        return
    if "_target_" in node:
        where = node._get_full_key(None)
        module, _, name = node["_target_"].rpartition(".")
        try:
            target = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"{where}._target_={node['_target_']}: {error}") from error
        parameters = inspect.signature(target).parameters
        _check_keys(where, node, list(parameters))
        for name, parameter in parameters.items():
            needed = parameter.default is parameter.empty
            if needed and name not in node and parameter.kind is not parameter.VAR_KEYWORD:
                raise ConfigError(f"{where}.{name} has no value: type +{where}.{name}=VALUE")
    for key in node:
        if not OmegaConf.is_missing(node, key):
            _check_target(node[key])


def _check_keys(where: str, node: DictConfig, legal: Sequence[str]) -> None:
    for key in node:
        if key not in legal and not str(key).startswith("_"):
            raise ConfigError(_unknown_key(where, str(key), legal))


def _unknown_key(where: str, key: str, legal: Iterable[str]) -> str:
    names = sorted(name for name in legal if not name.startswith("_"))
    known = f"the keys of {where} are" if where else "the keys are"
    known = f"{known}: {', '.join(names)}" if names else f"{where} has no keys"
    full = f"{where}.{key}" if where else key
    # The settings of a search exist only once an option of the group is chosen.
    advice = "; also type search=pareto" if where == "search" and "trials" not in names else ""
    if where == "transfer":
        advice = f"; also type transfer=[{key}]"
    return f"unknown key {full}{_nearest(key, names)}; {known}{advice}"


def _nearest(wrong: str, legal: Sequence[str]) -> str:
    close = difflib.get_close_matches(wrong, legal, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _is_mapping(node: Any) -> bool:
    return isinstance(node, DictConfig) and not node._is_none() and not node._is_missing()
