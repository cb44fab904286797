"""What everything is measured against, transformers' own greedy ``generate``, and how: in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

Tokens = list[tuple[int, ...]]
Name = TypeVar("Name")


class Plain:
    """A model and its tokenizer as transformers loads them. ``endless``: no token ends answers."""

    def __init__(
        self, folder: Path, dtype: str = "float32", device: str = "cpu", *, endless: bool = False
    ) -> None:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        self.model = loaded.to(device).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._end = None if endless else self.model.generation_config.eos_token_id
        self.model.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=self._end, pad_token_id=self._tokenizer.pad_token_id
        )

    def batches(self, prompts: Sequence[str], size: int) -> list[list[int]]:
        """Indices of the prompts by length, as the program batches them."""
        lengths = [len(ids) for ids in self._tokenizer(list(prompts))["input_ids"]]
        order = sorted(range(len(prompts)), key=lengths.__getitem__)
        return [order[i : i + size] for i in range(0, len(order), size)]

    def generate(
        self, prompts: Sequence[str], batches: Sequence[Sequence[int]], new_tokens: int
    ) -> Tokens:
        """The answers' tokens, in the order of the prompts, up to the one that ends them.

        ``batches``: indices of the prompts that are answered together.
        """
        found: dict[int, tuple[int, ...]] = {}
        for rows in batches:
            texts = [prompts[i] for i in rows]
            inputs = self._tokenizer(texts, padding=True, return_tensors="pt")
            inputs = inputs.to(self.model.device)
            with torch.no_grad():
                whole = self.model.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    max_new_tokens=new_tokens,
                )
            answers = whole[:, inputs["input_ids"].shape[1] :].tolist()
            found.update(zip(rows, map(self._ended, answers), strict=True))
        return [found[i] for i in range(len(prompts))]

    def _ended(self, answer: list[int]) -> tuple[int, ...]:
        length = answer.index(self._end) + 1 if self._end in answer else len(answer)
        return tuple(answer[:length])


def ratios(seconds: Mapping[str, Sequence[float]], base: str) -> dict[str, tuple[float, float]]:
    """By name, how many times as long as ``base``: the fastest of the repeats, and the median."""
    return {
        name: (
            min(times) / min(seconds[base]),
            statistics.median(times) / statistics.median(seconds[base]),
        )
        for name, times in seconds.items()
    }


def show(seconds: Mapping[str, Sequence[float]], base: str) -> None:
    """A row per name of ``seconds``."""
    print(f"{'times ' + base:<26}{'fastest':>9}{'median':>9}")
    for name, (fastest, median) in ratios(seconds, base).items():
        print(f"{name:<26}{fastest:>9.3g}{median:>9.3g}")


def in_turn(
    cases: Mapping[Name, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float],
    *,
    warm: bool = True,
) -> dict[Name, list[float]]:
    """Seconds of every case, one per repeat; the cases take turns, and a first round warms up but
    where it need not."""
    seconds: dict[Name, list[float]] = {name: [] for name in cases}
    for repeat in range(not warm, repeats + 1):
        for name, case in cases.items():
            start = clock()
            case()
            if repeat:
                seconds[name].append(clock() - start)
    return seconds
