"""Published SAEs: a release of sae_lens's registry, one SAE per layer by a template of its ids.

The files come from the local cache of the Hugging Face Hub, or are downloaded into it; sae_lens
builds the SAE from them. Nothing is unpickled and no code of the Hub is run.
Cost: ``layers`` reads the registry (a second); ``validate`` and ``fingerprint`` fetch the files
(0.3 to 4 GB per layer) but read little of them; ``load`` imports sae_lens (12 s, once).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrsteer import hub
from corrsteer.errors import ConfigError, ModelError
from corrsteer.saes.formats import FORMATS
from corrsteer.saes.loaded import LoadedSAE, take_over
from corrsteer.saes.provider import (
    check_kind,
    check_readable,
    check_settings,
    check_template,
    check_width,
    flat,
)
from corrsteer.saes.registry import Release, find_release
from corrsteer.saes.site import check_block

_READING = 1
"""Goes up when the same files are read into other numbers than before."""


@dataclass(frozen=True)
class Pretrained:
    """SAEs of ``release``, the one of a layer at ``template`` with the number filled in.

    The number in an id is the one of its hook: ``blocks.{layer}.hook_resid_pre`` with 5 is the
    input of block 5, so it serves layer 4, and the one with 0 serves none.
    ``check`` and ``budget_gb`` are for the stages that use the SAEs.
    """

    release: str
    template: str
    name: str
    check: str = "strict"
    budget_gb: float = 8.0

    def __post_init__(self) -> None:
        if not self.release:
            raise ConfigError("sae.release must not be empty: type sae.release=RELEASE.")
        check_settings(self.name, self.check, self.budget_gb)
        check_template(self.template)

    def layers(self) -> tuple[int, ...]:
        """The blocks whose output has an SAE, ascending. No network.

        Raises ConfigError when the registry has no such release, or no such SAEs in it, and
        ModelError when their format cannot be read.
        """
        return tuple(sorted(self._ids()))

    def sae_id(self, layer: int) -> str:
        """Name of the layer's SAE in plans and reports: release and id."""
        return f"{self.release}/{self._id(layer)}"

    def fingerprint(self, layer: int) -> str:
        """sha256 that stands for the layer's files and for what the registry says of them."""
        entry, release = self._entry(layer), find_release(self.release)
        identity = {
            "reading": _READING,
            "format": release.format,
            "path": entry["path"],
            "overrides": dict(release.overrides),
            "factor": entry.get("norm_scaling_factor"),
            "files": [_content(file) for file in self._files(layer)],
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def neuronpedia(self, layer: int) -> str | None:
        """Neuronpedia's id of the SAE, where the registry gives one."""
        return self._entry(layer).get("neuronpedia")

    def trained_on(self, layer: int) -> str | None:
        """The model that the registry says the SAE was trained on."""
        return find_release(self.release).model

    def validate(self, layer: int, d_model: int) -> None:
        """Raise ModelError, before anything is loaded, if the layer's SAE cannot be used.

        Fetches its files, so that a download that fails does so before any compute.
        """
        check_width(self.sae_id(layer), self._config(layer)["d_in"], d_model)

    def check_readable(self, layer: int) -> None:
        """Raise ConfigError, before anything is loaded, if no feature of the layer's SAE can be
        read alone."""
        check_readable(self.sae_id(layer), self._config(layer)["architecture"])

    def load(self, layer: int, device: str = "cpu") -> LoadedSAE:
        """The SAE of block ``layer``'s output. Raises ModelError when it is not one."""
        config, files = self._config(layer), self._files(layer)
        kind = FORMATS[find_release(self.release).format]

        def convert(
            repo_id: str, folder_name: str, device: str, force_download: bool, cfg_overrides: Any
        ) -> tuple[dict[str, Any], dict[str, Any], None]:
            """A loader as ``SAE.from_pretrained`` wants it, of the files at hand."""
            merged = {**kind.config(repo_id, folder_name, files), **cfg_overrides}
            return merged, kind.weights(merged, files), None

        def read() -> Any:
            from sae_lens import SAE

            return SAE.from_pretrained(
                self.release, self._id(layer), device="cpu", dtype="float32", converter=convert
            )

        sae_id, remedy = self.sae_id(layer), self._remedy(layer)
        return take_over(read, sae_id, layer, config, device=device, remedy=remedy)

    def _ids(self) -> dict[int, str]:
        """Layer -> id in the release."""
        release = find_release(self.release)
        if release.format not in FORMATS:
            raise ModelError(
                f"release {release.name} is stored in the format {release.format}, which is not"
                f" supported: use a release in one of {', '.join(FORMATS)}."
            )
        before, after = check_template(self.template)
        pattern = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
        # The input of block L is the output of the one before; block 0's is nobody's.
        earlier = before.endswith("blocks.") and after.startswith(".hook_resid_pre")
        ids = {int(m[1]) - earlier: sae for sae in release.saes if (m := pattern.fullmatch(sae))}
        ids.pop(-1, None)
        if not ids:
            raise ConfigError(
                f"sae.template={self.template!r} matches no SAE of release {release.name} after a"
                f" block; it has ids such as: {', '.join(_some_ids(release, self.template))}."
            )
        return ids

    def _id(self, layer: int) -> str:
        ids = self._ids()
        if layer not in ids:
            raise ModelError(
                f"release {self.release} has no SAE of layer {layer} at {self.template}; layers"
                f" that have one: {', '.join(map(str, sorted(ids)))}."
            )
        return ids[layer]

    def _entry(self, layer: int) -> Mapping[str, Any]:
        return find_release(self.release).saes[self._id(layer)]

    def _names(self, layer: int) -> list[str]:
        return FORMATS[find_release(self.release).format].names(self._entry(layer)["path"])

    def _files(self, layer: int) -> list[Path]:
        """The layer's files, all of one snapshot. Raises ModelError when they cannot be had."""
        repo, names = find_release(self.release).repo, self._names(layer)
        folder = hub.files(repo, names, what=f"SAE {self.sae_id(layer)}")
        return [folder / name for name in names]

    def _remedy(self, layer: int) -> str:
        repo, names = find_release(self.release).repo, " ".join(self._names(layer))
        return f"type: hf download --force-download {repo} {names}, or choose another SAE"

    def _config(self, layer: int) -> dict[str, Any]:
        """The flat config, refused unless it is an SAE of the raw output of block ``layer``."""
        release, entry = find_release(self.release), self._entry(layer)
        sae_id, files = self.sae_id(layer), self._files(layer)
        try:
            config = FORMATS[release.format].config(release.repo, entry["path"], files)
            config = flat({**config, **release.overrides})
            config["d_in"] = int(config["d_in"])
        except pickle.UnpicklingError as error:
            raise ModelError(
                f"SAE {sae_id} holds more than tensors, which would have to be unpickled:"
                " choose another SAE."
            ) from error
        except Exception as error:  # of any kind: the file is not ours
            cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise ModelError(
                f"SAE {sae_id} cannot be read ({cause}); {self._remedy(layer)}."
            ) from error
        check_kind(sae_id, config)
        scaling = config["normalize_activations"]
        if scaling == "expected_average_only_in" and entry.get("norm_scaling_factor") is None:
            raise ModelError(
                f"SAE {sae_id} scales its input (normalize_activations={scaling!r}) by a factor"
                " that sae_lens's registry does not have: choose another SAE."
            )
        hooks = config.get("hook_name"), config.get("hf_hook_name")
        check_block(sae_id, layer, *hooks, remedy="choose another SAE, or leave the layer out.")
        return config


def _some_ids(release: Release, template: str) -> list[str]:
    """A few ids of a release, the nearest to the template first."""
    near = difflib.get_close_matches(template.format(layer=10), release.saes, n=3, cutoff=0.3)
    return near or list(release.saes)[:3]


def _content(file: Path) -> str:
    """sha256 of a file: its blob's name in the Hub's cache, else computed."""
    blob = file.resolve()
    if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name):
        return blob.name
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
