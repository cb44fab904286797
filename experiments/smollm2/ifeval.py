"""IFEval of SmolLM2 without steering: whether the task, the rules and the model give the published
score.

    python -m experiments.smollm2.ifeval OUT.jsonl PATH

``PATH``: the authors' ``input_data.jsonl``, or its folder. All 541 requests, greedy answers of at
most 1,280 tokens, in the chat template. Answers are written as they come; a run that was stopped
goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.progress import track

from corrsteer import config
from corrsteer.models.local import Local
from corrsteer.stats.intervals import proportion_ci
from corrsteer.tasks.ifeval import IFEval
from experiments.smollm2.text import composed, smollm2

BATCH, TOKENS = 64, 1280
FIRST = 4
"""Answers that are longer than this part of what they may be are asked again, by themselves."""


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """The authors' four numbers."""
    parser = argparse.ArgumentParser(description="IFEval of SmolLM2 without steering.")
    parser.add_argument("out", type=Path, help="file for the answers, .jsonl")
    parser.add_argument("data", type=Path, help="the authors' file or its folder")
    parser.add_argument("--limit", type=int, help="so many requests")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of an answer, at most")
    parser.add_argument("--dtype", default="auto", help="of the model: float32, bfloat16")
    args = parser.parse_args(argv)

    task = config.instantiate(composed("task=ifeval", f"task.data={args.data}").task, IFEval)
    examples = task.examples()[: args.limit]
    lines = args.out.read_text(encoding="utf-8").splitlines() if args.out.exists() else []
    answers = {row["id"]: row["answer"] for row in map(json.loads, lines)}
    model = Local(batch_size=BATCH).load(smollm2(args.dtype))
    with args.out.open("a", encoding="utf-8") as out:
        # A batch takes as long as its longest answer, so long ones are written among themselves.
        for tokens in (args.tokens // FIRST, args.tokens):
            left = [example for example in examples if example.id not in answers]
            batches = model.batches([example.prompt for example in left])
            for batch in track(batches, description=f"answers of up to {tokens} tokens"):
                prompts = [left[i].prompt for i in batch]
                (made,) = model.generate(prompts, [None], max_new_tokens=tokens)
                for i, answer in zip(batch, made, strict=True):
                    if len(answer.tokens) == tokens < args.tokens:
                        continue
                    answers[left[i].id] = answer.text
                    row = {"id": left[i].id, "answer": answer.text, "tokens": len(answer.tokens)}
                    out.write(json.dumps(row) + "\n")
                out.flush()
    table = pd.DataFrame({"answer": [answers[example.id] for example in examples]})
    numbers = dict(task.metrics(examples, table))
    for name, share in numbers.items():
        print(f"{name:20}{100 * share:5.1f} %")
    right = round(numbers["strict_prompt"] * len(examples))
    low, high = proportion_ci(right, len(examples))
    print(f"{len(examples)} requests, strict_prompt {100 * low:.1f} to {100 * high:.1f} %")
    return numbers


if __name__ == "__main__":
    main()
