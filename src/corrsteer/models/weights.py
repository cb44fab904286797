"""Weights from disk into memory, every one of them.

transformers warns about what it does not find and goes on with random numbers; what it warns about
is an error here. Cost: besides loading, one pass over the weights, for NaN and infinity.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from corrsteer.errors import ModelError
from corrsteer.models.spec import Model

if TYPE_CHECKING:
    import torch

_BUFFERS = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.inv_freq$|position_ids$")
"""Constants that old checkpoints hold, and newer code makes itself."""


def load(model: Model, dtype: str, device_map: str | None) -> torch.nn.Module:
    """The language model, on the CPU or spread by ``device_map``. Raises ModelError when a weight
    is missing, of another shape, or of no use in a part that is there."""
    folder = model.folder()
    model.config()  # has better words for what is wrong with it
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    try:
        with quiet():
            module, told = _class(config).from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                device_map=device_map,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # told below, with their names
                output_loading_info=True,
            )
    except Exception as error:  # of any kind: the files are not ours
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"model.path={model.path!r} cannot be loaded ({cause[:300]}); give a folder with"
            " config.json, *.safetensors and tokenizer.json, or a Hub id."
        ) from error
    if wrong := _wrong(module, told):
        raise ModelError(f"model.path={model.path!r}: {wrong}; give the whole, unchanged model.")
    return module


def check_numbers(model: Model, module: torch.nn.Module) -> None:
    """Raise ModelError, naming a weight, where one is not finite. Sums pass NaN and infinity on,
    and take no memory; do it where the weights are to be used, since a CPU adds slowly."""
    import torch

    for name, weight in module.named_parameters():
        if weight.is_floating_point() and not weight.sum(dtype=torch.float32).isfinite():
            raise ModelError(
                f"model.path={model.path!r}: {name} is not finite (nan or inf): run the model in"
                " float32 (model.dtype=float32), or give a model whose weights are numbers."
            )


def _class(config: Any) -> Any:
    """AutoModelForCausalLM or, for a config that it does not know, the class that it names."""
    import transformers

    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        for name in config.architectures or ():
            if hasattr(transformers, name):
                return getattr(transformers, name)
    return transformers.AutoModelForCausalLM


def _wrong(module: torch.nn.Module, told: Mapping[str, Any]) -> str:
    """What transformers tells of the weights, in words; empty if all is well."""
    missing, mismatched = sorted(told["missing_keys"]), sorted(told["mismatched_keys"])
    parts = {name for name, _ in module.named_modules() if name}
    # A checkpoint may hold more than a language model (an image encoder, a value head): that is
    # left out. But a weight for a part that is there, or for one more block, changes what it does.
    blocks = {name.rpartition(".")[0] for name in parts if name.rpartition(".")[2].isdigit()}
    unused = sorted(
        key
        for key in told["unexpected_keys"]
        if not _BUFFERS.search(key)
        and (key.rpartition(".")[0] in parts or any(key.startswith(f"{b}.") for b in blocks))
    )
    if missing:
        return f"the weights lack {missing[0]}{_more(missing)}, which would be random"
    if mismatched:
        name, found, wanted = mismatched[0]
        return (
            f"{name}{_more(mismatched)} has the shape {list(found)}, but config.json asks for"
            f" {list(wanted)}"
        )
    if unused:
        return (
            f"the weights hold {unused[0]}{_more(unused)}, for which config.json has no place,"
            " so it would be left out"
        )
    return ""


def _more(keys: list[Any]) -> str:
    return f" and {len(keys) - 1} more" if len(keys) > 1 else ""


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars for reading and writing weights and its tables of them, which
    would break up the program's own lines."""
    from transformers.utils import logging

    had_bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bar:
            logging.enable_progress_bar()
