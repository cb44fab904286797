"""What a provider of SAEs is: a set of SAEs, one per layer, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from corrsteer.saes.loaded import LoadedSAE


class SAEProvider(Protocol):
    """A frozen dataclass, so that fingerprints are computed once for equal ones."""

    @property
    def name(self) -> str: ...

    @property
    def check(self) -> str:
        """strict, warn or off: what an SAE that fits another site better leads to."""

    @property
    def budget_gb(self) -> float:
        """Memory for loaded SAEs."""

    def layers(self) -> tuple[int, ...]:
        """The layers that have an SAE, ascending. Raises ModelError when there is none."""

    def sae_id(self, layer: int) -> str:
        """Name of the layer's SAE in plans and reports."""

    def fingerprint(self, layer: int) -> str:
        """What identifies its config and weights in a cache key."""

    def neuronpedia(self, layer: int) -> str | None:
        """Neuronpedia's id of the SAE, where it is listed there."""

    def trained_on(self, layer: int) -> str | None:
        """The model that the metadata say the SAE was trained on."""

    def validate(self, layer: int, d_model: int) -> None:
        """Raise ModelError, before anything is loaded, if the layer's SAE cannot be used."""

    def load(self, layer: int, device: str = "cpu") -> LoadedSAE:
        """The SAE of block ``layer``'s output. Raises ModelError when it is not one."""
