"""One SAE per layer on the residual stream after each block, by sae_lens's own trainer.

BatchTopK (Bussmann et al. 2024), which saves as jumprelu, the architecture of Gemma Scope and
LlamaScope. Answer positions are a few tokens in fifty but they are what steering works on, so
all of them are kept and only a few of the others. BOS is left out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import text
import torch
from rich.progress import Progress
from transformers import AutoTokenizer, LlamaForCausalLM

WIDTH = 1024
K = 16
POSITIONS = 300_000
KEEP_PROMPT = 0.08  # share of the prompt positions that are kept
SAMPLES = 900_000
BATCH = 2048
DOCUMENTS = 128


@torch.no_grad()
def residuals(
    model: LlamaForCausalLM, tokenizer, seed: str, n: int, held_out: set[str]
) -> dict[int, torch.Tensor]:
    """Layer -> [n, width] outputs of that block at sampled positions of fresh documents."""
    from train import encode, pad

    layers = model.model.layers
    kept: dict[int, list[torch.Tensor]] = {i: [] for i in range(len(layers))}
    found: dict[int, torch.Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _m, _a, out, i=i: found.__setitem__(i, out))
        for i, block in enumerate(layers)
    ]
    rng, total, batch = random.Random(seed), 0, 0
    with Progress() as progress:
        bar = progress.add_task("residuals", total=n)
        while total < n:
            documents = text.documents(f"{seed}-{batch}", DOCUMENTS, held_out)
            rows = sorted(encode(tokenizer, documents), key=lambda row: len(row[0]))
            for half in (rows[: DOCUMENTS // 2], rows[DOCUMENTS // 2 :]):
                tokens, _ = pad(half)
                model(input_ids=tokens, logits_to_keep=1)
                keep = torch.zeros_like(tokens, dtype=torch.bool)
                for i, (ids, n_prompt) in enumerate(half):
                    for t in range(1, len(ids) - 1):  # neither BOS nor EOS
                        answer = t >= n_prompt - 1 and n_prompt > 1
                        keep[i, t] = answer or rng.random() < KEEP_PROMPT
                for i in kept:
                    kept[i].append(found[i][keep].clone())
                total += int(keep.sum())
            batch += 1
            progress.update(bar, completed=total)
    for hook in hooks:
        hook.remove()
    return {i: torch.cat(parts)[:n] for i, parts in kept.items()}


def _batches(data: dict[int, torch.Tensor], seed: int) -> Iterator[dict[int, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    n = len(data[0])
    while True:
        order = torch.randperm(n, generator=generator)
        for start in range(0, n - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            yield {layer: x[rows] for layer, x in data.items()}


def train(work: Path, out: Path, held_out: set[str], n_positions: int = POSITIONS) -> None:
    """Trains all layers from one stream of residuals and saves them in sae_lens's format."""
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.training.multi_sae_trainer import MultiSAETrainer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    model = LlamaForCausalLM.from_pretrained(out / "model").eval()
    saved = work / "residuals.pt"
    if not saved.exists():
        data = residuals(model, tokenizer, "saes", n_positions, held_out)
        torch.save(data, work / "residuals.tmp")
        (work / "residuals.tmp").replace(saved)
    data = torch.load(saved, weights_only=True)
    d_model = model.config.hidden_size

    def sae(layer: int) -> BatchTopKTrainingSAE:
        metadata = SAEMetadata(
            model_name="corrsteer-bundled", hook_name=f"blocks.{layer}.hook_resid_post"
        )
        return BatchTopKTrainingSAE(
            BatchTopKTrainingSAEConfig(
                d_in=d_model,
                d_sae=WIDTH,
                k=K,
                # The saved threshold is a moving average; the default is too slow for a short run.
                topk_threshold_lr=0.1,
                normalize_activations="expected_average_only_in",
                metadata=metadata,
            )
        )

    config = SAETrainerConfig(
        total_training_samples=SAMPLES,
        train_batch_size_samples=BATCH,
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
        data_provider=_batches(data, 0),
    ).fit()
    for name, trained in saes.items():
        trained.save_inference_model(out / "saes" / name)
