"""SAEs from a folder: one sae_lens folder (cfg.json, sae_weights.safetensors) per layer.

sae_lens reads the files and encodes. What it lets through is checked here first, from cfg.json
alone: an input normalisation that it would silently skip, a missing or wrong site.
Cost: importing sae_lens takes 3 to 12 s (``load`` does it), loading is a memory map, encoding
one position at one layer is a product of width x features. ``check`` imports nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corrsteer.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

# Positions encoded at once: 64 MiB of activations for 16,384 features.
_CHUNK = 1024


@dataclass(frozen=True)
class LoadedSAE:
    """One layer's SAE in memory, float32, without gradients."""

    sae_id: str
    layer: int
    width: int
    """Number of features D."""
    d_model: int
    """Width M of the residual stream it reads."""
    sae: Any
    """The ``sae_lens.SAE``."""

    def check_width(self, d_model: int) -> None:
        """Raise ModelError unless the SAE reads a residual stream of width ``d_model``."""
        _check_width(self.sae_id, self.d_model, d_model)

    def encode(self, x: torch.Tensor, features: Sequence[int] | None = None) -> torch.Tensor:
        """Activations of residuals ``x`` [n, M]: [n, D], or [n, k] of k ``features``."""
        import torch

        columns = slice(None) if features is None else list(features)
        return torch.cat([acts[:, columns] for acts in self._chunks(x)])

    def pool(
        self, x: torch.Tensor, sample: torch.Tensor, n_samples: int, pooling: str
    ) -> torch.Tensor:
        """Activations pooled over each sample's positions, [n_samples, D].

        ``x`` [n, M] residuals, ``sample`` [n] long: whose they are. ``pooling`` is ``max`` or
        ``mean`` (sum over the positions / their number). A sample without positions gets 0.
        """
        import torch

        if pooling not in ("max", "mean"):
            raise ConfigError(f"pooling {pooling!r} is unknown: use max or mean.")
        # Activations are never negative, so 0 is neutral for the maximum too.
        pooled = torch.zeros(n_samples, self.width, device=x.device)
        for acts, rows in zip(self._chunks(x), sample.split(_CHUNK), strict=True):
            if pooling == "max":
                pooled.scatter_reduce_(0, rows[:, None].expand_as(acts), acts, "amax")
            else:
                pooled.index_add_(0, rows, acts)
        if pooling == "mean":
            pooled /= torch.bincount(sample, minlength=n_samples).clamp(min=1)[:, None]
        return pooled

    def directions(self, features: Sequence[int]) -> np.ndarray:
        """Decoder rows of the features, [k, M] float32, in units of the raw residual stream."""
        return self.sae.W_dec[list(features)].cpu().numpy().astype(np.float32)

    def _chunks(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        import torch

        for part in x.split(_CHUNK):
            with torch.no_grad():
                yield self.sae.encode(part)


@dataclass(frozen=True)
class Folder:
    """SAEs in ``path``, the one of layer L in the subfolder ``template`` with L filled in."""

    path: str
    name: str = "folder"
    template: str = "layer_{layer}"

    def __post_init__(self) -> None:
        if not self.path or not self.name:
            raise ConfigError("sae.path and sae.name must not be empty: set both.")
        if self.template.count("{layer}") != 1:
            raise ConfigError(
                f"sae.template={self.template!r} must contain {{layer}} once, as layer_{{layer}}."
            )

    def layers(self) -> tuple[int, ...]:
        """The layers that have an SAE, ascending. Raises ModelError when there is none."""
        root = Path(self.path).expanduser()
        before, after = self.template.split("{layer}")
        pattern = re.compile(re.escape(before) + r"(0|[1-9]\d*)" + re.escape(after))
        names = [p.relative_to(root).as_posix() for p in root.glob(f"{before}*{after}")]
        found = [int(match[1]) for name in names if (match := pattern.fullmatch(name))]
        if not found:
            raise ModelError(
                f"sae.path={self.path!r} holds no folder named {self.template!r}: give the folder"
                " that has one sae_lens folder per layer, or set sae.template."
            )
        return tuple(sorted(found))

    def sae_id(self, layer: int) -> str:
        """Name of the layer's SAE in plans and reports."""
        return f"{self.name}/{self.template.format(layer=layer)}"

    def fingerprint(self, layer: int) -> str:
        """sha256 of the layer's config and weights: what identifies it in a cache key."""
        digest = hashlib.sha256()
        for file in self._files(layer):
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def check(self, layer: int, d_model: int) -> None:
        """Raise ModelError, before anything is loaded, if the layer's SAE cannot be used."""
        _check_width(self.sae_id(layer), self._config(layer)["d_in"], d_model)

    def load(self, layer: int, device: str = "cpu") -> LoadedSAE:
        """The SAE of block ``layer``'s output. Raises ModelError when it is not one."""
        self._config(layer)
        config, _ = self._files(layer)
        from sae_lens import SAE

        sae = SAE.load_from_disk(config.parent, device=device, dtype="float32")
        sae.requires_grad_(False)
        sae.eval()
        return LoadedSAE(self.sae_id(layer), layer, sae.cfg.d_sae, sae.cfg.d_in, sae)

    def _files(self, layer: int) -> tuple[Path, Path]:
        folder = Path(self.path).expanduser() / self.template.format(layer=layer)
        files = folder / CONFIG, folder / WEIGHTS
        for file in files:
            if not file.is_file():
                raise ModelError(
                    f"SAE {self.sae_id(layer)}: {file} is missing; give a folder written by"
                    " sae_lens's save_model, or leave the layer out."
                )
        return files

    def _config(self, layer: int) -> dict[str, Any]:
        """cfg.json, refused unless it is an SAE of the raw output of block ``layer``."""
        config = json.loads(self._files(layer)[0].read_text())
        sae_id = self.sae_id(layer)
        # False and null are how old versions of sae_lens wrote "none".
        scaling = config.get("normalize_activations") or "none"
        if scaling != "none":
            raise ModelError(
                f"SAE {sae_id} scales its input (normalize_activations={scaling!r}), which"
                " sae_lens does not undo when it loads from disk: fold the scaling and save again."
            )
        # sae_lens before 6 kept the hook name beside the other settings.
        hook = config.get("metadata", config).get("hook_name")
        site = re.fullmatch(r"blocks\.(\d+)\.hook_resid_post", hook or "")
        if site is None:
            raise ModelError(
                f"SAE {sae_id} was trained at {hook or 'a site it does not name'}: only the output"
                f" of a block can be used (metadata.hook_name blocks.{layer}.hook_resid_post)."
            )
        if int(site[1]) != layer:
            raise ModelError(
                f"SAE {sae_id} was trained at {hook}, not at layer {layer}: rename the folder or"
                " set sae.template."
            )
        return config


def _check_width(sae_id: str, d_in: int, d_model: int) -> None:
    if d_in != d_model:
        raise ModelError(
            f"SAE {sae_id} reads width {d_in}, but the model's residual stream has width"
            f" {d_model}: use SAEs trained on this model."
        )
