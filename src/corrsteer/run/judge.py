"""How good a dictionary is, on text it was not trained on: what it explains, how many features are
active or never are, and how much of the model's loss is kept when its reconstruction takes the
residual stream's place.

Cost: a pass over the held-out rows, and two passes per layer over those the loss is measured on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrsteer.models.loaded import LoadedModel
from corrsteer.models.stream import loss, read
from corrsteer.progress import progress
from corrsteer.saes.folder import Folder
from corrsteer.saes.loaded import LoadedSAE
from corrsteer.saes.recipe import READ, TrainSAE

if TYPE_CHECKING:
    import torch


def judged(
    recipe: TrainSAE,
    model: LoadedModel,
    folder: Path,
    layers: Sequence[int],
    rows: Sequence[list[int]],
) -> list[dict[str, Any]]:
    """For each layer: ``explained`` (1 - squared error / variance, both summed over positions),
    ``l0``, ``dead`` (share of features active nowhere in ``positions``); and the cross-entropy in
    nats per token unchanged, with the reconstruction and with zeros in place (``loss``,
    ``loss_sae``, ``loss_zero``), ``recovered`` = (zero - sae) / (zero - unchanged). None where no
    loss was asked for. The SAEs are loaded as anybody would, from ``folder``.
    """
    saes = {n: Folder(str(folder)).load(n, str(model.device)) for n in layers}
    sums = {n: _Sums(sae) for n, sae in saes.items()}
    wanted = _up_to(rows, recipe.heldout_positions)
    with progress("measure reconstruction", len(wanted)) as show:
        step = max(1, READ // recipe.context)
        for at in range(0, len(wanted), step):
            x = read(model, wanted[at : at + step], layers).x
            for i, n in enumerate(layers):
                sums[n].add(x[:, i])
            show(at)
    few = _up_to(rows, recipe.loss_positions)
    if not few:
        none = dict.fromkeys(("loss", "loss_sae", "loss_zero", "recovered"))
        return [{"layer": n, **sums[n].result(), **none} for n in layers]
    made = []
    with progress("measure loss", len(layers)) as show:
        clean = _per_token(model, few)
        for i, n in enumerate(layers):
            sae = saes[n]
            kept = _per_token(model, few, n, lambda x, s=sae: s.reconstruct(x)[0])
            zero = _per_token(model, few, n, lambda x: x * 0)
            losses = {"loss": clean, "loss_sae": kept, "loss_zero": zero}
            recovered = (zero - kept) / (zero - clean) if zero != clean else None
            made.append({"layer": n, **sums[n].result(), **losses, "recovered": recovered})
            show(i + 1)
    return made


def _per_token(model: LoadedModel, rows: Sequence[list[int]], *swap: Any) -> float:
    nats, tokens = loss(model, rows, *swap)
    return nats / max(1, tokens)


def _up_to(rows: Sequence[list[int]], positions: int) -> Sequence[list[int]]:
    """Rows with at least so many positions, or all, evenly over those that there are."""
    if not positions:
        return []
    return rows[:: max(1, sum(len(row) - 1 for row in rows) // positions)]


class _Sums:
    """Of one layer, in float64; deviations from the first batch's mean, so that nothing cancels."""

    def __init__(self, sae: LoadedSAE) -> None:
        self.sae = sae
        self.n, self.l0, self.error, self.squares = 0, 0.0, 0.0, 0.0
        self.shift: torch.Tensor | None = None
        self.total: Any = 0
        self.alive: Any = 0

    def add(self, x: torch.Tensor) -> None:
        if not len(x):
            return
        if self.shift is None:
            self.shift = x.double().mean(0)
        acts = self.sae.encode(x)
        x_hat, _ = self.sae.reconstruct(x)
        off = x.double() - self.shift
        self.n += len(x)
        self.l0 += float((acts > 0).sum())
        self.alive = self.alive + (acts > 0).sum(0)
        self.error += float((x.double() - x_hat.double()).square().sum())
        self.total = self.total + off.sum(0)
        self.squares += float(off.square().sum())

    def result(self) -> dict[str, Any]:
        variance = self.squares - float((self.total / self.n).square().sum()) * self.n
        return {
            "positions": self.n,
            "explained": 1 - self.error / variance,
            "l0": self.l0 / self.n,
            "dead": float((self.alive == 0).float().mean()),
        }
