"""What tests of the stages work on: a tiny random model with random SAEs, asked questions whose
outcome is a hash of the answer, so that about half of the answers are "right" and whatever the
random model writes decides which.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.models.local import Local, LocalModel
from corrsteer.models.spec import Model
from corrsteer.records import LayerStats, Question, RankedFeature, Score
from corrsteer.saes.folder import Folder
from corrsteer.selectors.correlation import Correlation
from corrsteer.stages.answers import answers
from corrsteer.stages.bench import Asking, Bench, Collect
from corrsteer.stages.controls import controls
from corrsteer.stages.plan import make_plan
from corrsteer.stages.statistics import statistics
from corrsteer.stats.scores import to_arrays
from corrsteer.steering.arms import BASELINE, Arm, baseline, steered
from corrsteer.steering.plan import Plan
from corrsteer.store.entries import Store
from corrsteer.tasks.base import Task

RANDOM = {"random": 5, "direction": 0, "shuffled": 0, "layers": 0, "flipped": 0}
COLLECT = Collect(token_source="generated", pooling="max", shuffles=20, resamples=20)


class HashTask(Task):
    def rows(self):
        rng = np.random.default_rng(0)
        words = ["the", "cat", "saw", "a", "dog", "run", "over", "there"]
        return [
            Question(f"e{i}", {"text": " ".join(rng.choice(words, size=rng.integers(2, 9)))}, "x")
            for i in range(60)
        ]


def by_hash(example, text):
    bit = hashlib.sha256(f"{example.id}{text}".encode()).digest()[0] & 1
    return Score(float(bit), text)


def asking_of(scorer: Callable = by_hash, max_new_tokens: int = 5, task=HashTask) -> Asking:
    """All questions in every split."""
    made = task(name="hash", prompt="{text}", scorer=scorer, max_new_tokens=max_new_tokens)
    return Asking(made, dict.fromkeys(("selection", "validation", "test"), made.examples()))


def bench_of(model: Path, saes: Path, cache: Path, **changes: Any) -> Bench:
    bench = Bench(
        store=Store(cache),
        backend=Local(device="cpu", batch_size=16),
        spec=Model("tiny", str(model)),
        sae=Folder(str(saes), check="off"),  # random SAEs fit no site
        selector=Correlation(),
        asking=asking_of(),
        layers=(0, 1, 2),
        collect=COLLECT,
        seed=0,
    )
    return dataclasses.replace(bench, **changes)


@pytest.fixture
def bench(tiny_llama, tiny_saes, tmp_path) -> Bench:
    return bench_of(tiny_llama, tiny_saes, tmp_path / "cache")


def emptied(bench: Bench, cache: Path, **changes: Any) -> Bench:
    """The same, with nothing in the store."""
    return dataclasses.replace(bench, store=Store(cache), **changes)


def asked(bench: Bench, *arms: Arm, split: str = "test") -> dict[str, pd.DataFrame]:
    return answers(bench, bench.asking, split, arms or [baseline()])


def unsteered(bench: Bench) -> pd.DataFrame:
    return asked(bench, split="selection")[BASELINE]


class Story(NamedTuple):
    """What the stages make of a bench, one after the other."""

    base: pd.DataFrame
    stats: list[LayerStats]
    chosen: tuple[RankedFeature, ...]
    plan: Plan
    random: list[Plan]
    arms: dict[str, pd.DataFrame]


def story(
    bench: Bench, layers: Sequence[int] = (0, 1, 2), coef: float = 1.0, **collect: Any
) -> Story:
    """``collect``: settings of the collection that differ."""
    bench = dataclasses.replace(bench, layers=tuple(layers))
    base = unsteered(bench)
    stats = statistics(bench, base, collect=dataclasses.replace(bench.collect, **collect))
    chosen = CorrSteer().choose(bench.selector.rank(stats))
    plan = make_plan(bench, chosen).turned_to(coef)
    random = [arm.intervention for arm in controls(bench, plan, stats, RANDOM)]
    return Story(base, stats, chosen, plan, random, asked(bench, baseline(), steered(plan)))


def with_a_sink(folder: Path, factor: float = 100.0, position: int = 0) -> None:
    """Enlarge what a tiny GPT-2 adds at a position of every text: it becomes an attention sink,
    with about ``factor`` times the norm of the others from the first block on."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    row = weights["transformer.wpe.weight"][position]
    row *= factor * 15 / row.norm()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def tokens(answered: pd.DataFrame) -> list[list[int]]:
    return [list(row) for row in answered["tokens"]]


def by_sae_lens(bench: Bench, layer: int):
    from sae_lens import SAE

    return SAE.load_from_disk(f"{bench.sae.path}/layer_{layer}").requires_grad_(False)  # type: ignore[attr-defined]


class Stop(Exception):
    pass


def stop_after(calls: int, method):
    """``method``, but its call number ``calls + 1`` is interrupted."""
    left = [calls]

    def limited(*args, **kwargs):
        if not left[0]:
            raise Stop
        left[0] -= 1
        return method(*args, **kwargs)

    return limited


def counted(monkeypatch, name: str) -> list[int]:
    """The number of prompts of every call of a model's method from now on."""
    calls = []
    method = getattr(LocalModel, name)

    def count(self, prompts, *args, **kwargs):
        calls.append(len(prompts))
        return method(self, prompts, *args, **kwargs)

    monkeypatch.setattr(LocalModel, name, count)
    return calls


def assert_same(found: Sequence[LayerStats], expected: Sequence[LayerStats]) -> None:
    """The very bits."""
    for one, other in zip(found, expected, strict=True):
        a, b = to_arrays(one), to_arrays(other)
        assert a.keys() == b.keys()
        for name, array in a.items():
            np.testing.assert_array_equal(array, b[name])
