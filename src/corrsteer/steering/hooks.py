"""A plan on a plain transformers model, by forward hooks: no nnsight, no SAE, no config.

Cost: one small Python call per steered layer and forward pass, besides what the operator does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corrsteer.errors import ModelError
from corrsteer.steering.identity import is_other, made_for
from corrsteer.steering.positions import Where, where
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
    """Steer ``model`` at the plan's positions while the block runs. Greedy decoding, sampling and
    beams, with and without a cache, batches padded on the left; not assisted decoding, whose passes
    hold several new tokens.

    A pass of several tokens, or without earlier ones in its cache, reads a prompt, the next ones
    its answer. With use_cache=False a pass goes on where the last one ended if it has its tokens
    and one more.

    Raises ModelError for a plan made for another model, architecture or width, or whose gate
    decides for whole answers, ValueError for a batch padded on the right, TypeError for what is no
    model.
    """
    import torch

    if not (isinstance(model, torch.nn.Module) and hasattr(model, "get_decoder")):
        raise TypeError(
            f"steer takes a causal language model of transformers, not a {type(model).__name__}; of"
            " a pipeline give pipeline.model"
        )
    if plan.asked_at is not None:
        raise ModelError(
            f"gate {type(plan.gate).__name__} decides for a whole answer by a pass over the prompt"
            " of its own, which hooks do not make: answer with corrsteer.Model, or take a plan with"
            " another gate"
        )
    told = made_for(plan)
    wanted, config = told.get("architecture"), model.config.get_text_config()
    if wanted not in (None, config.model_type):
        raise ModelError(
            f"the plan was made for a {wanted}, but this model is a {config.model_type}: use a"
            f" {wanted} model"
        )
    layers = blocks(model, "the model")
    for entry in plan.entries:
        if not 0 <= entry.layer < len(layers) or entry.vector.shape != (config.hidden_size,):
            raise ModelError(
                f"the plan has a vector of width {entry.vector.size} at layer {entry.layer}; this"
                f" model has layers 0 to {len(layers) - 1} of width {config.hidden_size}"
            )
    if is_other(plan, model):
        raise ModelError(
            f"the plan was made for another model ({told.get('name')}) than the one in"
            f" {model.config._name_or_path}: load that one or, to try the plan on this one, type"
            " plan.for_any_model().steer(model)"
        )
    hooks = []
    try:
        hooks.append(model.register_forward_pre_hook(_refuse_right_padding, with_kwargs=True))
        now = _Now(where(plan.positions))
        hooks.append(model.register_forward_pre_hook(now.read, with_kwargs=True))
        for layer, arrays in ({} if plan.is_off else plan.parts()).items():
            home = next(layers[layer].parameters()).device
            parts = {name: torch.tensor(part, device=home) for name, part in arrays.items()}
            hook = _hook(now, parts, plan.dial, plan.operator.apply, plan.gate.open)
            hooks.append(layers[layer].register_forward_hook(hook))
        yield model
    finally:
        for handle in hooks:
            handle.remove()


@dataclass
class _Now:
    """Where a plan acts in the pass at hand."""

    where: Where
    prompt: torch.Tensor | None = None
    """[B, P], of the text that is being written."""
    length: int = 0
    seen: int = 0
    """Tokens of the prompt, and of all passes, padding included."""
    at: torch.Tensor | bool = False
    """[B, T] bool; True for the last position of the pass, False for none."""

    def read(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        import torch

        ids = args[0] if args else kwargs.get("input_ids")
        new = ids if ids is not None else kwargs["inputs_embeds"]
        width, cache = new.shape[1], kwargs.get("past_key_values")
        before = 0 if cache is None else int(cache.get_seq_length())
        anew = kwargs.get("use_cache") is False and self._goes_on(ids, before)
        if (before == 0 or width > 1) and not anew:
            self.prompt, self.length = ids, before + width
        self.seen = before + width
        steps = torch.arange(before, self.seen, device=new.device) - (self.length - 1)
        acts = self.where.of(steps)
        mask: Any = kwargs.get("attention_mask")
        if not acts[:-1].any():
            self.at = bool(acts[-1])
        elif torch.is_tensor(mask) and mask.ndim == 2:
            self.at = acts & mask[:, -width:].bool()
        else:  # no padding, or masked so that no other position reads it
            self.at = acts.expand(new.shape[0], -1)

    def _goes_on(self, ids: torch.Tensor | None, before: int) -> bool:
        """Whether a pass that reads all tokens anew has one more than the last one."""
        if before or ids is None or self.prompt is None or ids.shape[1] != self.seen + 1:
            return False
        begun = ids[:, : self.length]
        return begun.shape == self.prompt.shape and bool((begun == self.prompt).all())


def _hook(now: _Now, parts: Parts, dial: float, apply: Apply, opens: Open | None) -> Any:
    def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if now.at is True:
            hidden[:, -1] = changed(hidden[:, -1], parts, dial, apply, opens)
        elif now.at is not False:
            at = now.at.to(hidden.device)
            hidden[at] = changed(hidden[at], parts, dial, apply, opens)

    return hook


def _refuse_right_padding(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.ndim == 2 and not bool(mask[:, -1].all()):
        raise ValueError(
            "the batch is padded on the right, so its last position is padding: make it with"
            " padding_side='left'"
        )
