"""Splits, made once by id from the seed: selection, validation and test never overlap."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from corrsteer.errors import DataError
from corrsteer.records import PARTS, Question

log = logging.getLogger(__name__)

SPLITS = ("selection", "validation", "test")
Content = tuple[object, ...]

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

    Rows that ask the same (:attr:`Question.content`) are one question, whatever their ids: they
    stand in one split, and those that would stand in a second one are left out. Of official parts
    the test part keeps its rows, then the validation part; of shots, the solved question.
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
    elsewhere = {q.content for q in kept} if shots else set()
    for source, names in sorted(shared.items(), key=lambda item: -SPLITS.index(item[1][-1])):
        own = {q.id: q.content for q in pools.get(source, [])}
        pool = [q for q in pools.get(source, []) if own[q.id] not in elsewhere]
        splits |= _deal(pool, own, {name: sizes[name] for name in names}, seed)
        elsewhere.update(own.values())
    _tell_repeats(questions)
    taken = kept if kept or not shots else splits["selection"][:shots]
    if not kept and shots:
        solved = {q.content for q in taken}
        splits["selection"] = [q for q in splits["selection"][shots:] if q.content not in solved]
        if not splits["selection"]:
            raise DataError(
                f"{len(taken)} questions are too few for a selection split besides "
                f"task.few_shot={shots}; give more data or raise splits.selection"
            )
    return {
        **{name: tuple(splits[name][: limit or len(splits[name])]) for name in SPLITS},
        "shots": tuple(taken),
    }


def _tell_repeats(questions: Sequence[Question]) -> None:
    counts = Counter(q.content for q in questions)
    repeated = sum(n - 1 for n in counts.values())
    if repeated:
        log.warning(
            "%d of %d rows ask what another row asks; the same question stands in one split only",
            *(repeated, len(questions)),
        )


def _deal(
    pool: Sequence[Question], contents: Mapping[str, Content], sizes: Mapping[str, int], seed: int
) -> dict[str, list[Question]]:
    """``contents``: by the questions' ids. Rows of one content follow each other, at the place of
    the first of them."""
    wanted = sum(sizes.values())
    share = min(1.0, len(pool) / wanted)
    places = {q.id: _place(q.id, seed) for q in pool}
    first: dict[Content, bytes] = {}
    for q in pool:
        content, place = contents[q.id], places[q.id]
        first[content] = min(first.get(content, place), place)
    ordered = sorted(pool, key=lambda q: (first[contents[q.id]], places[q.id]))
    splits: dict[str, list[Question]] = {}
    start = 0
    for name, size in sizes.items():
        count = int(size * share)
        # A question that began in the split before ends there.
        while 0 < start < len(ordered) and (
            contents[ordered[start].id] == contents[ordered[start - 1].id]
        ):
            start += 1
        splits[name] = ordered[start : start + count]
        if not splits[name]:
            different = f" ({len(first)} different ones)" if len(first) < len(pool) else ""
            raise DataError(
                f"{len(pool)} examples{different} are too few for a {name} split of {size} out of"
                f" {wanted}; give more data or change splits.{name}"
            )
        start += count
    return splits


def _place(question_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{question_id}".encode()).digest()
