"""The typed root config, its checks, and the messages for wrong settings.

``import corrsteer.config`` registers the schema and the resolvers that ``conf/`` uses; it costs
as much as importing Hydra (0.3 s). Values and their meaning are in ``conf/config.yaml`` alone:
the schema gives types only.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import hydra.utils
from hydra.core.config_store import ConfigStore
from hydra.errors import (
    HydraException,
    InstantiationException,
)
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    OmegaConfBaseException,
)

from corrsteer.errors import ConfigError, CorrSteerError, check_known
from corrsteer.seams import fits, hints, in_words, require
from corrsteer.wording import command, nearest, unknown_key
from corrsteer.wording import explain as explain

DECODINGS = ("auto", "free", "constrained", "loglikelihood")
POOLINGS = ("max", "mean")
TOKEN_SOURCES = ("generated", "last_prompt", "prompt", "all")
WAYS = ("replay", "writing")

STUDY_RULES = {
    "better": ("claim", "subject", "reference", "control"),
    "gates": ("claim", "reference", "control"),
    "selectors": ("claim", "reference", "control"),
    "depth": ("claim", "subject", "reference", "control"),
    "filling": ("claim", "subject", "reference"),
    "instability": ("claim",),
}
"""How a study answers its claim (:mod:`corrsteer.report.study_rules`), and what that needs."""
STUDY_MEASURES = ("held_out", "norms")
"""What the jobs of a study measure besides, as a table in their folders."""

OF_RIVALS = ("claim", "subject", "margin")
"""What a study of rivals at equal accuracy says (:mod:`corrsteer.report.compare`)."""

JOB_READS = ("job", "model", "backend", "layers", "seed", "cache", "name")
"""What a job other than steering reads; the rest may be without a value."""

T = TypeVar("T")

SETTING_ERRORS = (HydraException, OmegaConfBaseException, ConfigError, OSError, ValueError)
"""What Hydra raises outside jobs, and we of the words it is given. OSError: a run folder that
cannot be made. ValueError: two
modes asked for at once (``--cfg job -m``) or a group set to a number or null."""


@dataclass
class Splits:
    selection: int = MISSING
    validation: int = MISSING
    test: int = MISSING
    official: bool = MISSING
    seed: int | None = MISSING


@dataclass
class Collect:
    token_source: str = MISSING
    pooling: str = MISSING
    shuffles: int = MISSING
    resamples: int = MISSING
    shards: int = MISSING
    way: str = MISSING


@dataclass
class Root:
    job: Any = MISSING
    model: Any = MISSING
    sae: Any = MISSING
    task: Any = MISSING
    selector: Any = MISSING
    strategy: Any = MISSING
    operator: Any = MISSING
    gate: Any = MISSING
    coefficient: Any = MISSING
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
    study: Any = MISSING


def bundled(folder: str) -> str:
    """``${bundled:model}``: a folder that ships inside the package."""
    return str(Path(__file__).parent / "bundled" / folder)


def run_name(name: str, overrides: Sequence[str]) -> str:
    """What a run's folder is called after its time: ``name``, or all tasks of a task sweep, or the
    job where it is not to steer.

    Hydra names a sweep's folder from the defaults, before it looks at swept values, so a sweep
    over ``task=mmlu,bbq`` would be called ``bbq``.
    """
    given = dict(text.split("=", 1) for text in overrides if "=" in text)
    if given.get("job", "steer") != "steer" and "name" not in given:
        name = given["job"]
    swept = given.get("name", given.get("task", ""))
    plain = re.sub(r"[^\w.-]+", "-", swept if "," in swept else name).strip("-.")
    # File systems take 255 bytes, and the time stands in front.
    return plain.encode()[:100].decode(errors="ignore") or "run"


def file_name(path: Any, otherwise: str) -> str:
    """``${file_name:${.path},custom}``: what a file or folder is called, without the ends that say
    its kind; ``otherwise`` where ``path`` names none of the user's."""
    name = Path(os.path.abspath(str(path or "."))).name
    name = re.sub(r"(\.(csv|jsonl?|parquet|gz|gguf))+$", "", name)
    return name if path not in (None, "", "hub", "bundled") and name else otherwise


ConfigStore.instance().store(name="schema", node=Root)
OmegaConf.register_new_resolver("bundled", bundled, replace=True)
OmegaConf.register_new_resolver("command", command, replace=True)  # in --help
OmegaConf.register_new_resolver("file_name", file_name, replace=True)
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
        for name in JOB_READS if cfg.job else names:
            if isinstance(node := cfg[name], DictConfig | ListConfig):
                OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from None
    for group in ("splits", "collect"):
        legal = [f.name for f in fields(OmegaConf.get_type(cfg, group))]
        _check_keys(group, cfg[group], legal)
    if cfg.study is not None:
        _check_study(cfg.study)
    for name, node in cfg.transfer.items():
        if not _is_mapping(node) or "_target_" not in node:
            raise ConfigError(
                f"transfer.{name} has settings but no task: type transfer=[{name}] too"
            )
    if not abs(cfg.coef) < 1e30:  # NaN, infinite, or so in float32
        raise ConfigError(f"coef={cfg.coef}: it must be a finite number, such as coef=1")
    legal_of = {"pooling": POOLINGS, "token_source": TOKEN_SOURCES, "way": WAYS}
    for key, legal_values in legal_of.items():
        if cfg.collect[key] not in legal_values:
            raise ConfigError(
                f"collect.{key}={cfg.collect[key]} is unknown"
                f"{nearest(cfg.collect[key], legal_values)}; choose one of:"
                f" {', '.join(legal_values)}"
            )
    if cfg.decoding not in DECODINGS:
        raise ConfigError(
            f"decoding={cfg.decoding} is unknown{nearest(cfg.decoding, DECODINGS)}; choose one "
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


def _check_study(study: Any) -> None:
    if not _is_mapping(study):
        raise ConfigError(f"study={study}: type experiment=variants, or study=null for none")
    widen = study.get("widen", 0)
    if type(widen) is not int or widen < 0:
        raise ConfigError(f"study.widen={widen}: it must be a number such as study.widen=3, or 0")
    if "margin" in study:
        _check_rivals(study)
        return
    _check_keys("study", study, [*STUDY_RULES["better"], "rule", "by", "measure", "widen"])
    rule = study.get("rule") or "better"
    check_known("study.rule", rule, STUDY_RULES)
    for name in study.get("measure") or ():
        check_known("study.measure", name, STUDY_MEASURES)
    if lacking := [name for name in STUDY_RULES[rule] if not study.get(name)]:
        raise ConfigError(
            f"study.{lacking[0]} has no value: type +study.{lacking[0]}=VALUE, or"
            " experiment=variants for a whole study"
        )


def _check_rivals(study: Any) -> None:
    _check_keys("study", study, [*OF_RIVALS, "widen"])
    if lacking := [name for name in OF_RIVALS if study.get(name) in (None, "")]:
        raise ConfigError(
            f"study.{lacking[0]} has no value: type +study.{lacking[0]}=VALUE, or"
            " experiment=compare for a whole study"
        )
    if not _is_positive(study.margin):
        raise ConfigError(
            f"study.margin={study.margin}: it must be a number of points above 0, such as"
            " study.margin=2"
        )


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

    Raises ConfigError for a node that names none, a key its constructor does not have, a
    ``_target_`` that does not exist, a value of another type than the constructor says, or a
    component that lacks part of ``seam`` (a protocol, or a class it must be one of). A
    CorrSteerError of the constructor comes out as it is, any other error as a ConfigError.
    """
    if not _is_mapping(node) or "_target_" not in node:
        what = "" if _is_mapping(node) else f"={node}"
        where = f"{node._get_full_key(None)}{what}" if OmegaConf.is_config(node) else str(node)
        raise ConfigError(
            f"{where} names no component: the YAML of an option needs a line such as"
            " _target_: package.module.Class"
        )
    _check_target(node)
    setting = f"{node._get_full_key(None)}={node['_target_']}"
    try:
        component = hydra.utils.instantiate(_literal(node), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, CorrSteerError):
            raise cause from None
        words = " ".join(f"{type(cause).__name__}: {cause}".split())
        raise ConfigError(
            _wrong_type(node) or f"{setting} cannot be made of its settings ({words})"
        ) from cause
    if wrong := _wrong_type(node):
        raise ConfigError(wrong)
    require(component, seam, setting)
    return cast(T, component)


def _literal(node: DictConfig) -> Any:
    """The node, or its values where one of them holds a literal ``${``: Hydra resolves a value
    twice, and would take that for a setting's the second time."""
    if r"\${" not in str(OmegaConf.to_container(node, resolve=False)):
        return node

    def escaped(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: escaped(item) for key, item in value.items()}
        if isinstance(value, list):
            return [escaped(item) for item in value]
        for _ in range(2 if isinstance(value, str) else 0):
            value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
        return value

    return escaped(OmegaConf.to_container(node, resolve=True))


def resolved_yaml(cfg: DictConfig) -> str:
    """All settings of a run, interpolations resolved: what its config.yaml holds."""
    text: str = OmegaConf.to_yaml(cfg, resolve=True)
    return text


def _check_target(node: Any) -> None:
    """Compare the keys of a node, and of all nodes in it, with the constructors they name."""
    for where, part in _targets(node):
        parameters = _parameters(where, part["_target_"])
        _check_keys(where, part, list(parameters))
        for name, parameter in parameters.items():
            needed = parameter.default is parameter.empty
            if needed and name not in part and parameter.kind not in _MANY:
                raise ConfigError(f"{where}.{name} has no value: type +{where}.{name}=VALUE")


_MANY = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def _targets(node: Any) -> Iterator[tuple[str, DictConfig]]:
    """(full key, node) of a node and of all nodes in it that name a component."""
    if isinstance(node, ListConfig) and not node._is_none():
        for item in node:
            yield from _targets(item)
    if _is_mapping(node):
        if "_target_" in node:
            yield str(node._get_full_key(None)), node
        for key in node:
            if not OmegaConf.is_missing(node, key):
                yield from _targets(node[key])


def _parameters(where: str, target: Any) -> Mapping[str, inspect.Parameter]:
    """Of the constructor, or the function, that a ``_target_`` names."""
    setting = f"{where}._target_={target}"
    module, dot, name = str(target).rpartition(".")
    if not dot or not all(part.isidentifier() for part in str(target).split(".")):
        raise ConfigError(f"{setting}: it must be the full name of a class, package.module.Class")
    try:
        return inspect.signature(getattr(importlib.import_module(module), name)).parameters
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{setting}: {error}") from error
    except (TypeError, ValueError) as error:  # no callable, or one that is not in Python
        raise ConfigError(f"{setting}: it cannot be a component ({error})") from error


def _wrong_type(node: DictConfig) -> str:
    """Which setting of a node, or of one in it, is not of the type that its constructor says, in
    words; empty if none."""
    for where, part in _targets(node):
        target = hydra.utils.get_object(part["_target_"])
        plain = isinstance(target, type) and not is_dataclass(target)
        wanted = hints(target.__init__ if plain else target)
        for name, parameter in inspect.signature(target).parameters.items():
            value = part.get(name)
            if name not in part or name not in wanted or value == parameter.default:
                continue
            if OmegaConf.is_config(value):
                if "_target_" in value:
                    continue
                value = OmegaConf.to_container(value, resolve=True)
            if not fits(value, wanted[name]):
                advice = ""
                if wanted[name] is str and not isinstance(value, list | dict | None):
                    advice = f"; type {where}.{name}='\"{value}\"'"
                return f"{where}.{name}={value}: it must be {in_words(wanted[name])}{advice}"
    return ""


def _is_positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < float("inf")


def _check_keys(where: str, node: DictConfig, legal: Sequence[str]) -> None:
    for key in node:
        if key not in legal and not str(key).startswith("_"):
            raise ConfigError(unknown_key(where, str(key), legal))


def _is_mapping(node: Any) -> bool:
    return isinstance(node, DictConfig) and not node._is_none() and not node._is_missing()
