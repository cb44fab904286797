"""The files that published SAEs consist of, and how they become sae_lens's config and weights.

sae_lens has a loader for each format, but they ask the Hub again on every load, which may answer
with another version than the one that was fingerprinted; the one of Gemma Scope 2 needs the
network even for files that are there, and the one of Llama Scope gates wrongly (see
:func:`_llama_scope_weights`). These read the given files and nothing else, and never unpickle.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Config = dict[str, Any]
Weights = dict[str, "torch.Tensor"]

FROM_FILES = {
    "apply_b_dec_to_input": False,
    "normalize_activations": "none",
    "dtype": "float32",
    "finetuning_scaling_factor": False,
}
"""Of every format but sae_lens's own, as sae_lens's loaders have it."""


@dataclass(frozen=True)
class Format:
    """How one family of releases keeps an SAE. All three functions raise whatever goes wrong."""

    names: Callable[[str], list[str]]
    """Files in the repository, for an SAE's path in the registry."""
    config: Callable[[str, str, Sequence[Path]], Config]
    """(repository, path, those files) -> a config in sae_lens's words; imports no torch but for
    qwen_scope."""
    weights: Callable[[Config, Sequence[Path]], Weights]
    """(config, those files) -> what ``SAE.load_state_dict`` takes."""


# -- sae_lens's own: cfg.json and sae_weights.safetensors in a folder (which may be named x.pt) --


def _sae_lens_names(path: str) -> list[str]:
    return [f"{path}/cfg.json", f"{path}/sae_weights.safetensors"]


def _sae_lens_config(repo: str, path: str, files: Sequence[Path]) -> Config:
    config: Config = json.loads(files[0].read_text(encoding="utf-8"))
    return config


def _sae_lens_weights(config: Config, files: Sequence[Path]) -> Weights:
    from sae_lens.loading.pretrained_sae_loaders import read_sae_components_from_disk

    weights: Weights = read_sae_components_from_disk(config, files[1], device="cpu")[1]
    return weights


# -- Gemma Scope: arrays in params.npz; jumprelu on the raw residual -----------------------------


def _gemma_2_names(path: str) -> list[str]:
    return [f"{path}/params.npz"]


def _gemma_2_config(repo: str, path: str, files: Sequence[Path]) -> Config:
    with zipfile.ZipFile(files[0]) as archive:
        name = next(n for n in archive.namelist() if n.lower() == "w_enc.npy")
        with archive.open(name) as array:
            major, _ = np.lib.format.read_magic(array)
            header = getattr(np.lib.format, f"read_array_header_{major}_0")(array)
            (d_in, d_sae), *_ = header
    layer = re.search(r"(?:^|/)layer_(\d+)/", path)
    hook = f"blocks.{layer[1]}.hook_resid_post" if layer and repo.endswith("-res") else path
    return _jumprelu(hook, d_in, d_sae)


def _gemma_2_weights(config: Config, files: Sequence[Path]) -> Weights:
    import torch

    with np.load(files[0]) as arrays:  # refuses pickles by default
        return {
            re.sub("^w_", "W_", name): torch.from_numpy(np.asarray(arrays[name], np.float32))
            for name in arrays.files
        }


# -- Gemma Scope 2: the same in params.safetensors -----------------------------------------------


def _gemma_3_names(path: str) -> list[str]:
    return [f"{path}/params.safetensors"]


def _gemma_3_config(repo: str, path: str, files: Sequence[Path]) -> Config:
    from safetensors import safe_open

    with safe_open(files[0], framework="numpy") as tensors:
        d_in, d_sae = tensors.get_slice("w_enc").get_shape()
    site = re.fullmatch(r"resid_post(?:_all)?/layer_(\d+)_\w+", path)
    config = _jumprelu(f"blocks.{site[1]}.hook_resid_post" if site else path, d_in, d_sae)
    # Not fetched, since some releases have none; where it is, it has to agree.
    beside = files[0].parent / "config.json"
    if beside.is_file():
        own = json.loads(beside.read_text(encoding="utf-8"))
        config["hf_hook_name"] = own.get("hf_hook_point_in")
        if own.get("architecture") != "jump_relu":
            config["architecture"] = own.get("architecture")
    return config


def _gemma_3_weights(config: Config, files: Sequence[Path]) -> Weights:
    tensors = all_tensors(files[0])
    matrices = {"W_enc": tensors["w_enc"], "W_dec": tensors["w_dec"]}
    return matrices | {name: tensors[name] for name in ("b_enc", "b_dec", "threshold")}


# -- Llama Scope: hyperparams.json and checkpoints/final.safetensors -----------------------------


def _llama_scope_names(path: str) -> list[str]:
    return [f"{path}/hyperparams.json", f"{path}/checkpoints/final.safetensors"]


def _llama_scope_config(repo: str, path: str, files: Sequence[Path]) -> Config:
    own = json.loads(files[0].read_text(encoding="utf-8"))
    hook = own["hook_point_in"]
    if own.get("hook_point_out", hook) != hook:
        hook = f"{hook} and writes to {own['hook_point_out']}"
    config = _jumprelu(hook, own["d_model"], own["d_sae"])
    if own.get("act_fn", "jumprelu") != "jumprelu":
        config["architecture"] = own["act_fn"]
    factor = math.sqrt(own["d_model"]) / own["dataset_average_activation_norm"]["in"]
    return {**config, "input_factor": factor, "jump_relu_threshold": own["jump_relu_threshold"]}


def _llama_scope_weights(config: Config, files: Sequence[Path]) -> Weights:
    """Weights for the raw residual, with decoder rows of length 1.

    Trained as ``h = s x @ W_enc + b_enc`` and gated by ``h |W_dec| / s > threshold``, with s the
    input factor (OpenMOSS's ``standardize_parameters_of_dataset_norm`` and
    ``transform_to_unit_decoder_norm``). sae_lens gates by ``h / s > threshold``, which is another
    set of active features wherever decoder rows are not of length 1. Here ``h |W_dec| / s`` is
    the pre-activation: the same as loading with ``fold_W_dec_norm=True`` and putting the raw
    threshold back.
    """
    import torch

    raw = all_tensors(files[1])
    # In place, since a matrix may take 2 GB; a mapped file's pages are copied when written to.
    decoder = raw.pop("decoder.weight").T.contiguous()
    norms = decoder.norm(dim=1).clamp(min=1e-8)
    factor = config["input_factor"]
    return {
        "W_enc": raw["encoder.weight"].T.mul_(norms),
        "b_enc": raw["encoder.bias"] * norms / factor,
        "W_dec": decoder.div_(norms[:, None]),
        "b_dec": raw["decoder.bias"] / factor,
        "threshold": torch.full_like(norms, config["jump_relu_threshold"]),
    }


# -- Qwen Scope: four tensors in layerN.sae.pt; topk ---------------------------------------------


def _qwen_scope_names(path: str) -> list[str]:
    return [path]


def _qwen_scope_config(repo: str, path: str, files: Sequence[Path]) -> Config:
    d_sae, d_in = plain_tensors(files[0])["W_enc"].shape
    k, layer = re.search(r"-L0_(\d+)$", repo), re.fullmatch(r"layer(\d+)\.sae\.pt", path)
    if k is None or layer is None:
        raise ValueError(f"{repo}/{path} does not say its k or its layer")
    return {
        **FROM_FILES,
        "architecture": "topk",
        "activation_fn": "topk",
        "activation_fn_kwargs": {"k": int(k[1])},
        "d_in": d_in,
        "d_sae": d_sae,
        "hook_name": f"blocks.{layer[1]}.hook_resid_post",
        "hf_hook_name": f"model.layers.{layer[1]}",
    }


def _qwen_scope_weights(config: Config, files: Sequence[Path]) -> Weights:
    import torch

    raw = plain_tensors(files[0])
    raw |= {"W_enc": raw["W_enc"].T, "W_dec": raw["W_dec"].T}
    wanted = ("W_enc", "W_dec", "b_enc", "b_dec")
    return {name: raw[name].to(torch.float32).contiguous() for name in wanted}


FORMATS = {
    "sae_lens": Format(_sae_lens_names, _sae_lens_config, _sae_lens_weights),
    "gemma_2": Format(_gemma_2_names, _gemma_2_config, _gemma_2_weights),
    "gemma_3": Format(_gemma_3_names, _gemma_3_config, _gemma_3_weights),
    "llama_scope": Format(_llama_scope_names, _llama_scope_config, _llama_scope_weights),
    "qwen_scope": Format(_qwen_scope_names, _qwen_scope_config, _qwen_scope_weights),
}
"""By sae_lens's ``conversion_func``."""


def _jumprelu(hook: str, d_in: int, d_sae: int) -> Config:
    return {
        **FROM_FILES,
        "architecture": "jumprelu",
        "activation_fn": "relu",
        "d_in": d_in,
        "d_sae": d_sae,
        "hook_name": hook,
    }


def all_tensors(file: Path) -> Weights:
    """Tensors of a safetensors file, in float32."""
    import torch
    from safetensors.torch import load_file

    return {name: tensor.to(torch.float32) for name, tensor in load_file(file).items()}


def plain_tensors(file: Path) -> Weights:
    """Tensors of a .pt file, mapped into memory. Raises UnpicklingError for anything else."""
    import torch

    # Files of torch before 1.6 are not zip archives and cannot be mapped.
    mapped = zipfile.is_zipfile(file)
    tensors: Weights = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    return tensors
