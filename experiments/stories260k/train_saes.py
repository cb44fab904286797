"""Trains one SAE per layer of a story model on its own stories, and measures them.

    python experiments/stories260k/train_saes.py MODEL_FOLDER

The recipe is the bundled model's (../bundled_model/saes.py). Documents are openings of the task
``stories`` with the model's own continuations: every other batch greedy, as answers are, the
rest sampled at temperature 1. All of these openings come after those of the task, so none is in
any of its splits. Writes OUT/layer_N and OUT/quality.json; 5 to 10 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from corrsteer.tasks.stories import OPENINGS, openings

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "bundled_model"))

import saes  # noqa: E402 the other experiment's recipe

WIDTH = 512
POSITIONS = 400_000
HELD_OUT_POSITIONS = 50_000
HELD_OUT_START = 50_000  # far behind the training documents in the stream of openings
NEW_TOKENS = 256  # most stories have ended by then
BATCH = 256
STOP = (1, 2)  # between its stories the model has seen BOS, not EOS


def documents(model: PreTrainedModel, tokenizer, start: int) -> Iterator[list[saes.Document]]:
    """The model's own stories from the openings after the first ``start``, without end."""
    stream = islice(openings(), start, None)
    torch.manual_seed(start)
    sample = False
    while True:
        prompts = tokenizer([text for text, _ in islice(stream, BATCH)])["input_ids"]
        yield continued(model, prompts, sample)
        sample = not sample


def continued(
    model: PreTrainedModel, prompts: list[list[int]], sample: bool
) -> list[saes.Document]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    new = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=NEW_TOKENS,
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
def quality(out: Path, residuals: dict[int, torch.Tensor]) -> list[dict]:
    """Fit of every SAE at its own site and the sites next to it, on held-out positions."""
    from sae_lens import SAE

    rows = []
    for layer in sorted(set(residuals) - {-1}):
        sae = SAE.load_from_disk(out / f"layer_{layer}")
        row = {"layer": layer}
        for name, site in (("before", layer - 1), ("own", layer), ("after", layer + 1)):
            row[name] = saes.fit(sae, residuals[site]) if site in residuals else None
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a Llama that writes stories")
    parser.add_argument("--out", type=Path, default=REPO / "outputs" / "stories260k" / "saes")
    parser.add_argument("--positions", type=int, default=POSITIONS)
    parser.add_argument("--samples", type=int, default=saes.SAMPLES)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()

    saes.train_on(
        args.model,
        documents(model, tokenizer, OPENINGS),
        args.out,
        args.out,
        model_name=args.model.name,
        seed="stories",
        width=WIDTH,
        n_positions=args.positions,
        samples=args.samples,
    )
    held_out = saes.outputs(
        model,
        documents(model, tokenizer, HELD_OUT_START),
        HELD_OUT_POSITIONS,
        "held-out",
        embeddings=True,
    )
    rows = quality(args.out, held_out)
    (args.out / "quality.json").write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
