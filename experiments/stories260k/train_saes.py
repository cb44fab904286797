"""Trains one SAE per layer of a story model on its own stories, and measures them.

    python -m experiments.stories260k.train_saes MODEL_FOLDER
    python -m experiments.stories260k.train_saes MODEL_FOLDER --out FOLDER --small   # in seconds

The recipe is the bundled model's (../bundled_model/saes.py). Documents are openings
(:mod:`openings`) with the model's own continuations: every other batch greedy, as answers are, the
rest sampled at temperature 1. All of these openings come after those of the task, so none is in
any of its splits. Writes OUT/layer_N and OUT/quality.json; 5 to 10 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from experiments.bundled_model import saes
from experiments.stories260k.openings import OPENINGS, openings

REPO = Path(__file__).resolve().parents[2]

HELD_OUT_START = 50_000  # far behind the training documents in the stream of openings
STOP = (1, 2)  # between its stories the model has seen BOS, not EOS


@dataclass(frozen=True)
class Scale:
    width: int
    positions: int
    samples: int
    """Drawn from the positions, again and again."""
    sae_batch: int
    held_out_positions: int
    openings: int
    """Continued together."""
    new_tokens: int


FULL = Scale(
    width=512,
    positions=400_000,
    samples=900_000,
    sae_batch=2048,
    held_out_positions=50_000,
    openings=256,
    new_tokens=256,  # most stories have ended by then
)
SMALL = Scale(
    width=64,
    positions=200,
    samples=1000,
    sae_batch=100,
    held_out_positions=100,
    openings=4,
    new_tokens=24,
)


def documents(
    model: PreTrainedModel, tokenizer: Any, start: int, scale: Scale
) -> Iterator[list[saes.Document]]:
    """The model's own stories from the openings after the first ``start``, without end."""
    stream = islice(openings(), start, None)
    torch.manual_seed(start)
    sample = False
    while True:
        prompts = tokenizer([text for text, _ in islice(stream, scale.openings)])["input_ids"]
        yield continued(model, prompts, sample, scale.new_tokens)
        sample = not sample


def continued(
    model: PreTrainedModel, prompts: list[list[int]], sample: bool, new_tokens: int
) -> list[saes.Document]:
    """Each prompt with at most so many tokens after it, to the first of ``STOP``."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    new = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=new_tokens,
        do_sample=sample,
        top_k=0 if sample else None,
        pad_token_id=0,
        eos_token_id=list(STOP),
    )[:, width:].tolist()
    return [(p + _until_stop(n), len(p)) for p, n in zip(prompts, new, strict=True)]


def _until_stop(tokens: list[int]) -> list[int]:
    end = next((n for n, token in enumerate(tokens, start=1) if token in STOP), len(tokens))
    return tokens[:end]


@torch.no_grad()
def quality(out: Path, residuals: dict[int, torch.Tensor]) -> list[dict[str, Any]]:
    """Fit of every SAE at its own site and the sites next to it, on held-out positions."""
    from sae_lens import SAE

    rows = []
    for layer in sorted(set(residuals) - {-1}):
        sae = SAE.load_from_disk(out / f"layer_{layer}")
        row: dict[str, Any] = {"layer": layer}
        for name, site in (("before", layer - 1), ("own", layer), ("after", layer + 1)):
            row[name] = saes.fit(sae, residuals[site]) if site in residuals else None
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a Llama that writes stories")
    parser.add_argument("--out", type=Path, default=REPO / "outputs" / "stories260k" / "saes")
    parser.add_argument("--small", action="store_true", help="in seconds; the SAEs know nothing")
    args = parser.parse_args(arguments)
    make(args.model, args.out, SMALL if args.small else FULL)


def make(folder: Path, out: Path, scale: Scale) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    saes.train_on(
        folder,
        documents(model, tokenizer, OPENINGS, scale),
        out,
        out,
        model_name=folder.name,
        seed="stories",
        width=scale.width,
        n_positions=scale.positions,
        samples=scale.samples,
        batch=scale.sae_batch,
    )
    held_out = saes.outputs(
        model,
        documents(model, tokenizer, HELD_OUT_START, scale),
        scale.held_out_positions,
        "held-out",
        embeddings=True,
    )
    rows = quality(out, held_out)
    (out / "quality.json").write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
