"""SAEs from a folder: one folder per layer, of sae_lens (cfg.json, sae_weights.safetensors) or of
another tool whose files say what they are (:mod:`corrsteer.saes.layouts`).

sae_lens builds the SAE. What it lets through is checked here first, from the config alone: an
input normalisation that it would silently skip, a missing or wrong site.
Cost: importing sae_lens takes 3 to 12 s (``load`` does it), loading is a memory map.
``validate`` imports nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrsteer.errors import ConfigError, ModelError
from corrsteer.saes.layouts import DEFAULT, SAE_LENS, Layout, layout_of, places
from corrsteer.saes.loaded import LoadedSAE, take_over
from corrsteer.saes.provider import (
    check_kind,
    check_readable,
    check_settings,
    check_template,
    check_width,
    flat,
)
from corrsteer.saes.site import check_block

SCALER = "activation_scaler.json"
"""Where sae_lens's trainer keeps the factor that its inputs are multiplied by."""
_REMEDY = "save it again with sae_lens's save_model"


@dataclass(frozen=True)
class Folder:
    """SAEs in ``path``, the one of block L's output in the subfolder ``template`` with L filled in,
    or in the only folder below that which holds one. ``*`` stands for any part of a name.

    An SAE of the *input* of block L + 1 (``blocks.{L+1}.hook_resid_pre``) is one of block L's
    output, so it belongs in the subfolder of L, whatever its trainer called it.
    ``check`` and ``budget_gb`` are for the stages that use the SAEs.
    """

    path: str
    name: str = "folder"
    template: str = DEFAULT
    check: str = "strict"
    budget_gb: float = 8.0

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("sae.path must not be empty: type sae.path=FOLDER.")
        check_settings(self.name, self.check, self.budget_gb)
        check_template(self.template)

    def layers(self) -> tuple[int, ...]:
        """The layers that have an SAE, ascending. Raises ModelError when there is none."""
        return tuple(places(self.path, self.template))

    def sae_id(self, layer: int) -> str:
        """Name of the layer's SAE in plans and reports."""
        inside = self._folder(layer).relative_to(Path(self.path).expanduser())
        return f"{self.name}/{inside.as_posix()}"

    def fingerprint(self, layer: int) -> str:
        """sha256 of the layer's config and weights: what identifies it in a cache key."""
        digest = hashlib.sha256()
        for file in [*self._files(layer)[1], self._folder(layer) / SCALER]:
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

    def check_readable(self, layer: int) -> None:
        """Raise ConfigError, before anything is loaded, if no feature of the layer's SAE can be
        read alone."""
        check_readable(self.sae_id(layer), self._config(layer)["architecture"])

    def load(self, layer: int, device: str = "cpu") -> LoadedSAE:
        """The SAE of block ``layer``'s output. Raises ModelError when it is not one."""
        config, (layout, files) = self._config(layer), self._files(layer)

        def convert(path: Any, device: str, cfg_overrides: Any) -> tuple[dict[str, Any], Any]:
            """A loader as ``SAE.load_from_disk`` wants it, of the files at hand."""
            merged = {**layout.config(files), "device": device, **cfg_overrides}
            return merged, layout.weights(merged, files)

        def read() -> Any:
            from sae_lens import SAE

            folder = self._folder(layer)
            sae = SAE.load_from_disk(folder, device="cpu", dtype="float32", converter=convert)
            if config["normalize_activations"] == "expected_average_only_in":
                sae.fold_activation_norm_scaling_factor(self._factor(layer))
            return sae

        sae_id = self.sae_id(layer)
        return take_over(read, sae_id, layer, config, device=device, remedy=_REMEDY)

    def _folder(self, layer: int) -> Path:
        """Where the layer's SAE is, or should be."""
        usual = Path(self.path).expanduser() / self.template.format(layer=layer)
        if layout_of(usual) is not None or not Path(self.path).expanduser().is_dir():
            return usual
        try:
            return places(self.path, self.template).get(layer, usual)
        except ModelError:
            return usual  # what is wrong is told by layers, which comes first

    def _files(self, layer: int) -> tuple[Layout, list[Path]]:
        folder = self._folder(layer)
        layout = layout_of(folder) or SAE_LENS
        files = [folder / name for name in layout.files]
        for file in files:
            if not file.is_file():
                raise ModelError(
                    f"SAE {self.sae_id(layer)}: {file} is missing; give a folder written by"
                    " sae_lens's save_model, or leave the layer out."
                )
        return layout, files

    def _factor(self, layer: int) -> float | None:
        """What the inputs were multiplied by, where the trainer's checkpoint says so."""
        file = self._folder(layer) / SCALER
        return (
            json.loads(file.read_text("utf-8-sig")).get("scaling_factor")
            if file.is_file()
            else None
        )

    def _config(self, layer: int) -> dict[str, Any]:
        """The config, flat, refused unless it is an SAE of the raw output of block ``layer``."""
        (layout, files), sae_id = self._files(layer), self.sae_id(layer)
        try:
            config = flat(layout.config(files))
            config["d_in"] = int(config["d_in"])
        except Exception as error:  # of any kind: the file is not ours
            raise ModelError(
                f"SAE {sae_id}: {files[0]} is not the config of an SAE ({type(error).__name__}:"
                f" {error}); {_REMEDY}."
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
