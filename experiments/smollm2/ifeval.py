"""IFEval of SmolLM2 without steering: whether the task, the rules and the model give the published
score.

    python -m experiments.smollm2.ifeval OUT.jsonl PATH
    python -m experiments.smollm2.ifeval OUT.jsonl PATH --llama-cpp

``PATH``: the authors' ``input_data.jsonl``, or its folder. All 541 requests, greedy answers of at
most 1,280 tokens, in the chat template. Answers are written as they come; a run that was stopped
goes on. ``--llama-cpp``: the same file is run by llama.cpp (``pip install llama-cpp-python``) in 4
bits and not by the program; on two cores that takes a tenth of the time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.progress import track

from corrsteer import config
from corrsteer.models.gguf import GGUF
from corrsteer.models.local import Local
from corrsteer.models.reading import seen
from corrsteer.stats.intervals import proportion_ci
from corrsteer.tasks.ifeval import IFEval
from experiments.smollm2.text import composed, smollm2

BATCH, TOKENS, CONTEXT = 64, 1280, 4096
FIRST = 4
"""Answers that are longer than this part of what they may be are asked again, by themselves."""


class Program:
    in_batches = True

    def __init__(self, dtype: str) -> None:
        self._model = Local(batch_size=BATCH).load(smollm2(dtype))

    def batches(self, prompts: Sequence[str]) -> Sequence[Sequence[int]]:
        return self._model.batches(prompts)

    def __call__(self, prompts: Sequence[str], tokens: int) -> list[tuple[str, int]]:
        """Each answer, and how many tokens it has."""
        (made,) = self._model.generate(prompts, [None], max_new_tokens=tokens)
        return [(answer.text, len(answer.tokens)) for answer in made]


class Llama:
    in_batches = False

    def __init__(self, threads: int) -> None:
        import llama_cpp

        self._spec = smollm2()
        assert isinstance(self._spec, GGUF)
        self._llama = llama_cpp.Llama(
            str(self._spec.file()), n_ctx=CONTEXT, n_threads=threads, verbose=False
        )

    def batches(self, prompts: Sequence[str]) -> Sequence[Sequence[int]]:
        return [[i] for i in range(len(prompts))]

    def __call__(self, prompts: Sequence[str], tokens: int) -> list[tuple[str, int]]:
        """Each answer, and how many tokens it has."""
        made = []
        for prompt in seen(self._spec, prompts):
            said: Any = self._llama.create_completion(
                prompt, max_tokens=tokens, temperature=0.0, repeat_penalty=1.0
            )
            made.append((said["choices"][0]["text"], said["usage"]["completion_tokens"]))
        return made


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """The authors' four numbers."""
    parser = argparse.ArgumentParser(description="IFEval of SmolLM2 without steering.")
    parser.add_argument("out", type=Path, help="file for the answers, .jsonl")
    parser.add_argument("data", type=Path, help="the authors' file or its folder")
    parser.add_argument("--limit", type=int, help="so many requests")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of an answer, at most")
    parser.add_argument("--dtype", default="auto", help="of the program's: float32, bfloat16")
    parser.add_argument("--llama-cpp", action="store_true", help="written by llama.cpp")
    parser.add_argument("--threads", type=int, default=1, help="of llama.cpp")
    args = parser.parse_args(argv)

    task = config.instantiate(composed("task=ifeval", f"task.data={args.data}").task, IFEval)
    examples = task.examples()[: args.limit]
    lines = args.out.read_text(encoding="utf-8").splitlines() if args.out.exists() else []
    answers = {row["id"]: row["answer"] for row in map(json.loads, lines)}
    write = Llama(args.threads) if args.llama_cpp else Program(args.dtype)
    with args.out.open("a", encoding="utf-8") as out:
        # A batch takes as long as its longest answer, so long ones are written among themselves.
        for tokens in (args.tokens // FIRST, args.tokens) if write.in_batches else (args.tokens,):
            left = [example for example in examples if example.id not in answers]
            batches = write.batches([example.prompt for example in left])
            for batch in track(batches, description=f"answers of up to {tokens} tokens"):
                made = write([left[i].prompt for i in batch], tokens)
                for i, (text, length) in zip(batch, made, strict=True):
                    if length == tokens < args.tokens:
                        continue
                    answers[left[i].id] = text
                    row = {"id": left[i].id, "answer": text, "tokens": length}
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
