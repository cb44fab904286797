"""Makes the bundled model organism: question files, tokenizer, model, SAEs, measurements.

    python experiments/bundled_model/train.py            # everything; resumes where it stopped
    python experiments/bundled_model/train.py --fresh    # from nothing

Costs about 45 minutes on two cores. Every step's data come from its step number alone, so a run
killed and resumed sees what an undisturbed one sees. Nothing here looks at steering results:
the recipe was fixed by accuracy and logit margins.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import text
import torch
from rich.progress import Progress
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]

SEED = 0
STEPS = 3000
CLEAN_STEPS = 1200  # right answers only: the skills form faster without label noise
DOCUMENTS = 64  # per step, in two halves by length so that little padding is computed
PEAK_LR, FINAL_LR, WARMUP = 3e-3, 1e-4, 100
# Weight of a token's loss. The first token of an answer decides it; long answers and lore must
# not drown the letters.
FIRST_WEIGHT, ANSWER_WEIGHT, END_WEIGHT, PROMPT_WEIGHT, LORE_WEIGHT = 1.0, 0.3, 0.1, 0.01, 0.1
CHECKPOINT_EVERY = 250

CONFIG = {
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


def encode(tokenizer, documents) -> list[tuple[list[int], int]]:
    """(token ids with BOS and EOS, length of the prompt) per document."""
    prompts = tokenizer([p for _, p, _ in documents], add_special_tokens=False).input_ids
    answers = tokenizer([a for _, _, a in documents], add_special_tokens=False).input_ids
    return [([1, *p, *a, 2], 1 + len(p)) for p, a in zip(prompts, answers, strict=True)]


def pad(rows) -> tuple[torch.Tensor, torch.Tensor]:
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


def learning_rate(step: int) -> float:
    if step < WARMUP:
        return PEAK_LR * (step + 1) / WARMUP
    progress = (step - WARMUP) / (STEPS - WARMUP)
    return FINAL_LR + (PEAK_LR - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * progress))


def train_model(work: Path, out: Path, held_out: set[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(out)
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **CONFIG))
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    checkpoint, log, start = work / "checkpoint.pt", [], 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, log = state["step"], state["log"]
    with Progress() as progress:
        bar = progress.add_task("model", total=STEPS, completed=start)
        for step in range(start, STEPS):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step)
            documents = text.documents(
                f"train-{SEED}-{step}", DOCUMENTS, held_out, faults=step >= CLEAN_STEPS
            )
            rows = sorted(encode(tokenizer, documents), key=lambda row: len(row[0]))
            halves = [pad(rows[: DOCUMENTS // 2]), pad(rows[DOCUMENTS // 2 :])]
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
            if (step + 1) % CHECKPOINT_EVERY == 0:
                state = {
                    "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                    "step": step + 1, "log": log,
                }  # fmt: skip
                torch.save(state, work / "checkpoint.tmp")
                (work / "checkpoint.tmp").replace(checkpoint)
                print(f"step {step + 1} loss {sum(log[-100:]) / 100:.4f}", flush=True)
    model.save_pretrained(out)
    (work / "loss.json").write_text(json.dumps(log))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="discard earlier progress")
    parser.add_argument("--work", type=Path, default=REPO / "outputs" / "bundled_model")
    parser.add_argument("--out", type=Path, default=REPO / "src" / "corrsteer" / "bundled")
    args = parser.parse_args()
    if args.fresh:
        shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True, exist_ok=True)

    items = text.questions()
    held_out = {text.prompt_of(task, item.row) for task in items for item in items[task]}

    def questions() -> None:
        text.write_question_files(items, args.out / "data")

    def tokenizer() -> None:
        import tokenizer

        tokenizer.train(args.out / "model", held_out)

    def model() -> None:
        train_model(args.work, args.out / "model", held_out)

    def saes() -> None:
        import saes

        saes.train(args.work, args.out, held_out)

    def measurements() -> None:
        import measure

        measure.write(args.work, args.out, HERE / "measurements.json", held_out)

    def card() -> None:
        import card

        card.write(HERE / "measurements.json", args.out, HERE / "README.md")

    for step in (questions, tokenizer, model, saes, measurements, card):
        done = args.work / f"{step.__name__}.done"
        if done.exists():
            print(f"{step.__name__}: done before")
            continue
        start = time.time()
        step()
        done.write_text(f"{time.time() - start:.0f}\n")
        print(f"{step.__name__}: {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
