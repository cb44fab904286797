"""How the scorer rates unsteered stories that the task never asks for.

    python -m experiments.stories260k.base_rates MODEL_FOLDER           # a minute on two cores
    python -m experiments.stories260k.base_rates MODEL_FOLDER --small

Greedy continuations of openings after those of the task, as long as the task's answers, scored by
the task's own scorer: the only use of the program in this folder. Prints shares in percent.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM, AutoTokenizer

from corrsteer import config
from experiments.stories260k.openings import OPENINGS, openings
from experiments.stories260k.train_saes import REPO, STOP, continued

N, BATCH = 1024, 256


def rates(folder: Path, n: int) -> dict[str, float]:
    """Shares, in percent, of right, wrong and invalid endings and of stories that were cut off."""
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        task: Any = config.instantiate(compose("config", ["task=stories"]).task)
    (example, *_) = task.examples()  # all are right for the same reason
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = [text for text, _ in islice(openings(), OPENINGS, OPENINGS + n)]
    found: Counter[str] = Counter()
    for start in range(0, n, BATCH):
        prompts = tokenizer(texts[start : start + BATCH])["input_ids"]
        for ids, n_prompt in continued(model, prompts, False, task.max_new_tokens):
            score = task.scorer(example, tokenizer.decode(ids[n_prompt:], skip_special_tokens=True))
            right = "right" if score.value else "wrong"
            found["invalid" if score.invalid else right] += 1
            found["cut off"] += ids[-1] not in STOP
    return {k: round(100 * found[k] / n, 1) for k in ("right", "wrong", "invalid", "cut off")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a Llama that writes stories")
    parser.add_argument("--small", action="store_true", help="8 stories")
    args = parser.parse_args(arguments)
    print(json.dumps(rates(args.model, 8 if args.small else N)))


if __name__ == "__main__":
    main()
