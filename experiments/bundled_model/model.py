"""The bundled model's training: AdamW on fresh documents of the world, step by step.

Frozen with the model, as :mod:`scale` is. Every step's data come from its step number alone, so a
run that was stopped and resumed sees what an undisturbed one sees. The same bytes come out only
where the same kernels run: see "Made again" in the model card.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from experiments.bundled_model import text
from experiments.bundled_model.scale import Scale

SEED = 0
PEAK_LR, FINAL_LR = 3e-3, 1e-4
# Weight of a token's loss. The first token of an answer decides it; long answers and lore must
# not drown the letters.
FIRST_WEIGHT, ANSWER_WEIGHT, END_WEIGHT, PROMPT_WEIGHT, LORE_WEIGHT = 1.0, 0.3, 0.1, 0.01, 0.1

CONFIG: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "attention_dropout": 0.0,
    "initializer_range": 0.06,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def pad(rows: list[tuple[list[int], int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids [B, T] and the weight of predicting each of them [B, T]."""
    length = max(len(ids) for ids, _ in rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    weight = torch.zeros(len(rows), length)
    for i, (ids, n_prompt) in enumerate(rows):
        tokens[i, : len(ids)] = torch.tensor(ids)
        if n_prompt == 1:
            weight[i, : len(ids)] = LORE_WEIGHT
            continue
        weight[i, :n_prompt] = PROMPT_WEIGHT
        weight[i, n_prompt] = FIRST_WEIGHT
        weight[i, n_prompt + 1 : len(ids)] = ANSWER_WEIGHT
        weight[i, len(ids) - 1] = END_WEIGHT
    return tokens, weight


def learning_rate(step: int, scale: Scale) -> float:
    if step < scale.warmup:
        return PEAK_LR * (step + 1) / scale.warmup
    progress = (step - scale.warmup) / (scale.steps - scale.warmup)
    return FINAL_LR + (PEAK_LR - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * progress))


def train(work: Path, out: Path, held_out: set[str], scale: Scale) -> None:
    """Trains the model beside its tokenizer in ``out``; 30 minutes on two cores."""
    half = scale.documents // 2
    tokenizer = AutoTokenizer.from_pretrained(out)
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **CONFIG))
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    checkpoint, start = work / "checkpoint.pt", 0
    log: list[float] = []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, log = state["step"], state["log"]
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("model", total=scale.steps, completed=start)
        for step in range(start, scale.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, scale)
            documents = text.documents(
                f"train-{SEED}-{step}", scale.documents, held_out, faults=step >= scale.clean_steps
            )
            rows = sorted(text.encode(tokenizer, documents), key=lambda row: len(row[0]))
            halves = [pad(rows[:half]), pad(rows[half:])]
            total_weight = sum(float(w[:, 1:].sum()) for _, w in halves)
            loss_sum = 0.0
            for tokens, weight in halves:
                logits = model(input_ids=tokens).logits[:, :-1]
                nll = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
                )
                loss = (nll * weight[:, 1:].flatten()).sum() / total_weight
                loss.backward()
                loss_sum += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            log.append(round(loss_sum, 4))
            progress.update(bar, advance=1, description=f"model, loss {loss_sum:.3f}")
            if (step + 1) % scale.checkpoint_every == 0:
                state = {
                    "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                    "step": step + 1, "log": log,
                }  # fmt: skip
                torch.save(state, work / "checkpoint.tmp")
                (work / "checkpoint.tmp").replace(checkpoint)
                last = log[-100:]
                print(f"step {step + 1} loss {sum(last) / len(last):.4f}", flush=True)
    model.save_pretrained(out)
    (work / "loss.json").write_text(json.dumps(log))
