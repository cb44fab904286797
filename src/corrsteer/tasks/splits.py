"""Splits, made once by id from the seed: selection, validation and test never overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from corrsteer.errors import DataError
from corrsteer.records import Example

SPLITS = ("selection", "validation", "test")


def split_examples(
    examples: Sequence[Example], sizes: Mapping[str, int], seed: int, limit: int | None = None
) -> dict[str, tuple[Example, ...]]:
    """Deals the examples into the three splits.

    An example's place depends on its id and the seed alone, so neither file order nor added
    rows reshuffle the others. Where there are fewer examples than the sizes ask for, all three
    shrink in proportion; ``limit`` then caps each of them.
    """
    ids = [e.id for e in examples]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise DataError(f"example id '{twice}' occurs more than once; ids must be unique")
    wanted = sum(sizes[name] for name in SPLITS)
    share = min(1.0, len(examples) / wanted)
    ordered = sorted(examples, key=lambda e: _place(e.id, seed))
    splits, start = {}, 0
    for name in SPLITS:
        size = int(sizes[name] * share)
        if size == 0:
            raise DataError(
                f"{len(examples)} examples are too few for a {name} split of "
                f"{sizes[name]} in {wanted}; give more data or change splits.{name}"
            )
        splits[name] = tuple(ordered[start : start + min(size, limit or size)])
        start += size
    return splits


def _place(example_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{example_id}".encode()).digest()
