"""sae_lens's list of published SAEs, read without importing sae_lens.

The file is 1.5 MB of YAML (a second, once a process); importing sae_lens would take 12 s.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from corrsteer.errors import ConfigError


@dataclass(frozen=True)
class Release:
    """SAEs that were published together."""

    name: str
    repo: str
    """Of the Hub."""
    model: str
    """What they were trained on: a Hub id where the registry gives one, else a short name."""
    format: str
    """How their files are laid out: sae_lens's ``conversion_func``."""
    saes: Mapping[str, Mapping[str, Any]]
    """By id: ``path`` in the repository, and where known ``neuronpedia``, ``l0`` and
    ``norm_scaling_factor``."""
    overrides: Mapping[str, Any]
    """Settings that go over those of the SAEs' own configs."""


@lru_cache
def find_release(name: str) -> Release:
    """The release of that name. Raises ConfigError, naming the nearest, when there is none."""
    registry = _registry()
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=3, cutoff=0.4)
        raise ConfigError(
            f"sae.release={name!r} is not in sae_lens's registry; the nearest are:"
            f" {', '.join(near or sorted(registry)[:3])}."
        )
    entry = registry[name]
    return Release(
        name=name,
        repo=entry["repo_id"],
        model=_model(entry),
        format=entry.get("conversion_func") or "sae_lens",
        saes={sae["id"]: {**sae, "path": str(sae["path"])} for sae in entry["saes"]},
        overrides=entry.get("config_overrides") or {},
    )


def _model(entry: Mapping[str, Any]) -> str:
    """``model``, with its organisation where the link to the model's page has the same name."""
    name: str = entry["model"]
    page: str = (entry.get("links") or {}).get("model", "")
    linked = page.removeprefix("https://huggingface.co/")
    return linked if linked.split("/")[-1] == name else name


@lru_cache(maxsize=1)
def _registry() -> dict[str, Any]:
    import yaml

    spec = importlib.util.find_spec("sae_lens")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("sae_lens is not installed: type make setup.")
    file = Path(spec.submodule_search_locations[0]) / "pretrained_saes.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # five times faster, where it is built
    registry: dict[str, Any] = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)
    return registry
