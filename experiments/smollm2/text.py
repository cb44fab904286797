"""Text to train SmolLM2's SAEs on, which any machine has: prompts, and the model's own replies.

    python -m experiments.smollm2.text OUT.jsonl
    python -m experiments.smollm2.text OUT.jsonl 'task=bbq data=PATH' 'task=mmlu data=PATH'

A row is a prompt in the chat template with a reply that the model sampled (temperature 1, seeded).
Prompts are our own requests (:data:`REQUESTS` about :data:`THINGS`), and the selection questions of
tasks, each given as the settings of a run; never a test question. Without any it is those of the
bundled tasks. A batch is written when it is done, so a run that was stopped goes on. About half an
hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Iterator, Sequence
from itertools import islice
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
OWN, PER_TASK, BATCH, NEW_TOKENS = 1_280, 400, 32, 128
LONGEST = 2_000  # characters of a prompt

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


def smollm2() -> Model:
    spec = config.instantiate(composed("model=smollm2_135m_it", "sae.path=none").model, Model)
    assert isinstance(spec, Model)
    return spec


def requests(count: int) -> list[str]:
    """Different ones, in an order of their own."""
    every = [request.format(thing) for request in REQUESTS for thing in THINGS]
    return random.Random(0).sample(every, count)


def questions(words: str, count: int) -> list[str]:
    """The first of a task's selection split: of the settings of a run, those that deal it."""
    cfg = composed(*words.split(), "controls=few", "side_effects=none")
    config.check(cfg)
    prompts = [example.prompt for example in build(cfg).bench.selection]
    return list(islice((p for p in prompts if len(p) <= LONGEST), count))


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


def batches(prompts: Sequence[str], size: int) -> Iterator[list[str]]:
    """Of prompts of like length, which need little padding, in an order of their own."""
    ordered = sorted(prompts, key=len)
    every = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    random.Random(1).shuffle(every)
    yield from every


def row(text: str) -> str:
    return json.dumps({"text": text}) + "\n"


def kept(file: Path, every: Sequence[Sequence[str]]) -> list[str]:
    """The rows of whole batches that a stopped run left."""
    found = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    rows: list[str] = []
    for batch in every:
        own = found[len(rows) : len(rows) + len(batch)]
        if len(own) < len(batch) or not own[-1].endswith("\n"):
            break
        if not all(
            json.loads(line)["text"].startswith(p) for line, p in zip(own, batch, strict=True)
        ):
            raise SystemExit(f"{file} holds rows of other prompts: name another file")
        rows += own
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Text to train SmolLM2's SAEs on.")
    parser.add_argument("out", type=Path, help="file for the rows, .jsonl")
    parser.add_argument("tasks", nargs="*", help="settings of a run, such as 'task=bbq data=PATH'")
    parser.add_argument("--own", type=int, default=OWN, help="requests of our own")
    parser.add_argument("--per-task", type=int, default=PER_TASK, help="questions of each task")
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS, help="of a reply, at most")
    args = parser.parse_args(argv)

    spec = smollm2()
    prompts = requests(args.own)
    for words in args.tasks or [f"task={name}" for name in BUNDLED]:
        prompts += questions(words, args.per_task)
    model = AutoModelForCausalLM.from_pretrained(spec.folder(), local_files_only=True)
    tokens = tokenizer(spec)

    every = list(batches(seen(spec, prompts), BATCH))
    rows = kept(args.out, every)
    with args.out.open("a", encoding="utf-8") as out:
        out.truncate(len("".join(rows).encode()))  # half a batch
        written = 0
        for number, batch in enumerate(track(every, description="replies")):
            written += len(batch)
            if written <= len(rows):
                continue
            texts = replies(model, tokens, batch, args.new_tokens, seed=number)
            out.writelines(row(text) for text in texts)
            out.flush()
    print(f"{args.out}: {len(prompts):,} rows")


if __name__ == "__main__":
    main()
