"""What all providers of SAEs share: their settings, and what a config must not say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from corrsteer.errors import ConfigError, ModelError

CHECKS = ("strict", "warn", "off")
ARCHITECTURES = ("standard", "gated", "jumprelu", "topk")
SCALINGS = ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale")

_WHY_NOT = {
    "abstopk": "its activations can be negative, and every statistic here counts 0 as silent",
    "matching_pursuit": "its activations can be negative, and every statistic here counts 0 as"
    " silent",
    "temporal": "its activations depend on earlier positions",
    "batchtopk": "this is a training checkpoint; save it again with save_inference_model",
    "matryoshka_batchtopk": "this is a training checkpoint; save it again with"
    " save_inference_model",
}


def check_settings(name: str, check: str, budget_gb: float) -> None:
    """Raise ConfigError for a setting out of range."""
    if not name:
        raise ConfigError("sae.name must not be empty: type sae.name=NAME.")
    if check not in CHECKS:
        raise ConfigError(f"sae.check={check!r} is unknown: use one of {', '.join(CHECKS)}.")
    if not (math.isfinite(budget_gb) and budget_gb > 0):
        raise ConfigError(f"sae.budget_gb={budget_gb}: it must be above 0, such as 8.")


def check_template(template: str) -> tuple[str, str]:
    """What stands before and after {layer}. Raises ConfigError unless it is there once."""
    if template.count("{layer}") != 1:
        raise ConfigError(
            f"sae.template={template!r} must contain {{layer}} once, such as"
            " sae.template=layer_{layer}."
        )
    before, after = template.split("{layer}")
    return before, after


def check_width(sae_id: str, d_in: int, d_model: int) -> None:
    """Raise ModelError unless the SAE reads a residual stream of width ``d_model``."""
    if d_in != d_model:
        raise ModelError(
            f"SAE {sae_id} reads width {d_in}, but the model's residual stream has width"
            f" {d_model}: use SAEs trained on this model."
        )


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of any sae_lens version, flat, in the words of version 6.

    Version 6 keeps what is known about the model under ``metadata``, earlier ones beside the
    rest. A value at the top wins: the registry's overrides are put there.
    """
    known = {k: v for k, v in config.items() if k != "metadata"}
    known = {**(config.get("metadata") or {}), **known}
    old = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
    known.update({new: known[name] for name, new in old.items() if name in known})
    scaling = known.get("normalize_activations")
    if isinstance(scaling, bool):
        scaling = "expected_average_only_in" if scaling else "none"
    known["normalize_activations"] = scaling or "none"
    known.setdefault("architecture", "standard")
    if known.get("activation_fn") == "topk":  # before version 6 an activation function
        known["architecture"] = "topk"
    return known


def check_kind(sae_id: str, config: Mapping[str, Any]) -> None:
    """Raise ModelError for a flat config of an SAE whose features cannot be used here."""
    architecture, scaling = config["architecture"], config["normalize_activations"]
    if architecture not in ARCHITECTURES:
        why = _WHY_NOT.get(architecture, "it is not an SAE of one site's activations")
        if "transcoder" in architecture:
            why = "it does not write to the site it reads"
        raise ModelError(
            f"SAE {sae_id} has the architecture {architecture}: {why}; use one whose"
            f" architecture is one of {', '.join(ARCHITECTURES)}."
        )
    # sae_lens 6 takes every activation function of an old config but topk for relu.
    function = config.get("activation_fn") or "relu"
    if function not in ("relu", "topk"):
        raise ModelError(
            f"SAE {sae_id} uses the activation function {function!r}, which sae_lens would read as"
            " relu: use another SAE."
        )
    if scaling not in SCALINGS:
        raise ModelError(
            f"SAE {sae_id} scales its input (normalize_activations={scaling!r}), which cannot be"
            " undone: fold the scaling and save again."
        )
    if (config.get("reshape_activations") or "none") != "none":
        raise ModelError(
            f"SAE {sae_id} reads attention heads (reshape_activations="
            f"{config['reshape_activations']!r}): use an SAE of the residual stream."
        )


def check_readable(sae_id: str, architecture: str) -> None:
    """Raise ConfigError for an SAE of which no feature can be read without all others."""
    if architecture == "topk":
        raise ConfigError(
            f"SAE {sae_id} is a topk SAE, where whether a feature is active depends on all others:"
            " no operator or gate can read one alone; type operator=add, project_out or"
            " norm_preserving and gate=always"
        )


def is_centred(config: Mapping[str, Any]) -> bool:
    """Whether the SAE was trained on residuals whose mean over d_model is 0.

    TransformerLens's ``center_writing_weights`` takes the mean out of everything that writes to
    the residual stream of a model with LayerNorm, which leaves the model's answers as they were.
    """
    return bool((config.get("model_from_pretrained_kwargs") or {}).get("center_writing_weights"))


def same_model(trained_on: str, path: str) -> bool:
    """Whether two names mean one model: the organisation, case and "-pt" do not matter.

    ``trained_on`` is what an SAE's metadata says, often a name of TransformerLens; ``path`` is
    a Hub id or folder.
    """
    return _plain(trained_on) == _plain(path)


def _plain(name: str) -> str:
    last = name.rstrip("/").rsplit("/", 1)[-1].lower().removesuffix("-pt")
    return {"gpt2-small": "gpt2"}.get(last, last)
