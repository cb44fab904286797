"""Text to train SmolLM2's SAEs on, which any machine has: prompts, and the model's own replies.

    python -m experiments.smollm2.text OUT.jsonl
    python -m experiments.smollm2.text OUT.jsonl 'task=bbq data=PATH' 'task=mmlu data=PATH'

A row is a prompt in the chat template with a reply that the model sampled (temperature 1, seeded).
Prompts are our own requests (:data:`REQUESTS` about :data:`THINGS`), and the selection questions of
tasks, each given as the settings of a run, so never a test question of those settings. Without any
it is those of the bundled tasks. A batch is written when it is done, so a run that was stopped
goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from hydra import compose, initialize_config_dir
from rich.progress import track
from transformers import AutoModelForCausalLM, PreTrainedModel

from corrsteer import config
from corrsteer.models.reading import seen, tokenizer
from corrsteer.models.spec import Model
from corrsteer.run.build import build

CONF = Path(__file__).parents[2] / "conf"
BUNDLED = ("bbq", "mmlu", "mmlu_pro", "gsm8k", "simpleqa", "harmbench", "xstest")
OWN, PER_TASK, BATCH = 320, 100, 32
LONG, SHORT = 64, 16
"""Tokens of a reply, at most: to a request of our own, and to a question of a task."""
LONGEST = 1_000  # characters of a question

REQUESTS = (
    "Write a short story about {}.", "Explain {} to a child.", "List five facts about {}.",
    "What is {}?", "Write a poem about {}.", "Why do people care about {}?",
    "Give me advice about {}.", "Write a letter to a friend about {}.",
    "What are common mistakes with {}?", "Describe {} in one sentence.",
    "Write a dialogue between two people who disagree about {}.", "How did {} change over time?",
    "Tell me a joke about {}.", "Write a news report about {}.", "Is {} good or bad? Give reasons.",
    "Make a quiz with three questions about {}.", "Compare {} with something else you know.",
    "Write a Python function that has to do with {}.", "Write a diary entry that mentions {}.",
    "I am worried about {}. What should I do?", "Write a product review about {}.",
    "Summarize what is known about {}.", "Who should learn about {}, and why?",
    "Translate a sentence about {} into French.", "Argue against {}.",
)  # fmt: skip
THINGS = (
    "the sea", "bread", "prime numbers", "a lost dog", "the French Revolution", "gravity",
    "old people", "young managers", "a job interview", "honesty", "vaccines", "chess",
    "the stock market", "rain", "a broken promise", "nurses", "computer programmers", "religion",
    "the moon", "fractions", "a neighbour from abroad", "women in science", "fathers", "rivers",
    "free will", "coffee", "electricity", "a court trial", "football", "poverty", "a wedding",
    "whales", "grammar", "sleep", "the city of Paris", "artificial intelligence", "a thief",
    "friendship", "volcanoes", "taxes", "a school play", "dinosaurs", "bicycles", "democracy",
    "an argument at work", "cancer", "music", "the Roman Empire", "insects", "a train journey",
    "depression", "maps", "photosynthesis", "a rich uncle", "glass", "lying", "triangles",
    "the weather tomorrow", "a dangerous recipe", "passwords", "the human heart",
)  # fmt: skip


def composed(*words: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(words))


def smollm2(dtype: str = "auto") -> Model:
    spec = config.instantiate(
        composed("model=smollm2_135m_it", f"model.dtype={dtype}").model, Model
    )
    assert isinstance(spec, Model)
    return spec


def requests(count: int) -> list[str]:
    """Different ones, in an order of their own."""
    every = [request.format(thing) for request in REQUESTS for thing in THINGS]
    return random.Random(0).sample(every, min(count, len(every)))


def questions(words: str, count: int) -> list[str]:
    """The first of a task's selection split: of the settings of a run, those that deal it."""
    cfg = composed(*words.split(), f"task.max_chars={LONGEST}", "controls=few", "side_effects=none")
    config.check(cfg)
    return [example.prompt for example in islice(build(cfg).bench.selection, count)]


def replies(
    model: PreTrainedModel, tokens: Any, prompts: Sequence[str], new_tokens: int, seed: int
) -> list[str]:
    """Each prompt with a sampled reply behind it, up to the end of its turn."""
    torch.manual_seed(seed)
    sent = tokens(
        list(prompts), return_tensors="pt", padding=True, padding_side="left",
        add_special_tokens=False,
    )  # fmt: skip
    with torch.inference_mode():
        ids = model.generate(  # type: ignore[operator]
            **sent, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=new_tokens,
            pad_token_id=tokens.pad_token_id,
        )  # fmt: skip
    answers = ids[:, sent["input_ids"].shape[1] :].tolist()
    ended = [[i for i in row if i != tokens.pad_token_id] for row in answers]
    return [p + tokens.decode(row) for p, row in zip(prompts, ended, strict=True)]


def batches(*kinds: tuple[Sequence[str], int]) -> list[tuple[list[str], int]]:
    """Prompts of one kind and of like length, which need little padding, and the tokens of their
    replies; in an order of their own."""
    every = []
    for prompts, new_tokens in kinds:
        ordered = sorted(prompts, key=len)
        starts = range(0, len(ordered), BATCH)
        every += [(ordered[start : start + BATCH], new_tokens) for start in starts]
    random.Random(1).shuffle(every)
    return every


def row(text: str) -> str:
    return json.dumps({"text": text}) + "\n"


def kept(file: Path, every: Sequence[tuple[Sequence[str], int]]) -> list[str]:
    """The rows of whole batches that a stopped run left; its last row may be cut off."""
    found = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    if found and not found[-1].endswith("\n"):
        found.pop()
    prompts = [prompt for batch, _ in every for prompt in batch]
    for line, prompt in zip_longest(found, prompts[: len(found)]):
        try:
            ours = prompt is not None and json.loads(line)["text"].startswith(prompt)
        except (ValueError, KeyError, TypeError, AttributeError):
            ours = False
        if not ours:
            raise SystemExit(f"{file} holds other rows: name another file")
    whole = 0
    for batch, _ in every:
        if whole + len(batch) > len(found):
            break
        whole += len(batch)
    return found[:whole]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Text to train SmolLM2's SAEs on.")
    parser.add_argument("out", type=Path, help="file for the rows, .jsonl")
    parser.add_argument("tasks", nargs="*", help="settings of a run, such as 'task=bbq data=PATH'")
    parser.add_argument("--own", type=int, default=OWN, help="requests of our own")
    parser.add_argument("--per-task", type=int, default=PER_TASK, help="questions of each task")
    args = parser.parse_args(argv)

    spec = smollm2()
    folder = spec.folder()
    asked = []
    for words in args.tasks or [f"task={name}" for name in BUNDLED]:
        asked += questions(words, args.per_task)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokens = tokenizer(spec)

    own = seen(spec, requests(args.own))
    every = batches((own, LONG), (seen(spec, asked), SHORT))
    rows = kept(args.out, every)
    with args.out.open("a", encoding="utf-8") as out:
        out.truncate(len("".join(rows).encode()))  # half a batch
        written = 0
        for number, (batch, new_tokens) in enumerate(track(every, description="replies")):
            written += len(batch)
            if written <= len(rows):
                continue
            texts = replies(model, tokens, batch, new_tokens, seed=number)
            out.writelines(row(text) for text in texts)
            out.flush()
    print(f"{args.out}: {len(own) + len(asked):,} rows")


if __name__ == "__main__":
    main()
