"""The residual stream's own coordinates in the place of an SAE's features: what steering without a
dictionary is compared by.

Feature ``i`` of width M is the positive part of coordinate i, feature ``M + i`` its negative part,
and each writes along its axis, so that together they write the residual back as it is. Cost: a
product with a matrix of [M, 2 M] per position, as of an SAE with as many features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from corrsteer.errors import ModelError

if TYPE_CHECKING:
    from corrsteer.saes.loaded import LoadedSAE


@dataclass(frozen=True)
class Coordinates:
    """Of a residual stream of ``width``, at as many ``blocks``."""

    width: int
    blocks: int
    name: ClassVar[str] = "coordinates"
    check: ClassVar[str] = "off"
    budget_gb: float = 4.0

    def layers(self) -> tuple[int, ...]:
        return tuple(range(self.blocks))

    def sae_id(self, layer: int) -> str:
        return f"coordinates of block {layer}"

    def fingerprint(self, layer: int) -> str:
        return f"coordinates-{self.width}"

    def neuronpedia(self, layer: int) -> str | None:
        return None

    def trained_on(self, layer: int) -> str | None:
        return None

    def validate(self, layer: int, d_model: int) -> None:
        if d_model != self.width:
            raise ModelError(f"coordinates of width {self.width} in a residual of {d_model}")

    def load(self, layer: int, device: str = "cpu") -> LoadedSAE:
        import torch

        from corrsteer.saes.loaded import LoadedSAE

        axes = torch.cat([torch.eye(self.width), -torch.eye(self.width)])
        return LoadedSAE(
            sae_id=self.sae_id(layer),
            layer=layer,
            architecture="standard",
            W_enc=axes.T.contiguous().to(device),
            b_enc=torch.zeros(2 * self.width, device=device),
            W_dec=axes,
            b_dec=torch.zeros(self.width, device=device),
        )
