"""Splits, made once by id from the seed: selection, validation and test never overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from corrsteer.errors import DataError
from corrsteer.records import PARTS, Question

SPLITS = ("selection", "validation", "test")

# Where a split's questions come from: the first official part that has any.
_SOURCES = {
    "selection": ("train", "validation", "test"),
    "validation": ("validation", "train", "test"),
    "test": ("test", "validation", "train"),
}


def split_questions(
    questions: Sequence[Question],
    sizes: Mapping[str, int],
    seed: int,
    limit: int | None = None,
    *,
    official: bool = True,
    shots: int = 0,
) -> dict[str, tuple[Question, ...]]:
    """Deals the questions into the three splits, and those for few-shot prompts under "shots".

    A question's place depends on its id and the seed alone, so neither file order nor added
    rows reshuffle the others. Where there are fewer questions than the sizes ask for, all splits
    that share them shrink in proportion; ``limit`` then caps each of them.

    ``official``: where a benchmark has official parts, our test questions come from its test
    part and selection and validation from its train or validation part; with False all its rows
    are one pool. ``shots`` solved questions are set aside: all rows that the benchmark keeps for
    this, else the first ones of the selection split, which then lacks them.
    """
    kept = [q for q in questions if q.part == "shots"]
    pools: dict[str, list[Question]] = {}
    for question in questions:
        assert question.part in ("", *PARTS), question
        if question.part != "shots":
            pools.setdefault(question.part if official else "", []).append(question)
    if "" in pools and len(pools) > 1:
        raise DataError(
            f"question '{pools[''][0].id}' is in no official split, but others are; name the split "
            "of every row, or type splits.official=false"
        )
    shared: dict[str, list[str]] = {}
    for name in SPLITS:
        source = next((part for part in _SOURCES[name] if part in pools), "")
        shared.setdefault(source, []).append(name)
    splits: dict[str, list[Question]] = {}
    for source, names in shared.items():
        splits |= _deal(pools.get(source, []), {name: sizes[name] for name in names}, seed)
    taken = kept if kept or not shots else splits["selection"][:shots]
    if not kept and shots:
        splits["selection"] = splits["selection"][shots:]
        if not splits["selection"]:
            raise DataError(
                f"{len(taken)} questions are too few for a selection split besides "
                f"task.few_shot={shots}; give more data or raise splits.selection"
            )
    return {
        **{name: tuple(splits[name][: limit or len(splits[name])]) for name in SPLITS},
        "shots": tuple(taken),
    }


def _deal(
    pool: Sequence[Question], sizes: Mapping[str, int], seed: int
) -> dict[str, list[Question]]:
    wanted = sum(sizes.values())
    share = min(1.0, len(pool) / wanted)
    ordered = sorted(pool, key=lambda q: _place(q.id, seed))
    splits: dict[str, list[Question]] = {}
    start = 0
    for name, size in sizes.items():
        count = int(size * share)
        if count == 0:
            raise DataError(
                f"{len(pool)} examples are too few for a {name} split of {size} out of {wanted}; "
                f"give more data or change splits.{name}"
            )
        splits[name] = ordered[start : start + count]
        start += count
    return splits


def _place(question_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{question_id}".encode()).digest()
