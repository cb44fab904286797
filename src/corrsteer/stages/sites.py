"""Proves that each SAE reads the place its metadata names, in the units the model has there.

An SAE that is read one block off, or in scaled units, still gives numbers; published work has
been bitten by both. So a few hundred positions of real prompts are reconstructed at the declared
site, at its two neighbours, and at the declared site in other units, and the shares of variance
explained are compared. The first position of a text and outliers such as attention sinks are left
out: they can have 150 times the norm of the others, and a mean of squares over all would be theirs
alone. The comparison is by trimmed means, so that no few positions decide it.

Cost: one pass over a handful of prompts, and encoding them up to seven times per layer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from corrsteer.errors import ModelError
from corrsteer.records import Example, SiteFit
from corrsteer.stages.bench import Bench, prompts_digest, read_json, write_json

if TYPE_CHECKING:
    import torch

    from corrsteer.models.loaded import LoadedModel
    from corrsteer.saes.loaded import LoadedSAE

log = logging.getLogger(__name__)

STAGE, FORM, FILE = "site", 2, "site.json"
PROBE_SAMPLES = 64
"""Samples of the selection split that the check may read."""

POSITIONS = 400
"""Prompts are taken until they have this many positions together."""
MARGIN = 0.01
"""A site that explains this much more variance fits better, if it is not an accident (3 standard
errors over positions): neighbouring blocks differ little in large models."""
FAR = 4.0
"""A position this many times as far from the middle of its site as the median one is an outlier: it
would weigh as much as sixteen others. Ten times the norm is not enough to ask: where the sinks of
SmolLM2 begin to form, positions five times as long as the median carry most of the variance."""
TRIM = 0.1
"""Share of the positions at either end that a trimmed mean leaves out."""
FOREIGN = 0.3
"""Where nothing explains more than this, neither the block nor the unit is what is wrong. Small
SAEs of real models explain 45 % of the ordinary positions of short questions."""
SCALES = (1 / 16, 1 / 4, 4.0, 16.0)
"""Factors on the residual, besides those that would bring its norm to 1 and to sqrt(M), which is
what SAEs with a normalised input are trained on."""
SCALE_MARGIN, SCALE_SHARE = 0.1, 1 / 3
"""Of an SAE that is right, other units let more features through or fewer, which can explain a
little more, the more so the less it explains. So they must explain this much more, and this share
of what is left unexplained in its own."""


def sites(bench: Bench) -> list[SiteFit]:
    """How well each SAE fits its site, measured on prompts; empty with ``sae.check=off``.

    Raises ModelError for an SAE that fits somewhere else better, or warns if that was asked.
    """
    if bench.sae.check == "off":
        return []
    examples = [_worded(e) for e in bench.selection[:PROBE_SAMPLES]]
    shared = {**bench.model_key, "prompts": prompts_digest(bench, examples)}
    keys = {n: {**shared, "layer": n, "sae": bench.sae_key(n)} for n in bench.layers}
    made: dict[int, SiteFit] = {}

    def make(missing: list[int]) -> None:
        taken = probe(bench.model, [e.prompt for e in examples])
        for saes in bench.in_budget(missing):
            for n, fit in site_fits(bench.model, saes, taken).items():
                made[n] = fit

                def write(folder: Path, fit: SiteFit = fit) -> None:
                    write_json(folder, asdict(fit), FILE)

                bench.store.get(STAGE, keys[n], write, FORM)

    bench.store.fill(STAGE, keys, make, FORM, together=True)
    kept = [bench.store.read(STAGE, keys[n], FORM) for n in bench.layers]
    fits = [SiteFit(**read_json(folder, FILE)) for folder in kept]
    for fit in fits:
        if fit.layer in made:
            log.info(sentence(fit))
    wrong = [text for fit in fits if (text := problem(fit, bench.sae.sae_id(fit.layer)))]
    if wrong and bench.sae.check == "strict":
        others = f" ({len(wrong) - 1} more SAEs of this run are wrong too)" if wrong[1:] else ""
        raise ModelError(f"{wrong[0]}; type sae.check=warn to go on all the same{others}")
    for text in wrong:
        log.warning(text)
    return fits


def _worded(example: Example) -> Example:
    """Where options stand without a prompt, the first of them is what an SAE reads."""
    if example.prompt or not example.options:
        return example
    return replace(example, prompt=example.options[0])


def probe(model: LoadedModel, prompts: Sequence[str]) -> list[str]:
    """The first prompts that have ``POSITIONS`` tokens together, at least two."""
    taken: list[str] = []
    tokens = 0
    for prompt in prompts:
        taken.append(prompt)
        tokens += model.n_tokens(prompt)
        if tokens >= POSITIONS and len(taken) > 1:
            break
    return taken


def site_fits(
    model: LoadedModel, saes: Mapping[int, LoadedSAE], prompts: Sequence[str]
) -> dict[int, SiteFit]:
    """How well each layer's SAE fits its own site and the others, over the prompts' positions.

    The neighbour before block 0 is what that block reads; the last block has none after it.
    BOS, other special tokens and padding never count, nor do the first position of a prompt and
    those that are outliers (``FAR``) at any of the sites compared.
    """
    near = {n + d for n in saes for d in (-1, 0, 1)} & set(range(-1, model.n_layers))
    residuals: dict[int, list[torch.Tensor]] = {n: [] for n in near}
    first: list[torch.Tensor] = []
    for rows in model.batches(prompts):
        read = model.replay([prompts[i] for i in rows], [()] * len(rows), sorted(near), "prompt")
        for n in near:
            residuals[n].append(read.layers[n])
        first.append(read.position == 0)
    import torch

    begins = torch.cat(first)
    if begins.all():
        raise ModelError(
            "the SAEs cannot be checked: the prompts have no position but their first; type"
            " sae.check=off"
        )
    whole = {n: torch.cat(parts) for n, parts in residuals.items()}
    odd = {n: begins | _far(x, ~begins) for n, x in whole.items()}
    fits = {}
    for layer, sae in saes.items():
        compared = [n for n in (layer, layer - 1, layer + 1) if n in near]
        left_out = torch.stack([odd[n] for n in compared]).any(0)
        ordinary = {n: whole[n][~left_out] for n in compared}
        fits[layer] = _fit(layer, sae, ordinary, int(left_out.sum()))
    return fits


def _far(x: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """[N] bool: which residuals ``x`` [N, M] are outliers among those ``counted`` [N]."""
    distance = (x - x[counted].median(0).values).norm(dim=1)
    return distance > FAR * distance[counted].median()


def _fit(
    layer: int, sae: LoadedSAE, residuals: Mapping[int, torch.Tensor], left_out: int
) -> SiteFit:
    """``residuals``: of the layer and its neighbours, at the same positions; the layer first."""
    own = residuals[layer]
    norm = float(own.float().norm(dim=1).mean())
    scales = [*SCALES, 1 / norm, own.shape[1] ** 0.5 / norm]
    candidates = [(layer, 1.0)]
    candidates += [(n, 1.0) for n in residuals if n != layer]
    candidates += [(layer, s) for s in scales if not 0.5 < s < 2]
    errors, l0 = {}, {}
    for site, scale in candidates:
        errors[site, scale], l0[site, scale] = _errors(sae, residuals[site], scale)
    declared = errors[layer, 1.0]
    explained = {key: 1 - float(error.mean()) for key, error in errors.items()}
    unexplained = 1 - explained[layer, 1.0]

    def better(key: tuple[int, float]) -> bool:
        gain, error = trimmed_mean(declared - errors[key])
        margin = MARGIN if key[1] == 1 else max(SCALE_MARGIN, SCALE_SHARE * unexplained)
        return explained[key] > explained[layer, 1.0] and gain > max(margin, 3 * error)

    rivals = [key for key in candidates[1:] if better(key)]
    best = max(rivals, key=explained.__getitem__, default=None)
    return SiteFit(
        layer=layer,
        n=len(declared),
        explained=explained[layer, 1.0],
        l0=l0[layer, 1.0],
        before=explained.get((layer - 1, 1.0)),
        after=explained.get((layer + 1, 1.0)),
        l0_before=l0.get((layer - 1, 1.0)),
        l0_after=l0.get((layer + 1, 1.0)),
        better_site=best[0] if best else None,
        better_scale=best[1] if best else None,
        better_explained=explained[best] if best else None,
        left_out=left_out,
    )


def trimmed_mean(values: np.ndarray) -> tuple[float, float]:
    """The mean of ``values`` [n] without the share ``TRIM`` at either end, and its standard error:
    that of the winsorized values (Tukey and McLaughlin 1963)."""
    n, cut = len(values), int(TRIM * len(values))
    ordered = np.sort(values)
    inner = ordered[cut : n - cut]
    spread = float(ordered.clip(inner[0], inner[-1]).std())
    return float(inner.mean()), spread / ((1 - 2 * TRIM) * n**0.5)


def _errors(sae: LoadedSAE, x: torch.Tensor, scale: float) -> tuple[np.ndarray, float]:
    """(squared error of each position in units of the site's variance, [n]; mean L0)."""
    x = x.float()
    x_hat, active = sae.reconstruct(x * scale)
    error = (x - x_hat.to(x.device) / scale).square().sum(1)
    variance = (x - x.mean(0)).square().sum(1).mean()
    return (error / variance).cpu().double().numpy(), float(active.mean())


def sentence(fit: SiteFit) -> str:
    """What was measured, on one line."""
    parts = []
    if fit.before is not None:
        where = f"block {fit.layer - 1}'s output" if fit.layer else "block 0's input"
        parts.append(f"{where}: {_percent(fit.before)}, L0 {fit.l0_before:.0f}")
    if fit.after is not None:
        parts.append(
            f"block {fit.layer + 1}'s output: {_percent(fit.after)}, L0 {fit.l0_after:.0f}"
        )
    beside = f"; {fit.left_out} first positions and outliers left out"
    return (
        f"layer {fit.layer}: the SAE explains {_percent(fit.explained)} of the variance, L0"
        f" {fit.l0:.0f} ({'; '.join(parts)}), over {fit.n} positions"
        f"{beside if fit.left_out else ''}"
    )


def problem(fit: SiteFit, sae_id: str) -> str | None:
    """What is wrong with the SAE; None when nothing fits better."""
    fact = f"SAE {sae_id} explains {_percent(fit.explained)} of the variance of block {fit.layer}'s"
    fact += f" output over {fit.n} positions"
    if fit.left_out:
        fact += f" (without {fit.left_out} first positions and outliers)"
    if fit.better_scale is None and fit.explained > 0:
        return None
    if max(fit.explained, fit.better_explained or 0) < FOREIGN:
        return (
            f"{fact}, and no place or unit fits it well: these prompts are unlike the text it was"
            " trained on, or it was trained on another model"
        )
    if fit.better_site is not None and fit.better_scale == 1:
        off = f"block {fit.better_site}'s output" if fit.better_site >= 0 else "what block 0 reads"
        return (
            f"{fact}, but {_percent(fit.better_explained)} of {off}: its layer or its metadata is"
            " wrong, unless these prompts are unlike the text it was trained on"
        )
    return (
        f"{fact}, but {_percent(fit.better_explained)} when it is multiplied by"
        f" {fit.better_scale:.4g} first: it was trained on scaled activations, so fold that factor"
        " into its weights"
    )


def _percent(share: float | None) -> str:
    assert share is not None
    return f"{100 * share:.1f} %"
