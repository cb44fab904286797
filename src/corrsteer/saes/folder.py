"""SAEs from a folder: one sae_lens folder (cfg.json, sae_weights.safetensors) per layer.

sae_lens reads the files. What it lets through is checked here first, from cfg.json alone: an
input normalisation that it would silently skip, a missing or wrong site.
Cost: importing sae_lens takes 3 to 12 s (``load`` does it), loading is a memory map.
``validate`` imports nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrsteer.errors import ConfigError, ModelError
from corrsteer.saes.loaded import LoadedSAE, take_over
from corrsteer.saes.provider import (
    check_kind,
    check_settings,
    check_template,
    check_width,
    flat,
)
from corrsteer.saes.site import check_block

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SCALER = "activation_scaler.json"
"""Where sae_lens's trainer keeps the factor that its inputs are multiplied by."""


@dataclass(frozen=True)
class Folder:
    """SAEs in ``path``, the one of block L's output in the subfolder ``template`` with L filled in.

    An SAE of the *input* of block L + 1 (``blocks.{L+1}.hook_resid_pre``) is one of block L's
    output, so it belongs in the subfolder of L, whatever its trainer called it.
    ``check`` and ``budget_gb`` are for the stages that use the SAEs.
    """

    path: str
    name: str = "folder"
    template: str = "layer_{layer}"
    check: str = "strict"
    budget_gb: float = 8.0

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("sae.path must not be empty: type sae.path=FOLDER.")
        check_settings(self.name, self.check, self.budget_gb)
        check_template(self.template)

    def layers(self) -> tuple[int, ...]:
        """The layers that have an SAE, ascending. Raises ModelError when there is none."""
        root = Path(self.path).expanduser()
        before, after = check_template(self.template)
        pattern = re.compile(re.escape(before) + r"(0|[1-9]\d*)" + re.escape(after))
        names = [p.relative_to(root).as_posix() for p in root.glob(f"{before}*{after}")]
        layers = [int(match[1]) for name in names if (match := pattern.fullmatch(name))]
        if not layers:
            raise ModelError(
                f"sae.path={self.path!r} holds no folder named {self.template!r}: give the folder"
                " that has one sae_lens folder per layer, or set sae.template."
            )
        return tuple(sorted(layers))

    def sae_id(self, layer: int) -> str:
        """Name of the layer's SAE in plans and reports."""
        return f"{self.name}/{self.template.format(layer=layer)}"

    def fingerprint(self, layer: int) -> str:
        """sha256 of the layer's config and weights: what identifies it in a cache key."""
        digest = hashlib.sha256()
        files = [*self._files(layer), self._folder(layer) / SCALER]
        for file in files:
            if file.is_file():
                with file.open("rb") as handle:
                    while block := handle.read(2**20):
                        digest.update(block)
        return digest.hexdigest()

    def neuronpedia(self, layer: int) -> str | None:
        """Neuronpedia's id of the SAE, where its metadata give one."""
        return self._config(layer).get("neuronpedia_id")

    def trained_on(self, layer: int) -> str | None:
        """The model that the metadata say the SAE was trained on."""
        return self._config(layer).get("model_name")

    def validate(self, layer: int, d_model: int) -> None:
        """Raise ModelError, before anything is loaded, if the layer's SAE cannot be used."""
        check_width(self.sae_id(layer), self._config(layer)["d_in"], d_model)

    def load(self, layer: int, device: str = "cpu") -> LoadedSAE:
        """The SAE of block ``layer``'s output. Raises ModelError when it is not one."""
        config = self._config(layer)

        def read() -> Any:
            from sae_lens import SAE

            sae = SAE.load_from_disk(self._folder(layer), device="cpu", dtype="float32")
            if config["normalize_activations"] == "expected_average_only_in":
                sae.fold_activation_norm_scaling_factor(self._factor(layer))
            return sae

        remedy = "save it again with sae_lens's save_model"
        return take_over(read, self.sae_id(layer), layer, config, device=device, remedy=remedy)

    def _folder(self, layer: int) -> Path:
        return Path(self.path).expanduser() / self.template.format(layer=layer)

    def _files(self, layer: int) -> tuple[Path, Path]:
        files = self._folder(layer) / CONFIG, self._folder(layer) / WEIGHTS
        for file in files:
            if not file.is_file():
                raise ModelError(
                    f"SAE {self.sae_id(layer)}: {file} is missing; give a folder written by"
                    " sae_lens's save_model, or leave the layer out."
                )
        return files

    def _factor(self, layer: int) -> float | None:
        """What the inputs were multiplied by, where the trainer's checkpoint says so."""
        file = self._folder(layer) / SCALER
        return json.loads(file.read_text()).get("scaling_factor") if file.is_file() else None

    def _config(self, layer: int) -> dict[str, Any]:
        """cfg.json, flat, refused unless it is an SAE of the raw output of block ``layer``."""
        file, sae_id = self._files(layer)[0], self.sae_id(layer)
        try:
            config = flat(json.loads(file.read_text()))
            config["d_in"] = int(config["d_in"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"SAE {sae_id}: {file} is not the config of an SAE ({type(error).__name__}:"
                f" {error}); save it again with sae_lens's save_model."
            ) from error
        check_kind(sae_id, config)
        scaling = config["normalize_activations"]
        if scaling == "expected_average_only_in" and self._factor(layer) is None:
            raise ModelError(
                f"SAE {sae_id} scales its input (normalize_activations={scaling!r}) by a factor"
                f" that is not stored in {SCALER}: fold the scaling and save again."
            )
        remedy = "put it into {name} or set sae.template."
        remedy = remedy.replace("{name}", self.template.replace("{layer}", "{block}"))
        hooks = config.get("hook_name"), config.get("hf_hook_name")
        check_block(sae_id, layer, *hooks, remedy=remedy)
        return config
