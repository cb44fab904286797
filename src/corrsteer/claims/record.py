"""What a study found of a claim, and the committed file of all of it, ``docs/claims.json``.

Run folders are not committed; this file says what they said, and the page is made from it alone.
A run of some questions (``limit``) never takes the place of a run of all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from corrsteer.errors import DataError
from corrsteer.report.evidence import Interval, Part
from corrsteer.store.keys import digest

FILE, VERSION = "claims.json", 1
Word = Literal["supported", "refuted", "undecided"]
Unit = Literal["points", "percent", "nats", "number", "MB"]
"""``points`` and ``percent`` are of fractions of 1."""


class Number(Part):
    """The deciding number. ``what`` it is; ``ci``: 95 %, None where it has none."""

    what: str
    value: float
    ci: Interval | None
    unit: Unit


class Table(Part):
    """What the answer was read from. Cells are texts, as they are shown."""

    columns: list[str]
    rows: list[list[str]]


class Found(Part):
    """What one study says of one claim. ``smallest``: the smallest effect that the data could have
    shown, in the unit of ``number``; None where it is not known, or there is none. ``held``: why
    there is no answer although the number would give one."""

    answer: Word
    sentence: str
    number: Number | None
    smallest: float | None = None
    held: str = ""
    table: Table | None = None


class Ran(Part):
    """A study's run. ``words``: what was typed after the command, but for folders. ``seconds``: by
    the clock, the most that the same words have taken; None where nobody knows. ``limit``: at most
    so many questions per split; None: all. ``commit`` ends in + where files differed from it, and
    is empty where the folder of an earlier run was read. ``jobs``: of a sweep, how many are done,
    and of how many; ``lacking``: settings that none of these has. ``failed``: why there is no
    answer."""

    study: str
    model: str
    words: list[str]
    limit: int | None
    commit: str
    date: str
    seconds: float | None
    jobs: tuple[int, int] | None = None
    lacking: list[str] = Field(default_factory=list)
    failed: str | None = None
    answers: dict[str, Found] = Field(default_factory=dict)
    """By claim."""

    @property
    def partial(self) -> bool:
        return self.jobs is not None and self.jobs[0] < self.jobs[1]

    @property
    def data(self) -> str:
        """What was typed for it; empty: the model's and task's own."""
        return next((word for word in self.words if word.startswith("data=")), "")

    @property
    def seeds(self) -> str:
        """What was typed for them; empty: the study's own."""
        return next((word for word in self.words if word.startswith("seed=")), "")


class Kept(Part):
    """All that ``claims.json`` holds. ``missing``: studies that were not there when it was
    written."""

    runs: list[Ran] = Field(default_factory=list)
    missing: list[str] = Field(default_factory=list)

    def answer(self, study: str, claim: str, model: str) -> tuple[Ran, Found] | None:
        """Of a study's run, with it."""
        ran = self.of(study, model)
        return None if ran is None or claim not in ran.answers else (ran, ran.answers[claim])

    def of(self, study: str, model: str) -> Ran | None:
        return next((r for r in self.runs if (r.study, r.model) == (study, model)), None)


def _digest(ran: Ran) -> str:
    """So that a number that was changed by hand is found."""
    return digest(ran.model_dump(mode="json"))


def read(folder: Path) -> Kept:
    """Nothing where there is no such file. Raises DataError for one that no command has written
    so."""
    file = folder / FILE
    if not file.exists():
        return Kept()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}, and not {VERSION}")
        runs = [(Ran.model_validate(one["ran"]), one["digest"]) for one in content["runs"]]
        kept = Kept(runs=[ran for ran, _ in runs], missing=content["missing"])
    except (OSError, ValueError, KeyError, TypeError) as error:  # pydantic's are ValueErrors
        words = " ".join(str(error).split())[:200]
        raise DataError(f"cannot read {file} ({words}): delete it, and type make claims") from None
    for ran, said in runs:
        if said != _digest(ran):
            raise DataError(
                f"{file} was changed by hand: the study {ran.study} of {ran.model} is not what its"
                " run said; type make claims"
            )
    return kept


def write(folder: Path, kept: Kept) -> None:
    """By a rename, so that a reader never sees half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(kept.runs, key=lambda ran: (ran.model, ran.study))
    runs = [{"ran": ran.model_dump(mode="json"), "digest": _digest(ran)} for ran in ordered]
    content = {"version": VERSION, "missing": sorted(kept.missing), "runs": runs}
    temporary = folder / f".{FILE}"
    text = json.dumps(content, indent=1, ensure_ascii=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(folder / FILE)


def kept_for(runs: Sequence[Ran], new: Ran) -> str:
    """What the run of the same study and model has that ``new`` may not take its place for; empty
    where it may. A run of some questions replaces none of more, nor one of other data, of fewer or
    other seeds or with jobs missing any other, nor a failure an answer."""
    for old in runs:
        if (old.study, old.model) != (new.study, new.model) or old.failed is not None:
            continue
        if new.failed is not None:
            return "that did not fail"
        if new.limit is not None and (old.limit is None or old.limit > new.limit):
            return "with more questions"
        if new.data != old.data:
            return f"of other data ({old.data or 'the usual'}, not {new.data or 'the usual'})"
        if not set(_numbers(old.seeds)) <= set(_numbers(new.seeds)):
            return f"of other seeds ({old.seeds or 'the usual'}, not {new.seeds or 'the usual'})"
        if new.partial and not old.partial:
            return "of all jobs"
    return ""


def _numbers(seeds: str) -> list[str]:
    return (seeds or "seed=0").removeprefix("seed=").split(",")  # 0: where none is typed


def with_run(runs: Sequence[Ran], new: Ran) -> list[Ran]:
    """``runs`` with ``new`` in the place of the one of the same study and model, if it may take it
    (:func:`kept_for`)."""
    if kept_for(runs, new):
        return list(runs)
    for old in runs:
        if (old.study, old.model, old.words) == (new.study, new.model, new.words):
            # One that goes on with another's work takes less.
            known = [s for s in (old.seconds, new.seconds) if s is not None]
            new = new.model_copy(update={"seconds": max(known, default=None)})
    kept = [ran for ran in runs if (ran.study, ran.model) != (new.study, new.model)]
    return [*kept, new]
