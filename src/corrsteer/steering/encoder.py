"""What one feature of an SAE reads and writes, without the SAE: enough for its activation.

An operator or a gate that reads features sets ``reads_feature`` and finds the encoder in the entry
of a plan, which keeps it on disk. Cost: three vectors of the model's width per layer; a product of
vectors per position. Torch is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from corrsteer.errors import ConfigError
from corrsteer.steering.protocol import Parts

if TYPE_CHECKING:
    from torch import Tensor

    from corrsteer.steering.plan import PlanEntry

SCALINGS = ("none", "layer_norm", "constant_norm_rescale")


@dataclass(frozen=True, eq=False)
class Encoder:
    """One feature of one SAE, all arrays float32.

    Its activation at a residual x is, with ``u`` = x scaled as below and ``p = (u - shift) . row``,
    ``slope * p + offset`` where p is above ``threshold`` and that is positive, else 0, times the
    scale: in units of the raw residual stream, as :class:`corrsteer.saes.loaded.LoadedSAE` says.
    """

    row: np.ndarray = field(repr=False)
    """[M], of its encoder."""
    decoder: np.ndarray = field(repr=False)
    """[M], what it writes per unit of activation."""
    shift: np.ndarray = field(repr=False)
    """[M], subtracted from u: the decoder's bias or zeros."""
    threshold: float
    """May be infinite: -inf for none, inf for a feature that is never active."""
    slope: float
    offset: float
    scaling: str = "none"
    """``layer_norm``: the mean of x is subtracted, and u is that over its standard deviation, the
    scale; ``constant_norm_rescale``: the scale is the length of x over the root of M."""
    centred: bool = False
    """Whether the mean of x is subtracted first."""

    def along(self, vector: np.ndarray, entry: PlanEntry) -> Encoder:
        """The same reading, but what is written points along ``vector``, as the entry's does along
        its own: as long per unit of activation, to the same level."""
        sign = np.sign(entry.vector @ self.decoder) or 1.0
        length = float(np.linalg.norm(vector)) or 1.0
        scale = sign * float(np.linalg.norm(self.decoder)) / length
        return replace(self, decoder=(scale * vector).astype(np.float32))

    def parts(self, before: str = "") -> dict[str, np.ndarray]:
        """What :func:`activation` reads, each name with ``before`` in front."""
        numbers = np.array([self.threshold, self.slope, self.offset], np.float32)
        arrays = {"row": self.row, "shift": self.shift, "numbers": numbers}
        # A scaling is known by its name: a number would have to be fetched from a GPU.
        for name, is_on in (("centred", self.centred), (self.scaling, self.scaling != "none")):
            if is_on:
                arrays[name] = np.ones((), np.float32)
        return {f"{before}{name}": array for name, array in arrays.items()}

    # -- in a plan's files --------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        parts = self.parts()
        return {name: parts[name] for name in ("row", "shift", "numbers")} | {
            "decoder": self.decoder
        }

    def settings(self) -> dict[str, Any]:
        return {"scaling": self.scaling, "centred": self.centred}

    @classmethod
    def read(
        cls, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray], width: int
    ) -> Encoder:
        """Raises ValueError or KeyError for what :meth:`settings` and :meth:`arrays` do not
        give."""
        scaling, centred = settings["scaling"], settings["centred"]
        if scaling not in SCALINGS or type(centred) is not bool:
            raise ValueError(f"an encoder has scaling={scaling!r} and centred={centred!r}")
        shapes = {"row": (width,), "decoder": (width,), "shift": (width,), "numbers": (3,)}
        for name, shape in shapes.items():
            array = arrays[name]
            if array.shape != shape or array.dtype != np.float32:
                raise ValueError(
                    f"the {name} of an encoder is {array.dtype}{list(array.shape)}, not"
                    f" float32{list(shape)}"
                )
            if not np.isfinite(array[-2:] if name == "numbers" else array).all():
                raise ValueError(f"the {name} of an encoder is not finite")
        threshold, slope, offset = (float(x) for x in arrays["numbers"])
        if np.isnan(threshold):
            raise ValueError("the threshold of an encoder is nan")
        vectors = {name: arrays[name] for name in ("row", "decoder", "shift")}
        return cls(
            **vectors, threshold=threshold, slope=slope, offset=offset,
            scaling=scaling, centred=centred,
        )  # fmt: skip


Encoders = Callable[[int, Sequence[int]], Sequence[Encoder]]
"""(layer, features) -> the encoder of each."""


def activation(x: Tensor, parts: Parts, before: str = "") -> Tensor:
    """[...] float32, the feature's activation at residuals ``x`` [..., M]; ``parts``: those of an
    :class:`Encoder`, whose names have ``before`` in front. [..., k] where ``row`` is [k, M] and
    ``numbers`` [k, 3]: of several features of one SAE."""
    u, scale = x.float(), None
    if before + "centred" in parts or before + "layer_norm" in parts:
        u = u - u.mean(-1, keepdim=True)
    if before + "layer_norm" in parts:
        scale = u.norm(dim=-1, keepdim=True) / (u.shape[-1] - 1) ** 0.5
        u = u / (scale + 1e-5)
    if before + "constant_norm_rescale" in parts:
        scale = u.norm(dim=-1, keepdim=True).clamp(min=1e-30) / u.shape[-1] ** 0.5
        u = u / scale
    threshold, slope, offset = parts[before + "numbers"].to(u).unbind(-1)
    row = parts[before + "row"].to(u)
    several = row.dim() > 1
    p = (u - parts[before + "shift"].to(u)) @ (row.T if several else row)
    z = (p * slope + offset).relu().masked_fill(p <= threshold, 0)
    return z if scale is None else z * (scale if several else scale[..., 0])


def reads_features(*parts: object) -> bool:
    """Whether one of some operators and gates reads the encoder of an entry."""
    return any(getattr(part, "reads_feature", False) for part in parts)


def encoder_of(entry: PlanEntry, reader: object) -> Encoder:
    """Raises ConfigError where the entry holds none."""
    if entry.encoder is None:
        raise ConfigError(
            f"{type(reader).__name__} reads how active the feature of layer {entry.layer} is, and"
            " the plan does not hold that feature's encoder: make the plan again by a run with that"
            " operator or gate"
        )
    return entry.encoder


def made_up(width: int) -> Encoder:
    """An encoder to try an operator or a gate on."""
    row = np.full(width, width**-0.5, np.float32)
    return Encoder(row, row, np.zeros_like(row), threshold=0.0, slope=1.0, offset=0.0)
