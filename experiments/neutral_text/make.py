"""Makes what side effects are measured on: prompts unrelated to any task, and neutral text.

    python -m experiments.neutral_text.make                 # into the package
    python -m experiments.neutral_text.make --out FOLDER    # elsewhere

``everyday`` is for models of English: 1,000 prompts from the templates below, and the paragraphs of
everyday.txt. ``world`` is for the bundled model, which knows nothing but its invented world: what
its peoples grow, make and drink (the world of ../bundled_model, which is frozen), and as prompts
1,000 beginnings of such texts. No benchmark's row is in either. Costs a second; the same files
every time. Prints how many there are.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

from experiments.bundled_model.world import World

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "src" / "corrsteer" / "bundled" / "neutral"

THINGS = (
    "kettle", "ladder", "blanket", "lantern", "bicycle", "pencil", "teapot", "suitcase", "broom",
    "mirror", "clock", "basket", "hammer", "piano", "candle", "notebook", "scarf", "bucket",
    "camera", "radio", "saucepan", "toothbrush", "pillow", "wallet", "trumpet", "shovel", "bench",
    "whistle", "compass", "kite", "drawer", "jacket", "vase", "telescope", "needle", "backpack",
    "doorbell", "puzzle", "raincoat", "calendar",
)  # fmt: skip
ABOUT_THINGS = (
    "What is a {} used for?",
    "Describe a {} to someone who has never seen one.",
    "Write two sentences about an old {}.",
    "How do you clean a {}?",
    "Name three things that are often kept near a {}.",
    "Write a short advertisement for a {}.",
    "What should one look at before buying a {}?",
    "Tell a very short story in which a {} gets lost.",
)
ACTIVITIES = (
    "baking bread", "rowing", "gardening", "painting walls", "learning the guitar", "camping",
    "knitting", "skiing", "keeping bees", "playing chess", "taking photographs", "hiking",
    "repairing shoes", "singing in a choir", "swimming in a lake", "making jam", "birdwatching",
    "sailing", "writing letters", "collecting stamps", "cooking soup", "running", "juggling",
    "building a shelf", "growing tomatoes", "riding a horse", "drawing maps", "ice skating",
    "picking mushrooms", "flying a kite", "dancing", "fishing", "restoring furniture",
    "planning a journey", "telling stories", "moving house", "making pottery", "climbing",
    "studying the stars", "learning a language",
)  # fmt: skip
ABOUT_ACTIVITIES = (
    "Explain how to begin with {}.",
    "Why do people enjoy {}?",
    "What does one need for {}?",
    "Give a beginner one piece of advice about {}.",
    "Write a short diary entry about a day of {}.",
    "What can go wrong with {}?",
    "Compare {} with reading a book.",
    "Which season is best for {}, and why?",
)
TOPICS = (
    "the sea", "railway stations", "breakfast", "thunderstorms", "old books", "mountains",
    "the moon", "markets", "winter mornings", "bridges", "music", "cats", "coffee", "libraries",
    "autumn leaves", "friendship", "clouds", "holidays", "the desert", "handwriting", "rivers",
    "birthdays", "dreams", "snow", "gardens", "silence", "long walks", "lighthouses", "neighbours",
    "colours", "trains", "soup", "islands", "school days", "the wind", "toys", "dogs", "cities",
    "stars", "rain",
)  # fmt: skip
ABOUT_TOPICS = (
    "Write a four-line poem about {}.",
    "List five words that come to mind when you think of {}.",
    "Say in one sentence what most people know about {}.",
    "Write a friendly message that mentions {}.",
    "What might a child ask about {}?",
    "Suggest a title for an article about {}.",
    "Translate into French: I like {}.",
    "Continue this sentence: Yesterday we talked about {}, and",
    "What do people often get wrong about {}?",
)


def everyday() -> tuple[list[str], list[str]]:
    prompts = [
        template.format(word)
        for words, templates in (
            (THINGS, ABOUT_THINGS),
            (ACTIVITIES, ABOUT_ACTIVITIES),
            (TOPICS, ABOUT_TOPICS),
        )
        for word in words
        for template in templates
    ]
    # Any first part of the file is a fair sample of all of it.
    random.Random("everyday").shuffle(prompts)
    texts = (HERE / "everyday.txt").read_text(encoding="utf-8").split("\n")
    return prompts, [text for text in texts if text]


def world() -> tuple[list[str], list[str]]:
    source, rng = World("neutral"), random.Random("world")
    prompts: dict[str, None] = {}
    while len(prompts) < 1000:
        words = source.lore_text().split(" ")
        # At least one whole sentence, and something left to say.
        prompts[" ".join(words[: rng.randint(5, len(words) - 1)])] = None
    texts = dict.fromkeys(source.lore_text() for _ in range(200))
    return list(prompts), list(texts)


def write(folder: Path, prompts: list[str], texts: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind, items in (("prompts", "prompt", prompts), ("texts", "text", texts)):
        lines = [json.dumps({"id": f"{kind}_{n}", kind: item}) for n, item in enumerate(items)]
        content = ("\n".join(lines) + "\n").encode()
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(content, mtime=0))
        print(f"{folder.name}/{name}: {len(items)}, {len(set(items))} distinct")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args(arguments)
    write(args.out / "everyday", *everyday())
    write(args.out / "world", *world())


if __name__ == "__main__":
    main()
