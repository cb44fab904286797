"""The residual streams of the pass that writes the answers, for who reads along.

They are there while the model answers, so a second pass over prompt and answer is saved; they
differ from what that pass gives (:meth:`corrsteer.models.loaded.LoadedModel.replay`) by rounding.
Memory: those of one batch at its generation positions. torch is imported by the functions that
need it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corrsteer.models.protocol import Residuals

if TYPE_CHECKING:
    import torch

BYTES = 2**30
"""What the residuals of one batch may take; a larger batch is answered in halves. A single sample
may take more."""

Steps = dict[int, list["torch.Tensor"]]
"""Layer -> the output of that block [B, M] at each step, at the position that chose its token."""


@dataclass(frozen=True)
class Listener:
    """Who reads along: ``hear`` gets the indices of some prompts, what was written after each, and
    the residuals of those layers at its generation positions, special tokens left out."""

    layers: Sequence[int]
    hear: Callable[[list[int], list[tuple[int, ...]], Residuals], None]

    def halved(self, batches: Sequence[list[int]], steps: int, width: int) -> list[list[int]]:
        """The batches, halved until what is heard of one at ``steps`` positions per sample, so wide
        and in float32, fits into ``BYTES``."""
        fit: list[list[int]] = []
        for batch in batches:
            if len(batch) > 1 and len(batch) * steps * len(self.layers) * width * 4 > BYTES:
                half = (len(batch) + 1) // 2
                fit += self.halved([batch[:half], batch[half:]], steps, width)
            else:
                fit.append(batch)
        return fit


@contextmanager
def heard(blocks: Mapping[int, Any]) -> Iterator[Steps]:
    """Around transformers' ``generate``: what modules, by layer, put out at the last position of
    every pass."""
    steps: Steps = {layer: [] for layer in blocks}

    def hook(layer: int) -> Callable[[Any, Any, Any], None]:
        def keep(module: Any, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            steps[layer].append(hidden[:, -1].clone())

        return keep

    handles = [block.register_forward_hook(hook(layer)) for layer, block in blocks.items()]
    try:
        yield steps
    finally:
        for handle in handles:
            handle.remove()


def residuals(
    steps: Steps,
    rows: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    special: Collection[int],
) -> Residuals:
    """What :meth:`corrsteer.models.loaded.LoadedModel.replay` gives of the token source
    ``generated``. ``rows`` and ``answers``: token ids; ``special``: ids that never count."""
    import torch

    device = next(iter(steps.values()))[0].device

    width = max(map(len, answers))
    read = [[row[-1], *answer[:-1]] for row, answer in zip(rows, answers, strict=True)]
    ids = torch.tensor([some + [-1] * (width - len(some)) for some in read], device=device)
    counted = (ids >= 0) & ~torch.isin(ids, torch.tensor(sorted(special), device=device))
    sample, step = counted.nonzero().unbind(1)
    last = torch.tensor([len(row) - 1 for row in rows], device=device)[sample]
    lengths = torch.tensor([len(answer) for answer in answers], device=device)[sample]
    return Residuals(
        layers={
            layer: torch.stack(some[:width], 1)[counted.to(some[0].device)].to(
                device, torch.float32
            )
            for layer, some in steps.items()
        },
        sample=sample,
        token=ids[counted],
        position=last + step,
        last=last,
        end=last + lengths,
    )
