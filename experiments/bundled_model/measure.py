"""Measures the bundled model and its SAEs for the model card. Nothing here steers.

    python -m experiments.bundled_model.measure               # prints it; 3 minutes on one core
    python -m experiments.bundled_model.measure --out FOLDER  # of a model made elsewhere

Accuracy and invalid rate per task on the test split of seed 0, through the program's own tasks,
scorers and backend (:mod:`program`); logit margins of the option tasks; explained variance, L0 and
dead features per layer on positions the SAEs were not trained on. What only the training knows
(loss, time) is added by :mod:`train`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from experiments.bundled_model import program, text, world
from experiments.bundled_model.prompts import LETTERS
from experiments.bundled_model.saes import fit, residuals
from experiments.bundled_model.scale import BUNDLED, FULL, SMALL, Scale

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BATCH = 100


def accuracies(model: Path, exams: dict[str, program.Exam]) -> dict[str, dict[str, float]]:
    found = {}
    for name, answers in program.answers(model, exams).items():
        accuracy, invalid = exams[name].rates(answers)
        found[name] = {"n": len(answers), "accuracy": accuracy, "invalid_rate": invalid}
    return found


@torch.no_grad()
def margins(folder: Path, exams: dict[str, program.Exam]) -> dict[str, torch.Tensor]:
    """Logit of the right letter less that of the best other one, at the last prompt token.

    Name -> [questions of the test split], for the tasks with options.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    letters = [tokenizer(f" {c}", add_special_tokens=False).input_ids[0] for c in LETTERS]
    found = {}
    for name, exam in exams.items():
        questions = exam.questions
        if not questions[0].options:
            continue
        values = []
        for start in range(0, len(questions), BATCH):
            part = questions[start : start + BATCH]
            inputs = tokenizer([q.prompt for q in part], return_tensors="pt", padding=True)
            inputs.pop("token_type_ids", None)
            position = (inputs.attention_mask.cumsum(1) - 1).clamp(min=0)
            logits = model(**inputs, position_ids=position, logits_to_keep=1).logits[:, -1]
            for question, row in zip(part, logits, strict=True):
                options = row[letters[: len(question.options)]].tolist()
                right = options.pop(LETTERS.index(question.gold))
                values.append(right - max(options))
        found[name] = torch.tensor(values)
    return found


def spread(margin: torch.Tensor) -> dict[str, Any]:
    return {
        "quantiles": [round(float(q), 2) for q in margin.quantile(torch.tensor(QUANTILES))],
        "within_1": round(float((margin.abs() < 1).float().mean()), 3),
    }


def fault_rates(n: int) -> dict[str, float]:
    """Share of training answers, after the clean phase, that are not the right one."""
    rates = {}
    for task in world.BIAS:
        drawn = world.World(f"rates-{task}")
        items = [drawn.item(task) for _ in range(n)]
        rates[task] = sum(drawn.answer(item) != item.right for item in items) / n
    return rates


def longest(model: Path, prompts: set[str]) -> int:
    """Tokens of the longest prompt, with BOS."""
    return max(map(len, AutoTokenizer.from_pretrained(model)(sorted(prompts)).input_ids))


@torch.no_grad()
def sae_quality(out: Path, held_out: set[str], positions: int) -> list[dict[str, float]]:
    from sae_lens import SAE

    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    model = LlamaForCausalLM.from_pretrained(out / "model").eval()
    rows = []
    for layer, x in residuals(model, tokenizer, "sae-test", positions, held_out).items():
        sae = SAE.load_from_disk(out / "saes" / f"layer_{layer}")
        rows.append({"layer": layer, **fit(sae, x)})
    return rows


def measured(out: Path, held_out: set[str], scale: Scale) -> dict[str, Any]:
    """Everything that can be measured on the files in ``out`` alone."""
    model = out / "model"
    exams = program.exams(out / "data")
    weights = LlamaForCausalLM.from_pretrained(model)
    return {
        "parameters": sum(p.numel() for p in weights.parameters()),
        "fault_rates": fault_rates(scale.fault_draws),
        "longest_prompt": longest(model, held_out),
        "tasks": accuracies(model, exams),
        "margins": {
            "quantile_levels": list(QUANTILES),
            **{name: spread(margin) for name, margin in margins(model, exams).items()},
        },
        "sae_test_positions": scale.test_positions,
        "saes": sae_quality(out, held_out, scale.test_positions),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUNDLED, help="folder of data, model, saes")
    parser.add_argument("--small", action="store_true", help="for a model made with --small")
    args = parser.parse_args(arguments)
    scale = SMALL if args.small else FULL
    print(json.dumps(measured(args.out, text.held_out(scale), scale), indent=1))


if __name__ == "__main__":
    main()
