"""A plan on a plain transformers model, by forward hooks: no nnsight, no SAE, no config.

Cost: one small Python call per steered layer and forward pass, besides what the operator does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from corrsteer.errors import ConfigError, ModelError
from corrsteer.steering.protocol import Apply, Open, Parts

if TYPE_CHECKING:
    import torch

    from corrsteer.steering.plan import Plan


def blocks(module: torch.nn.Module, name: str) -> list[torch.nn.Module]:
    """The blocks of a causal language model: the decoder's only list of ``num_hidden_layers``
    modules. The decoder, so that an image encoder with as many blocks is not taken for it.

    Raises ModelError, naming the model ``name``, for an architecture that has no such list.
    """
    import torch

    model: Any = module
    n_layers = model.config.get_text_config().num_hidden_layers
    lists = [
        part
        for part in model.get_decoder().modules()
        if isinstance(part, torch.nn.ModuleList) and len(part) == n_layers
    ]
    if len(lists) != 1:
        raise ModelError(
            f"{name} ({type(module).__name__}): expected one list of {n_layers} blocks, found"
            f" {len(lists)}; this architecture is not supported."
        )
    return list(lists[0])


def changed(x: torch.Tensor, parts: Parts, dial: float, apply: Apply, opens: Open | None) -> Any:
    """``x`` [..., M] after an operator, where a gate is open; the gate reads ``x`` as it was."""
    if opens is None:
        new = apply(x, parts, dial)
    else:
        is_open = opens(x, parts, dial)
        if is_open.shape != x.shape[:-1] or str(is_open.dtype) != "torch.bool":
            raise ValueError(
                f"a gate made {is_open.dtype} {list(is_open.shape)} of {list(x.shape)}: it must"
                f" make torch.bool {list(x.shape[:-1])}"
            )
        # An operator that writes into what it is given must not reach the rows that stay.
        new = apply(x.clone(), parts, dial).where(is_open[..., None], x)
    if new.shape != x.shape:
        raise ValueError(f"an operator made {list(new.shape)} of {list(x.shape)}")
    return new


@contextmanager
def steered(model: torch.nn.Module, plan: Plan) -> Iterator[torch.nn.Module]:
    """Steer ``model`` while the block runs: the last position of every forward pass, which is the
    last prompt token and then every generated token. Greedy decoding, sampling and beams, batches
    padded on the left; not assisted decoding, whose passes hold several new tokens.

    Raises ModelError for a plan made for another architecture or width, ConfigError for a plan with
    other positions, ValueError for a batch padded on the right, TypeError for what is no model.
    """
    import torch

    if not (isinstance(model, torch.nn.Module) and hasattr(model, "get_decoder")):
        raise TypeError(
            f"steer takes a causal language model of transformers, not a {type(model).__name__}; of"
            " a pipeline give pipeline.model"
        )
    if plan.positions != "generation":
        raise ConfigError(
            f"the plan acts at positions={plan.positions}; hooks steer positions=generation only"
        )
    made_for = (plan.about.get("model") or {}).get("architecture")
    config = model.config.get_text_config()
    if made_for not in (None, config.model_type):
        raise ModelError(
            f"the plan was made for a {made_for}, but this model is a {config.model_type}: use a"
            f" {made_for} model"
        )
    layers = blocks(model, "the model")
    for entry in plan.entries:
        if not 0 <= entry.layer < len(layers) or entry.vector.shape != (config.hidden_size,):
            raise ModelError(
                f"the plan has a vector of width {entry.vector.size} at layer {entry.layer}; this"
                f" model has layers 0 to {len(layers) - 1} of width {config.hidden_size}"
            )
    hooks = []
    try:
        hooks.append(model.register_forward_pre_hook(_refuse_right_padding, with_kwargs=True))
        for layer, arrays in ({} if plan.is_off else plan.parts()).items():
            home = next(layers[layer].parameters()).device
            parts = {name: torch.tensor(part, device=home) for name, part in arrays.items()}
            hook = _hook(parts, plan.dial, plan.operator.apply, plan.gate.open)
            hooks.append(layers[layer].register_forward_hook(hook))
        yield model
    finally:
        for handle in hooks:
            handle.remove()


def _hook(parts: Parts, dial: float, apply: Apply, opens: Open | None) -> Any:
    def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[:, -1] = changed(hidden[:, -1], parts, dial, apply, opens)

    return hook


def _refuse_right_padding(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.ndim == 2 and not bool(mask[:, -1].all()):
        raise ValueError(
            "the batch is padded on the right, so its last position is padding: make it with"
            " padding_side='left'"
        )
