"""SAE folders as other tools leave them: where the SAE of each layer lies, and how it is read.

Besides sae_lens's own there are Gemma Scope's as downloaded, EleutherAI's sparsify and
dictionary_learning. Files are read as :mod:`corrsteer.saes.formats` reads those of the Hub: nothing
is unpickled. Where a layer has several SAEs, or a file does not say its site, nothing is guessed.
Cost: a look at the folders; weights are read by ``Layout.weights`` alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from corrsteer.errors import ModelError
from corrsteer.saes import formats
from corrsteer.saes.formats import Config, Weights
from corrsteer.saes.provider import check_template

DEFAULT = "layer_{layer}"
OTHERS = ("layers.{layer}", "resid_post_layer_{layer}", "blocks.{layer}.hook_resid_post")
"""How other tools call the folder of a layer; tried where nothing is named as by DEFAULT."""


@dataclass(frozen=True)
class Layout:
    """How one tool keeps an SAE in a folder. Both functions raise whatever goes wrong."""

    files: tuple[str, ...]
    config: Callable[[Sequence[Path]], Config]
    """Those files -> a config in sae_lens's words; imports no torch."""
    weights: Callable[[Config, Sequence[Path]], Weights]
    """(config, those files) -> what ``SAE.load_state_dict`` takes."""


# -- finding -------------------------------------------------------------------------------------


def places(path: str, template: str) -> dict[int, Path]:
    """Layer -> the folder with its SAE's files, where there is exactly one.

    A number may have zeros in front, and ``*`` in the template stands for part of a name. Raises
    ModelError when there is none, or several for a layer.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ModelError(
            f"sae.path={path!r} {'is a file' if root.exists() else 'does not exist'}: give the"
            " folder that has one folder per layer."
        )
    named = _named(root, template)
    if not named and template == DEFAULT:
        fitting = [found for other in OTHERS if (found := _named(root, other))]
        if len(fitting) > 1:
            both = " and ".join(next(iter(found.values()))[0].name for found in fitting)
            raise ModelError(
                f"sae.path={path!r} holds folders such as {both}: say by sae.template which are"
                " meant, such as sae.template='layers.{layer}'."
            )
        named = fitting[0] if fitting else {}
    if not named:
        if layout_of(root) is not None:
            raise ModelError(
                f"sae.path={path!r} is itself one SAE: give its parent, sae.path="
                f"{str(root.absolute().parent)!r}, in which its folder is named as by sae.template"
                f" ({template})."
            )
        raise ModelError(
            f"sae.path={path!r} holds no folder named {template!r}{_listed(root)}: give the folder"
            " that has one sae_lens folder per layer, or set sae.template."
        )
    return {layer: _one(path, template, layer, folders) for layer, folders in sorted(named.items())}


def _named(root: Path, template: str) -> dict[int, list[Path]]:
    """Layer -> the folders that a template names."""
    before, after = check_template(template)
    free = [re.escape(part).replace(r"\*", "[^/]*") for part in (before, after)]
    pattern = re.compile(free[0] + r"(\d+)" + free[1])
    found: dict[int, list[Path]] = {}
    for folder in sorted(root.glob(f"{before}*{after}")):
        match = pattern.fullmatch(folder.relative_to(root).as_posix())
        if match and folder.is_dir():
            found.setdefault(int(match[1]), []).append(folder)
    return found


def _one(path: str, template: str, layer: int, folders: Sequence[Path]) -> Path:
    """The only SAE in or below the folders of a layer."""
    inside = [
        below
        for folder in folders
        for below in [folder, *sorted(f for f in folder.rglob("*") if f.is_dir())]
        if layout_of(below) is not None
    ]
    if len(inside) > 1:
        root = Path(path).expanduser()
        names = ", ".join(f.relative_to(root).as_posix() for f in inside[:3])
        example = inside[0].relative_to(root).as_posix().replace(str(layer), "{layer}", 1)
        raise ModelError(
            f"sae.path={path!r} has {len(inside)} SAEs of layer {layer} ({names}): say which is"
            f" meant, such as sae.template='{example}'; * stands for any part of a name."
        )
    # Without any, the folder itself: what it lacks is told when it is read.
    return inside[0] if inside else folders[0]


def _listed(root: Path) -> str:
    names = sorted(f.name for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    more = ", ..." if len(names) > 4 else ""
    return f" (it holds {', '.join(names[:4])}{more})" if names else ""


# -- sae_lens's own ------------------------------------------------------------------------------


def _json(file: Path) -> Config:
    values: Config = json.loads(file.read_text(encoding="utf-8-sig"))
    if not isinstance(values, dict):
        raise ValueError(f"{file.name} is no object")
    return values


def _sae_lens_weights(config: Config, files: Sequence[Path]) -> Weights:
    return formats.FORMATS["sae_lens"].weights(config, files)


# -- Gemma Scope as downloaded: layer_3/width_16k/average_l0_59/params.npz -----------------------


def _gemma_config(files: Sequence[Path]) -> Config:
    """Its files do not name their site, but its repositories do: ``-res`` is the residual."""
    repo = next((p.name for p in files[0].parents if re.search("-(res|att|mlp)$", p.name)), "")
    if not repo.endswith("-res"):
        raise ValueError(
            f"params.npz does not say its site{f', and {repo} is another one' if repo else ''}: put"
            " SAEs of the residual stream below a folder named as by Google, gemma-scope-2b-pt-res"
        )
    return formats.FORMATS["gemma_2"].config(repo, files[0].as_posix(), files)


def _gemma_weights(config: Config, files: Sequence[Path]) -> Weights:
    return formats.FORMATS["gemma_2"].weights(config, files)


# -- EleutherAI's sparsify: layers.3/cfg.json and sae.safetensors --------------------------------


def _sparsify_config(files: Sequence[Path]) -> Config:
    own = _json(files[0])
    kind = own.get("activation", "topk")
    if kind != "topk" or own.get("signed"):
        raise ValueError(f"its activation is {'signed ' * bool(own.get('signed'))}{kind}, not topk")
    if own.get("transcode") or own.get("skip_connection"):
        raise ValueError("it is a transcoder")
    site = re.fullmatch(r"(?:.*\.)?(?:layers|h)\.(\d+)", files[0].parent.name)
    d_in = int(own["d_in"])
    return {
        **formats.FROM_FILES,
        "architecture": "topk",
        "activation_fn": "topk",
        "activation_fn_kwargs": {"k": int(own["k"])},
        "apply_b_dec_to_input": True,
        "d_in": d_in,
        "d_sae": int(own.get("num_latents") or d_in * own["expansion_factor"]),
        # A hook point of a module is its output.
        "hook_name": f"blocks.{site[1]}.hook_resid_post" if site else files[0].parent.name,
    }


def _sparsify_weights(config: Config, files: Sequence[Path]) -> Weights:
    raw = formats.all_tensors(files[1])
    return {
        "W_enc": raw["encoder.weight"].T.contiguous(),
        "b_enc": raw["encoder.bias"],
        "W_dec": raw["W_dec"],
        "b_dec": raw["b_dec"],
    }


# -- dictionary_learning: resid_post_layer_3/trainer_0/config.json and ae.pt ---------------------

_CLASSES = {
    "AutoEncoder": "standard",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "jumprelu",
    "MatryoshkaBatchTopKSAE": "jumprelu",
    "GatedAutoEncoder": "gated",
}
"""Its classes, and what they are when they are used. Its JumpReluAutoEncoder is not among them: it
may or may not subtract the decoder's bias, and its files do not say."""


def _learned_config(files: Sequence[Path]) -> Config:
    own = _json(files[0])["trainer"]
    name = own["dict_class"]
    if name not in _CLASSES:
        raise ValueError(f"{name} is none of {', '.join(_CLASSES)}")
    site = re.fullmatch(r"resid_post_layer_(\d+)", str(own["submodule_name"]))
    config = {
        **formats.FROM_FILES,
        "architecture": _CLASSES[name],
        "activation_fn": "relu",
        "apply_b_dec_to_input": True,
        "d_in": int(own["activation_dim"]),
        "d_sae": int(own["dict_size"]),
        "hook_name": f"blocks.{site[1]}.hook_resid_post" if site else str(own["submodule_name"]),
        "model_name": own.get("lm_name"),
    }
    if name == "AutoEncoderTopK":
        config |= {"activation_fn": "topk", "activation_fn_kwargs": {"k": int(own["k"])}}
    return config


def _learned_weights(config: Config, files: Sequence[Path]) -> Weights:
    raw = formats.plain_tensors(files[1])
    # Linear layers keep the transposed matrix; the biases have had several names.
    read = {
        "W_enc": raw["W_enc"] if "W_enc" in raw else raw["encoder.weight"].T,
        "W_dec": raw["W_dec"] if "W_dec" in raw else raw["decoder.weight"].T,
        "b_dec": next(raw[n] for n in ("b_dec", "bias", "decoder_bias") if n in raw),
    }
    if config["architecture"] == "gated":
        read |= {"b_gate": raw["gate_bias"], "b_mag": raw["mag_bias"], "r_mag": raw["r_mag"]}
    else:
        read["b_enc"] = raw["b_enc"] if "b_enc" in raw else raw["encoder.bias"]
    if config["architecture"] == "jumprelu":
        read["threshold"] = raw["threshold"].expand(read["W_enc"].shape[1])  # one for all features
    return {name: tensor.float().contiguous() for name, tensor in read.items()}


SAE_LENS = Layout(("cfg.json", "sae_weights.safetensors"), lambda f: _json(f[0]), _sae_lens_weights)
LAYOUTS = (
    SAE_LENS,
    Layout(("cfg.json", "sae.safetensors"), _sparsify_config, _sparsify_weights),
    Layout(("config.json", "ae.pt"), _learned_config, _learned_weights),
    Layout(("params.npz",), _gemma_config, _gemma_weights),
)


def layout_of(folder: Path) -> Layout | None:
    """How the SAE in a folder is kept; None where there is none."""
    for layout in LAYOUTS:
        if all((folder / name).is_file() for name in layout.files):
            return layout
    return None
