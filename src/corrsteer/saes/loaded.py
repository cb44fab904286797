"""One SAE in memory: encoding, pooling, decoder rows, reconstruction.

sae_lens reads the files; its weights are taken over and its modules left behind, because they
keep the scale of an input in themselves between encode and decode, and because the encoder alone
is what a large model's memory has to hold. The decoder stays on the CPU, where a file's pages are
only read when a row is asked for.
Cost: encoding one position is a product of width x features; activations of 64 MiB are held at
once, whatever the width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from corrsteer.errors import ConfigError, ModelError
from corrsteer.saes.provider import check_readable, is_centred
from corrsteer.steering.encoder import Encoder

if TYPE_CHECKING:
    import torch

_CHUNK_ACTIVATIONS = 2**24  # 64 MiB of float32


class Scaled(NamedTuple):
    """Residuals x [n, M] as an SAE wants them: ``u = (x - shift) / scale``, up to its epsilon."""

    u: torch.Tensor
    """[n, M]"""
    scale: torch.Tensor | None
    """[n, 1], what its reconstruction is multiplied by; None for 1."""
    shift: torch.Tensor | None
    """[n, 1], what is then added; None for 0."""


@dataclass(frozen=True, eq=False, repr=False)
class LoadedSAE:
    """One layer's SAE, float32, without gradients. All tensors but ``W_dec`` are on one device.

    **Units.** An activation times its decoder row is the feature's contribution to the
    reconstruction of the *raw* residual stream. For most SAEs these are the SAE's own units. An
    SAE that rescales every position (``layer_norm``, ``constant_norm_rescale``) writes
    ``scale * (a @ W_dec)``, where ``scale`` belongs to the position: its activations are returned
    multiplied by that scale. So one with LayerNorm calls a feature strong where the residual is
    long, and a mean activation times a direction is a vector of the raw stream.
    """

    sae_id: str
    layer: int
    """The block whose output it reads."""
    architecture: str
    """standard, jumprelu, topk or gated."""
    W_enc: torch.Tensor
    """[M, D]"""
    b_enc: torch.Tensor
    """[D]; of a gated SAE the bias of the gate."""
    W_dec: torch.Tensor
    """[D, M], on the CPU."""
    b_dec: torch.Tensor
    """[M]"""
    threshold: torch.Tensor | None = None
    """[D], of a jumprelu SAE: active where the pre-activation is above it."""
    r_mag: torch.Tensor | None = None
    """[D], of a gated SAE: its magnitude is relu(exp(r_mag) * (u @ W_enc) + b_mag)."""
    b_mag: torch.Tensor | None = None
    """[D], of a gated SAE."""
    k: int | None = None
    """Of a topk SAE."""
    subtracts_b_dec: bool = False
    """Whether ``b_dec`` is subtracted from the input first."""
    scaling: str = "none"
    """none, layer_norm or constant_norm_rescale."""
    centred: bool = False
    """Whether the mean over d_model is subtracted from the input first."""

    @property
    def width(self) -> int:
        """Number of features D."""
        return int(self.W_enc.shape[1])

    @property
    def d_model(self) -> int:
        """Width M of the residual stream it reads."""
        return int(self.W_enc.shape[0])

    @property
    def nbytes(self) -> int:
        """Memory of all its tensors, decoder included."""
        values = (getattr(self, field.name) for field in fields(self))
        return sum(v.nbytes for v in values if hasattr(v, "nbytes"))

    def encode(self, x: torch.Tensor, features: Sequence[int] | None = None) -> torch.Tensor:
        """Activations of residuals ``x`` [n, M]: [n, D], or [n, k] of k ``features``."""
        import torch

        columns = None if features is None else list(features)
        parts = [acts for acts, _ in self._chunks(x, columns)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def pool(
        self, x: torch.Tensor, sample: torch.Tensor, n_samples: int, pooling: str
    ) -> torch.Tensor:
        """Activations pooled over each sample's positions, [n_samples, D].

        ``x`` [n, M] residuals, ``sample`` [n] long: whose they are. ``pooling`` is ``max`` or
        ``mean`` (sum over the positions / their number). A sample without positions gets 0.
        """
        import torch

        if pooling not in ("max", "mean"):
            raise ConfigError(f"pooling {pooling!r} is unknown: use max or mean.")
        products = self._pooled_products(x, sample, n_samples, pooling)
        if products is not None:
            return self._activated(products)
        if _one_each(sample, n_samples):
            return self.encode(x)
        # Activations are never negative, so 0 is neutral for the maximum too.
        pooled = torch.zeros(n_samples, self.width, device=self.W_enc.device)
        sample = sample.to(pooled.device)
        for (acts, _), rows in zip(self._chunks(x), sample.split(self._rows()), strict=True):
            if pooling == "max":
                pooled.scatter_reduce_(0, rows[:, None].expand_as(acts), acts, "amax")
            else:
                pooled.index_add_(0, rows, acts)
        if pooling == "mean":
            pooled /= torch.bincount(sample, minlength=n_samples).clamp(min=1)[:, None]
        return pooled

    def active(
        self, x: torch.Tensor, sample: torch.Tensor, n_samples: int, pooling: str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What of :meth:`pool` is not 0, to the bit: the samples, the features and the activations,
        ordered by sample, then feature. Few are, so they are looked for among the products, and by
        numpy, since torch compares a fifth as fast and looks for what is true a tenth as fast."""
        products = self._pooled_products(x, sample, n_samples, pooling)
        if products is None:
            pooled = self.pool(x, sample, n_samples, pooling).cpu().numpy()
            silent = pooled == 0
        else:
            pooled = products.cpu().numpy()
            pooled += self.b_enc.cpu().numpy()
            silent = pooled <= (0 if self.threshold is None else self.threshold.cpu().numpy())
        cells = np.flatnonzero(~silent)
        values = np.maximum(pooled.reshape(-1)[cells], 0)
        some = values != 0  # a threshold may be below 0
        rows, features = np.divmod(cells[some], self.width)
        return rows, features, values[some]

    def _pooled_products(
        self, x: torch.Tensor, sample: torch.Tensor, n_samples: int, pooling: str
    ) -> torch.Tensor | None:
        """[n_samples, D] products with encoder rows, whose activations are the pooled ones, to the
        bit; None where there are none: of what rises together, rounding included, the maximum may
        be taken before the rest is computed, of one row per sample."""
        import torch

        monotone = self.architecture in ("standard", "jumprelu") and self.scaling == "none"
        alone = _one_each(sample, n_samples)
        if not monotone or not (alone or pooling == "max"):
            return None
        home = self.W_enc.device
        highest = torch.empty(n_samples, self.width, device=home)
        owners = sample.to(home).split(self._rows())
        if not alone:
            highest.fill_(-torch.inf)
        at = 0
        for part, rows in zip(x.split(self._rows()), owners, strict=True):
            with torch.no_grad():
                u = self._input(self._scaled(part.to(home, torch.float32)).u)
                if alone:
                    torch.mm(u, self.W_enc, out=highest[at : at + len(u)])
                    at += len(u)
                else:
                    products = u @ self.W_enc
                    highest.scatter_reduce_(0, rows[:, None].expand_as(products), products, "amax")
        return highest

    def directions(self, features: Sequence[int]) -> np.ndarray:
        """Decoder rows of the features, [k, M] float32, in units of the raw residual stream."""
        rows: np.ndarray = self.W_dec[list(features)].numpy()
        if not np.isfinite(rows).all():
            raise not_finite(self.sae_id, "W_dec")
        return rows.astype(np.float32)

    def encoders(self, features: Sequence[int]) -> list[Encoder]:
        """What gives each feature's activation, and what it writes, in the units of this class.

        Raises ConfigError for a topk SAE, of which no feature can be read alone.
        """
        check_readable(self.sae_id, self.architecture)
        rows = self.directions(features)
        shift = self.b_dec if self.subtracts_b_dec else self.b_dec * 0
        encoders = []
        for decoder, i in zip(rows, features, strict=True):
            threshold, slope, offset = -float("inf"), 1.0, float(self.b_enc[i])
            if self.threshold is not None:  # the pre-activation, above the threshold
                threshold = float(self.threshold[i] - self.b_enc[i])
            if self.r_mag is not None and self.b_mag is not None:
                threshold = -float(self.b_enc[i])
                slope, offset = float(self.r_mag[i].exp()), float(self.b_mag[i])
            encoders.append(
                Encoder(
                    row=self.W_enc[:, i].cpu().numpy().copy(),
                    decoder=decoder,
                    shift=shift.cpu().numpy(),
                    threshold=threshold,
                    slope=slope,
                    offset=offset,
                    scaling=self.scaling,
                    centred=self.centred,
                )
            )
        return encoders

    def reconstruct(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Residuals ``x`` [n, M] as the SAE writes them, in raw units.

        Returns (x_hat [n, M] float32, l0 [n] float32: how many features are active).
        """
        import torch

        parts, counts = [], []
        for acts, scaled in self._chunks(x):
            active = acts.any(0).nonzero().squeeze(1)  # few of many: spares most of the decoder
            rows = self.W_dec[active.cpu()].to(acts.device)
            offset = self.b_dec if scaled.scale is None else self.b_dec * scaled.scale
            if scaled.shift is not None:
                offset = offset + scaled.shift
            if not rows.isfinite().all():
                raise not_finite(self.sae_id, "W_dec")
            parts.append(acts[:, active] @ rows + offset)
            counts.append((acts > 0).sum(1, dtype=torch.float32))
        return torch.cat(parts), torch.cat(counts)

    def _rows(self) -> int:
        """Positions encoded at once."""
        return max(1, _CHUNK_ACTIVATIONS // self.width)

    def _chunks(
        self, x: torch.Tensor, columns: list[int] | None = None
    ) -> Iterator[tuple[torch.Tensor, Scaled]]:
        """(activations [rows, D] in raw units, the input they come from) of some rows at a time.

        One empty chunk for no rows at all.
        """
        import torch

        for part in x.split(self._rows()):
            with torch.no_grad():
                scaled = self._scaled(part.to(self.W_enc.device, torch.float32))
                acts = self._activations(scaled.u, columns)
                if scaled.scale is not None:
                    acts = acts * scaled.scale
            yield acts, scaled

    def _scaled(self, x: torch.Tensor) -> Scaled:
        """What sae_lens's ``_setup_activation_normalization`` does, without its memory."""
        shift = scale = None
        if self.centred or self.scaling == "layer_norm":
            shift = x.mean(-1, keepdim=True)
            x = x - shift
        if self.scaling == "layer_norm":
            scale = x.std(-1, keepdim=True)
            x = x / (scale + 1e-5)
        elif self.scaling == "constant_norm_rescale":
            # sae_lens divides by zero for a position that is all zero.
            scale = x.norm(dim=-1, keepdim=True).clamp(min=1e-30) / self.d_model**0.5
            x = x / scale
        return Scaled(x, scale, shift)

    def _activations(self, u: torch.Tensor, columns: list[int] | None) -> torch.Tensor:
        """Activations in the SAE's own units, of some columns or of all, [n, D or k]."""
        import torch

        u = self._input(u)
        if self.architecture == "topk":  # every feature competes, whichever are asked for
            pre = u @ self.W_enc + self.b_enc
            values, where = pre.topk(self.k, dim=-1, sorted=False)
            acts = torch.zeros_like(pre).scatter_(-1, where, values.relu_())
            return acts if columns is None else acts[:, columns]
        some: Any = slice(None) if columns is None else columns
        pre = u @ self.W_enc[:, some]
        if self.architecture == "gated":
            assert self.r_mag is not None and self.b_mag is not None
            gate = pre + self.b_enc[some] > 0
            return (pre * self.r_mag[some].exp() + self.b_mag[some]).relu_() * gate
        return self._activated(pre, some)

    def _input(self, u: torch.Tensor) -> torch.Tensor:
        return u - self.b_dec if self.subtracts_b_dec else u

    def _activated(self, products: torch.Tensor, some: Any = slice(None)) -> torch.Tensor:
        """Activations of a standard or jumprelu SAE from products with encoder rows, in place."""
        products += self.b_enc[some]
        if self.threshold is None:
            return products.relu_()
        silent = products <= self.threshold[some]  # not where it is nan
        return products.relu_().masked_fill_(silent, 0)


def _one_each(sample: torch.Tensor, n_samples: int) -> bool:
    """Whether every sample has one position."""
    return len(sample) == n_samples and sample.tolist() == list(range(n_samples))


def not_finite(sae_id: str, name: str) -> ModelError:
    return ModelError(
        f"SAE {sae_id}: {name} is not finite (nan or inf): get the file again, or leave the layer"
        " out."
    )


def from_sae_lens(
    sae: Any, sae_id: str, layer: int, *, device: str, scaling: str, centred: bool
) -> LoadedSAE:
    """Take over the weights of a ``sae_lens.SAE`` of a checked kind, on the CPU in float32.

    ``scaling`` is the input scaling that is still to be done; a constant factor must have been
    folded into the weights.
    """
    architecture = sae.cfg.architecture()
    assert scaling in ("none", "layer_norm", "constant_norm_rescale"), scaling
    if architecture == "topk" and sae.cfg.rescale_acts_by_decoder_norm:
        sae.fold_W_dec_norm()  # its activations are of unit rows then, as they are chosen
    weights = {name: tensor.detach() for name, tensor in sae.named_parameters()}
    if weights["W_dec"].shape != weights["W_enc"].T.shape:
        raise ModelError(
            f"SAE {sae_id} reads width {weights['W_enc'].shape[0]} and writes width"
            f" {weights['W_dec'].shape[1]}: use an SAE, not a transcoder."
        )
    on_device = {name: tensor.to(device) for name, tensor in weights.items() if name != "W_dec"}
    for name in on_device:
        # A threshold may be infinite: that feature is never active. Sums take no memory.
        total = weights[name].sum()
        if total.isnan() if name == "threshold" else not total.isfinite():
            raise not_finite(sae_id, name)
    gated = architecture == "gated"
    return LoadedSAE(
        sae_id=sae_id,
        layer=layer,
        architecture=architecture,
        W_enc=on_device["W_enc"],
        b_enc=on_device["b_gate" if gated else "b_enc"],
        W_dec=weights["W_dec"].contiguous(),  # rows are what is read
        b_dec=on_device["b_dec"],
        threshold=on_device.get("threshold"),
        r_mag=on_device.get("r_mag"),
        b_mag=on_device.get("b_mag"),
        k=sae.cfg.k if architecture == "topk" else None,
        subtracts_b_dec=sae.cfg.apply_b_dec_to_input,
        scaling=scaling,
        centred=centred,
    )


def take_over(
    read: Callable[[], Any],
    sae_id: str,
    layer: int,
    config: Mapping[str, Any],
    *,
    device: str,
    remedy: str,
) -> LoadedSAE:
    """Let sae_lens read an SAE and take over its weights.

    ``read`` gives a ``sae_lens.SAE`` on the CPU in float32 with a constant input scaling folded;
    ``config`` is its checked flat config. Raises ModelError, ending with ``remedy``, for whatever
    sae_lens stumbles over.
    """
    try:
        with warnings.catch_warnings():
            # sae_lens advises to load the model through TransformerLens; what matters of it here
            # is done on the input (provider.is_centred).
            warnings.filterwarnings("ignore", message="\nThis SAE has non-empty model_from")
            sae = read()
    except ModelError:
        raise
    except Exception as error:  # of any kind: the file is not ours, nor is the reader
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(f"SAE {sae_id} cannot be read ({cause}); {remedy}.") from error
    if sae.cfg.architecture() != config["architecture"]:
        raise ModelError(
            f"SAE {sae_id} is {config['architecture']}, but sae_lens reads it as"
            f" {sae.cfg.architecture()}; {remedy}."
        )
    scaling = config["normalize_activations"]
    return from_sae_lens(
        sae,
        sae_id,
        layer,
        device=device,
        scaling="none" if scaling == "expected_average_only_in" else scaling,
        centred=is_centred(config),
    )
