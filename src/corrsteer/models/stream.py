"""A model read over plain text: the residual streams SAEs are trained on, and the loss with one of
them replaced.

All layers come from one pass. The first position of a row, BOS and other special tokens are left
out, as they are everywhere here; so is a position that is an attention sink, whose norm would
outweigh all others in any mean of squares. torch is imported by the functions that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from corrsteer.errors import DataError
from corrsteer.models.loaded import LoadedModel
from corrsteer.models.protocol import UNSTEERED, sinks

if TYPE_CHECKING:
    import torch


class Read(NamedTuple):
    x: torch.Tensor
    """[N, L, M] float32: the outputs of L blocks at N positions."""
    sinks: int
    """Positions left out as attention sinks."""


def rows_of(model: LoadedModel, texts: Iterable[str], length: int) -> Iterator[list[int]]:
    """Rows of at most ``length`` token ids of each text in turn, each with BOS where the tokenizer
    writes one. What is left of a text at its end is a shorter row, if it has 2 tokens.

    Raises DataError where the model has fewer positions.
    """
    room = model._max_positions
    if room is not None and length > room:
        raise DataError(
            f"rows of {length} tokens: model {model._model.name!r} has room for {room}."
        )
    tokenizer = model._tokenizer
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    (whole,) = model._ids(["a"], special=True)
    before = whole[: len(whole) - len(plain)] if whole[len(whole) - len(plain) :] == plain else []
    step = length - len(before)
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        for start in range(0, len(ids), step):
            row = ids[start : start + step]
            if len(row) > 1:
                yield before + row


def read(model: LoadedModel, rows: Sequence[list[int]], layers: Sequence[int]) -> Read:
    """The outputs of these blocks at the positions of some rows that count, in one pass."""
    import torch

    inputs = model._pad_left(rows)
    counted = _counted(model, inputs)
    with torch.no_grad(), model._sent(len(rows), "residuals") as options:
        found, _ = model._residuals(inputs, counted, sorted(layers), counted, UNSTEERED, options)
    x = torch.stack([found[n].to(model.device, torch.float32) for n in layers], 1)
    if not len(x):
        return Read(x, 0)
    sample = counted.nonzero()[:, 0].to(x.device)
    kept = ~torch.stack([sinks(x[:, i], sample) for i in range(len(layers))]).any(0)
    return Read(x[kept], int((~kept).sum()))


def loss(
    model: LoadedModel,
    rows: Sequence[list[int]],
    layer: int = 0,
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[float, int]:
    """(cross-entropy in nats, tokens), summed over the rows; what predicts a token counts unless it
    is padding. ``change`` [N, M] -> [N, M] takes the place of the layer's output at the positions
    that :func:`read` gives, sinks among them: those come in unchanged."""
    import torch

    nats, tokens = 0.0, 0
    lengths = [len(row) for row in rows]
    for batch in model._bounded(lengths, lengths, model._batch_size):
        inputs = model._pad_left([rows[i] for i in batch])
        with torch.no_grad(), model._sent(len(batch), "losses") as options:
            logits = _logits(model, inputs, layer, change, options)
            told = inputs["attention_mask"][:, :-1].bool()  # with a token before the predicted one
            target = inputs["input_ids"][:, 1:][told].to(logits.device)
            found = logits[:, :-1][told.to(logits.device)].float()
            nats += torch.nn.functional.cross_entropy(found, target, reduction="sum").item()
            tokens += len(target)
    return nats, tokens


def _logits(
    model: LoadedModel,
    inputs: dict[str, torch.Tensor],
    layer: int,
    change: Callable[[torch.Tensor], torch.Tensor] | None,
    options: dict[str, Any],
) -> torch.Tensor:
    """The traced lines name nothing of ours but plain values and functions."""
    import nnsight

    counted = _counted(model, inputs)
    wrapped, block, swap, outliers = model._wrapped, model._blocks[layer], change, sinks
    with wrapped.trace(inputs, use_cache=False, **options):
        if swap is not None:
            output = block.output
            hidden = output[0] if isinstance(output, tuple) else output
            at = counted.to(hidden.device, copy=True)
            at[at.clone()] = ~outliers(hidden[at].float(), at.nonzero()[:, 0])
            hidden[at] = swap(hidden[at].float()).to(hidden)
        logits = nnsight.save(wrapped.output.logits)
    return logits


def _counted(model: LoadedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """[B, T] bool"""
    real = inputs["attention_mask"].bool() & (inputs["position_ids"] > 0)
    return real & ~model._specials(inputs)
