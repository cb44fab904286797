"""One SAE per layer on the residual stream after each block, by sae_lens's own trainer.

BatchTopK (Bussmann et al. 2024), which saves as jumprelu, the architecture of Gemma Scope and
LlamaScope. Answer positions are a few tokens in fifty but they are what steering works on, so
all of them are kept and only a few of the others. BOS is left out. 7 minutes on two cores.

``train_on`` does it for any Llama-like model and any documents, ``train`` for the bundled model
and its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from experiments.bundled_model import text
from experiments.bundled_model.scale import Scale

K = 16
KEEP_PROMPT = 0.08  # share of the prompt positions that are kept
DOCUMENTS = 128  # of the bundled model's world, at a time

Document = tuple[list[int], int]
"""Token ids from BOS to the last one, which is never read; how many of them are the prompt, 1
when there is none but BOS."""


@torch.no_grad()
def outputs(
    model: PreTrainedModel,
    batches: Iterable[list[Document]],
    n: int,
    seed: str,
    embeddings: bool = False,
) -> dict[int, torch.Tensor]:
    """Layer -> [n, width] outputs of that block at sampled positions of the documents.

    ``embeddings``: with the input of block 0, as layer -1.
    """
    sites = dict(enumerate(model.model.layers))
    if embeddings:
        sites = {-1: model.model.embed_tokens, **sites}
    kept: dict[int, list[torch.Tensor]] = {i: [] for i in sites}
    found: dict[int, torch.Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _m, _a, out, i=i: found.__setitem__(i, out))
        for i, block in sites.items()
    ]
    rng, total = random.Random(seed), 0
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("residuals", total=n)
        for documents in batches:
            rows = sorted(documents, key=lambda row: len(row[0]))
            for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
                if not half:
                    continue
                tokens = _padded(half)
                model(input_ids=tokens, logits_to_keep=1)
                keep = torch.zeros_like(tokens, dtype=torch.bool)
                for i, (ids, n_prompt) in enumerate(half):
                    for t in range(1, len(ids) - 1):  # neither BOS nor the last one, such as EOS
                        answer = t >= n_prompt - 1 and n_prompt > 1
                        keep[i, t] = answer or rng.random() < KEEP_PROMPT
                for i in kept:
                    kept[i].append(found[i][keep].clone())
                total += int(keep.sum())
            progress.update(bar, completed=total)
            if total >= n:
                break
    for hook in hooks:
        hook.remove()
    if total < n:
        raise ValueError(f"the documents gave {total} positions, {n} are needed: give more")
    return {i: torch.cat(parts)[:n] for i, parts in kept.items()}


def _padded(rows: list[Document]) -> torch.Tensor:
    """[B, T]; padding on the right is never attended to by what stands before it."""
    tokens = torch.zeros(len(rows), max(len(ids) for ids, _ in rows), dtype=torch.long)
    for i, (ids, _) in enumerate(rows):
        tokens[i, : len(ids)] = torch.tensor(ids)
    return tokens


def _shuffled(
    data: dict[int, torch.Tensor], batch: int, seed: int
) -> Iterator[dict[int, torch.Tensor]]:
    """Layer -> [batch, width], the same positions of all layers, again and again."""
    generator = torch.Generator().manual_seed(seed)
    n = len(data[0])
    assert n >= batch, f"{n} positions are less than a batch of {batch}"
    while True:
        order = torch.randperm(n, generator=generator)
        for start in range(0, n - batch + 1, batch):
            rows = order[start : start + batch]
            yield {layer: x[rows] for layer, x in data.items()}


def train_on(
    model_folder: Path,
    batches: Iterable[list[Document]],
    work: Path,
    out: Path,
    *,
    model_name: str,
    seed: str,
    width: int,
    n_positions: int,
    samples: int,
    batch: int,
) -> None:
    """Trains all layers from one stream of residuals and saves ``out``/layer_N for each.

    The residuals are kept in ``work``: a run that was stopped does not compute them again.
    """
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.training.multi_sae_trainer import MultiSAETrainer

    saved = work / "residuals.pt"
    if not saved.exists():
        model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
        data = outputs(model, batches, n_positions, seed)
        torch.save(data, work / "residuals.tmp")
        (work / "residuals.tmp").replace(saved)
    data = torch.load(saved, weights_only=True)
    if len(data[0]) != n_positions:
        raise ValueError(f"{saved} holds {len(data[0])} positions, not {n_positions}: delete it")
    torch.manual_seed(0)  # here, so that neither loading nor making documents moves it

    def sae(layer: int) -> BatchTopKTrainingSAE:
        metadata = SAEMetadata(model_name=model_name, hook_name=f"blocks.{layer}.hook_resid_post")
        return BatchTopKTrainingSAE(
            BatchTopKTrainingSAEConfig(
                d_in=data[layer].shape[1],
                d_sae=width,
                k=K,
                # The saved threshold is a moving average; the default is too slow for a short run.
                topk_threshold_lr=0.1,
                normalize_activations="expected_average_only_in",
                metadata=metadata,
            )
        )

    config = SAETrainerConfig(
        total_training_samples=samples,
        train_batch_size_samples=batch,
        lr=2e-3,
        lr_end=2e-4,
        lr_warm_up_steps=20,
        n_batches_for_norm_estimate=20,
        dead_feature_window=100,
        feature_sampling_window=50,
    )
    names = {f"layer_{layer}": layer for layer in data}
    saes = MultiSAETrainer(
        config,
        {n: sae(layer) for n, layer in names.items()},
        names,
        data_provider=_shuffled(data, batch, 0),
    ).fit()
    for name, trained in saes.items():
        trained.save_inference_model(out / name)


@torch.no_grad()
def fit(sae: Any, x: torch.Tensor) -> dict[str, float]:
    """Explained variance, L0 and share of dead features of a sae_lens SAE on ``x`` [n, width]."""
    features = sae.encode(x)
    unexplained = ((x - sae.decode(features)) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    active = features > 0
    return {
        "explained_variance": round(1 - float(unexplained), 4),
        "l0": round(float(active.float().sum(1).mean()), 1),
        "dead": round(1 - float(active.any(0).float().mean()), 3),
    }


# -- the bundled model -------------------------------------------------------------------


def _documents(tokenizer: Any, seed: str, held_out: set[str]) -> Iterator[list[Document]]:
    """Fresh documents of the bundled model's world, without end."""
    batch = 0
    while True:
        yield text.encode(tokenizer, text.documents(f"{seed}-{batch}", DOCUMENTS, held_out))
        batch += 1


def residuals(
    model: PreTrainedModel, tokenizer: Any, seed: str, n: int, held_out: set[str]
) -> dict[int, torch.Tensor]:
    """Layer -> [n, width] outputs of that block at sampled positions of fresh documents."""
    return outputs(model, _documents(tokenizer, seed, held_out), n, seed)


def train(work: Path, out: Path, held_out: set[str], scale: Scale) -> None:
    """Trains the bundled model's SAEs into ``out``/saes."""
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    train_on(
        out / "model",
        _documents(tokenizer, "saes", held_out),
        work,
        out / "saes",
        model_name="corrsteer-bundled",
        seed="saes",
        width=scale.sae_width,
        n_positions=scale.sae_positions,
        samples=scale.sae_samples,
        batch=scale.sae_batch,
    )
