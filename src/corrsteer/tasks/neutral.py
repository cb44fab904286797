"""Prompts and texts that have nothing to do with a task: what side effects are measured on.

A fixed set, the same for every task and run of a model, so that numbers compare. Two come with the
package (experiments/neutral_text): ``everyday``, English, and ``world``, for the bundled model. A
folder of one's own holds ``prompts.jsonl`` (fields id, prompt) and ``texts.jsonl`` (id, text).
Cost: reading two small files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from corrsteer.errors import DataError
from corrsteer.records import Example, Score
from corrsteer.tasks.protocol import Scorer
from corrsteer.tasks.reading import BUNDLED, read_jsonl

NEUTRAL = BUNDLED.parent / "neutral"
SHIPPED = ("everyday", "world")


@dataclass(frozen=True)
class Neutral:
    """Unrelated prompts, without a right answer, and neutral texts."""

    source: str
    prompts: tuple[Example, ...]
    texts: tuple[str, ...]


def read_neutral(source: str, prompts: int, texts: int) -> Neutral:
    """At most this many of each, the first ones. ``source``: one of ``SHIPPED``, or a folder.

    Raises DataError for a folder without these files, a malformed row, or an id that comes twice.
    """
    folder = NEUTRAL / source if source in SHIPPED else Path(source).expanduser()
    asked = [
        Example(id=key, prompt=text, gold="")
        for key, text in _read(folder, source, "prompts", "prompt", prompts)
    ]
    read = [text for _, text in _read(folder, source, "texts", "text", texts)]
    return Neutral(source, tuple(asked), tuple(read))


def _read(folder: Path, source: str, name: str, field: str, most: int) -> list[tuple[str, str]]:
    if not most:
        return []
    files = [f for end in (".jsonl", ".jsonl.gz") if (f := folder / f"{name}{end}").is_file()]
    if not files:
        raise DataError(
            f"neutral={source}: no {folder / name}.jsonl; give {' or '.join(SHIPPED)}, or a folder "
            "with prompts.jsonl (fields id, prompt) and texts.jsonl (fields id, text)"
        )
    rows: dict[str, str] = {}
    for row in read_jsonl(files[:1]):
        key = row.text("id")
        if key in rows:
            raise DataError(f"{row.where}: id {key!r} occurs more than once")
        rows[key] = row.text(field)
    return list(rows.items())[:most]


def unscored(example: Example, answer: str) -> Score:
    """There is no right answer; what was said is all that counts."""
    return Score(0.0, answer)


@dataclass(frozen=True)
class Unrelated:
    """What the stages want to know of a task, for prompts that belong to none."""

    max_new_tokens: int
    name: str = "unrelated"
    scorer: Scorer = unscored
