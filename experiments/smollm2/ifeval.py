"""IFEval of SmolLM2 without steering: whether the task, the rules and the model give the published
score.

    python -m experiments.smollm2.ifeval OUT.jsonl PATH

``PATH``: the authors' ``input_data.jsonl``, or its folder. All 541 requests, greedy answers of at
most 1,280 tokens, in the chat template. Answers are written as they come; a run that was stopped
goes on. With ``--engine llama.cpp`` the file itself is run, by :mod:`.llama_cpp`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.progress import track

from corrsteer import config
from corrsteer.models import reading
from corrsteer.models.gguf import GGUF
from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from corrsteer.records import Example
from corrsteer.scorers.instructions import Instructions
from corrsteer.tasks.ifeval import IFEval
from experiments.smollm2.text import composed, smollm2

BATCH, TOKENS, DRAWS = 64, 1280, 2000
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
    parser.add_argument("--engine", default="ours", choices=["ours", "llama.cpp"])
    args = parser.parse_args(argv)

    task = config.instantiate(composed("task=ifeval", f"task.data={args.data}").task, IFEval)
    examples = task.examples()[: args.limit]
    lines = args.out.read_text(encoding="utf-8").splitlines() if args.out.exists() else []
    answers = {row["id"]: row["answer"] for row in map(json.loads, lines)}
    left = [example for example in examples if example.id not in answers]
    write = _by_llama_cpp if args.engine == "llama.cpp" else _by_ours
    with args.out.open("a", encoding="utf-8") as out:
        made = write(smollm2(args.dtype), left, args.tokens) if left else ()
        for example, answer, tokens in made:
            answers[example.id] = answer
            out.write(json.dumps({"id": example.id, "answer": answer, "tokens": tokens}) + "\n")
            out.flush()
    table = pd.DataFrame({"answer": [answers[example.id] for example in examples]})
    numbers = dict(task.metrics(examples, table))
    for name, share in numbers.items():
        print(f"{name:20}{100 * share:5.1f} %")
    assert isinstance(task.scorer, Instructions)
    kept = [task.scorer.followed(e.gold, answers[e.id], loose=False) for e in examples]
    drawn = np.random.default_rng(0).integers(len(kept), size=(DRAWS, len(kept)))
    means = [mean_of_both([kept[i] for i in some]) for some in drawn]
    low, high = np.percentile(means, [2.5, 97.5])
    print(
        f"{len(examples)} requests, mean of both strict ones {100 * mean_of_both(kept):.1f} %"
        f" ({100 * low:.1f} to {100 * high:.1f}, bootstrap over requests)"
    )
    return numbers


def mean_of_both(kept: Sequence[Sequence[bool]]) -> float:
    """Which instructions were followed, by request: the number that is published for SmolLM2."""
    each = [good for some in kept for good in some]
    return (sum(map(all, kept)) / len(kept) + sum(each) / len(each)) / 2


def _by_ours(
    model: Model, left: Sequence[Example], tokens: int
) -> Iterator[tuple[Example, str, int]]:
    """Examples with their answers and the tokens of these."""
    loaded = Local(batch_size=BATCH).load(model)
    # A batch takes as long as its longest answer, so long ones are written among themselves.
    for most in (tokens // FIRST, tokens):
        longer = []
        batches = loaded.batches([example.prompt for example in left])
        for batch in track(batches, description=f"answers of up to {most} tokens"):
            (made,) = loaded.generate([left[i].prompt for i in batch], [None], max_new_tokens=most)
            for i, answer in zip(batch, made, strict=True):
                if len(answer.tokens) == most < tokens:
                    longer.append(left[i])
                else:
                    yield left[i], answer.text, len(answer.tokens)
        left = longer


def _by_llama_cpp(
    model: Model, left: Sequence[Example], tokens: int
) -> Iterator[tuple[Example, str, int]]:
    """The same, of a GGUF file."""
    from experiments.smollm2.llama_cpp import Engine

    assert isinstance(model, GGUF)
    words = reading.tokenizer(model)
    texts = reading.seen(model, [example.prompt for example in left])
    prompts = [words(text, add_special_tokens=False)["input_ids"] for text in texts]
    longest = max(map(len, prompts), default=0) + tokens
    found = Engine(model.file(), longest).answers(prompts, tokens, reading.ends(model))
    for n, ids in track(found, total=len(left), description=f"answers of up to {tokens} tokens"):
        yield (
            left[n],
            words.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            len(ids),
        )


if __name__ == "__main__":
    main()
