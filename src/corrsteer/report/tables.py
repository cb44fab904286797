"""What run folders hold, as rows for reports and trackers; and the kinds of arms in words.

Cheap; needs no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd
from pandas.api.types import is_integer_dtype, is_numeric_dtype

from corrsteer.errors import DataError
from corrsteer.report.numbers import interval, p_value, pct, points, whole
from corrsteer.report.record import ArmSummary, Control, Interval, Record, Transfer
from corrsteer.steering.arms import BASELINE, KINDS, STEERED

Result = TypeVar("Result")


# -- kinds of arms in words --------------------------------------------------------------------


def control_kinds() -> list[str]:
    """Kinds of controls in the order of a sentence: the closest to the plan first."""
    return [kind for kind in reversed(KINDS) if kind not in (BASELINE, STEERED)]


def drawn_kinds() -> list[str]:
    """Kinds of controls with several draws, whose range is shown as a band."""
    return [kind for kind in control_kinds() if KINDS[kind].drawn]


def in_words(kind: str) -> str:
    """A kind of control in a list or a heading: instruction, random features."""
    return re.sub("^an? ", "", KINDS[kind].plural)


def subject(kind: str) -> str:
    """A kind of control at the beginning of a sentence: the instruction, random features."""
    return re.sub("^an? ", "the ", KINDS[kind].plural)


# -- rows --------------------------------------------------------------------------------------


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file of a run, as one line that names it."""
    try:
        yield
    except Exception as error:  # pandas and pyarrow have a dozen of them
        missing = isinstance(error, FileNotFoundError)
        words = " ".join(str(error).split())[:200] or type(error).__name__
        what = "is not there" if missing else f"is damaged ({words})"
        raise DataError(f"{path} {what}: type the run's command again") from error


def read_json(path: Path, kind: type = dict) -> Any:
    """An object, or with ``kind`` a list; DataError for anything else."""
    with reading(path):
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, kind):
            raise ValueError(f"a {kind.__name__} was expected")
        return value


def read_features(folder: Path) -> pd.DataFrame:
    """The ranked features of a run; for a method that ranks none, the columns alone."""
    path = folder / "features.csv"
    whole, words = ("layer", "rank", "feature"), ("class",)
    truths, numbers = ("noise", "chosen"), ("r", "ceiling", "coefficient", "freq", "stability")
    with reading(path):
        table = pd.read_csv(path, dtype=dict.fromkeys(truths, bool))
        _check_columns(table, (*whole, *numbers, *truths, *words))
        for names, fits in ((whole, is_integer_dtype), (numbers, is_numeric_dtype)):
            for name in names if len(table) else ():
                if not fits(table[name]):
                    raise ValueError(f"the column {name} holds {table[name].dtype}")
        return table


@dataclass(frozen=True)
class RankedBy:
    """What a run's features are ranked by: the ``column`` of features.csv, and whether it has a
    ceiling."""

    column: str
    ceiling: bool

    @property
    def noun(self) -> str:
        return "correlation" if self.column == "r" else self.column

    @property
    def title(self) -> str:
        return self.noun[:1].upper() + self.noun[1:]


def ranked_by(features: pd.DataFrame, score: str) -> RankedBy:
    """``score``: its name in the record. A selector that gives no score of its own ranks by r."""
    known = not features["ceiling"].isna().all() or not len(features)
    return RankedBy(score if score in features else "r", known)


def read_table(path: Path, columns: Sequence[str], **dtypes: str) -> pd.DataFrame:
    """A table that a run wrote, which has at least these columns."""
    with reading(path):
        table = pd.read_csv(path, dtype=dtypes or None)
        _check_columns(table, columns)
        return table


def read_training(folder: Path) -> list[dict[str, Any]] | None:
    """The checkpoints of a run that trained, the model as it is first; None of another."""
    path = folder / "training.csv"
    if not path.exists():
        return None
    columns = ("lr", "epoch", "loss", "seconds", "accuracy", "fixed", "broken", "chosen")
    return records(read_table(path, columns, epoch="int64", chosen="bool"))


def read_answers(
    folder: Path, columns: Sequence[str], splits: Sequence[str], arms: Sequence[str]
) -> pd.DataFrame:
    """Those columns of the rows of a run's answers.parquet that are of these splits and arms."""
    path = folder / "answers.parquet"
    with reading(path):
        answers = pd.read_parquet(
            path,
            columns=list(columns),
            filters=[("split", "in", list(splits)), ("arm", "in", list(arms))],
        )
        _check_columns(answers, columns)
        for name in {"score", "invalid"} & set(columns):
            if not is_numeric_dtype(answers[name]):
                raise ValueError(f"the column {name} holds {answers[name].dtype}")
        for name in set(columns) - {"score", "invalid", "degenerate"}:  # the last: None or a text
            if not all(isinstance(text, str) for text in answers[name]):
                raise ValueError(f"the column {name} holds more than texts")
        return answers


def _check_columns(table: pd.DataFrame, names: Sequence[str]) -> None:
    if lacking := [name for name in names if name not in table]:
        raise ValueError(f"it has no column {lacking[0]}")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain dicts with None for what is absent."""
    rows: list[dict[str, Any]] = table.astype(object).where(table.notna(), None).to_dict("records")
    return rows


@dataclass(frozen=True)
class ArmRow(Generic[Result]):
    """``label``: how the arm is shown, with a number where there are several of its kind.
    ``result``: what was measured of it."""

    name: str
    kind: str
    label: str
    result: Result


def arm_rows(results: Mapping[str, Result], kinds: Mapping[str, str]) -> list[ArmRow[Result]]:
    """Arms in the order in which their kinds are shown. ``kinds``: of at least these arms, by name.

    Raises DataError for a kind that this version does not know.
    """
    for name in results:
        if kinds.get(name) not in KINDS:
            raise DataError(
                f"the arm {name} is of the unknown kind {kinds.get(name)!r}; this version knows: "
                f"{', '.join(KINDS)}; type the run's command again"
            )
    rows = []
    for kind in KINDS:
        names = [name for name in results if kinds[name] == kind]
        for n, name in enumerate(names, start=1):
            number = f" {n}" if len(names) > 1 else ""
            rows.append(ArmRow(name, kind, KINDS[kind].label + number, results[name]))
    return rows


def by_kind(rows: Sequence[ArmRow[Result]]) -> list[tuple[str, list[ArmRow[Result]]]]:
    """Rows of one kind together, in the order of ``rows``."""
    found: dict[str, list[ArmRow[Result]]] = {}
    for row in rows:
        found.setdefault(row.kind, []).append(row)
    return list(found.items())


def folded_label(same: Sequence[ArmRow[Result]]) -> str:
    """Of one row, or of several draws of a kind that share one."""
    return same[0].label if len(same) == 1 else f"{KINDS[same[0].kind].label} ×{len(same)}"


def span(values: Sequence[float | None], text: Callable[[float | None], str]) -> str:
    """A number, or the range of several."""
    known = [value for value in values if value is not None]
    ends = (
        dict.fromkeys(text(value) for value in (min(known), max(known))) if known else [text(None)]
    )
    return " to ".join(ends)


@dataclass(frozen=True)
class ArmLine:
    """A line of the table of arms, as text: one arm, or all draws of a kind. ``band``: where most
    draws are. ``lead``: by how much steering is ahead of it, ``test``: how sure that is; both empty
    where nothing is compared."""

    label: str
    accuracy: str
    band: str
    gain: str
    invalid: str
    degenerate: str
    lead: str
    test: str


def arm_lines(
    record: Record, rows: Sequence[ArmRow[ArmSummary]], paired_p: Mapping[str, float]
) -> list[ArmLine]:
    """``rows``: of the record's arms, the baseline first. Several draws of a kind share a line.
    ``paired_p``: corrected, of every kind of control but the random features."""
    base = rows[0].result.accuracy
    lines = []
    for kind, same in by_kind(rows):
        arms = [row.result for row in same]
        band, control = "", record.controls.get(kind)
        if len(arms) == 1:
            band = " to ".join(map(pct, arms[0].ci))
        elif control and control.band:
            band = " to ".join(pct(base + bound) for bound in control.band)
        lines.append(
            ArmLine(
                label=folded_label(same),
                accuracy=span([arm.accuracy for arm in arms], pct),
                band=band,
                gain="" if kind == BASELINE else span([a.accuracy - base for a in arms], points),
                invalid=span([arm.invalid_rate for arm in arms], pct),
                degenerate=span([float(arm.degenerate) for arm in arms], whole),
                lead=f"{points(control.paired_gain)} {interval(control.paired_ci)}"
                if control
                else "",
                test=_test(control, paired_p.get(kind)) if control else "",
            )
        )
    return lines


def _test(control: Control, paired_p: float | None) -> str:
    """``paired_p`` None: of random features, whose test is the rank where there is one."""
    if paired_p is not None or control.p is None:
        return p_value(control.paired_p if paired_p is None else paired_p)
    rank, of = control.at_least_as_good + 1, len(control.gains) + 1
    return f"rank {rank} of {of}, {p_value(control.p)}"


@dataclass(frozen=True)
class TransferRow:
    """One cell of the transfer matrix: a plan on the test questions of ``task``."""

    task: str
    n: int
    baseline: float
    steered: float
    gain: float
    gain_ci: Interval
    fixed: int
    broken: int
    ser: float | None
    mcnemar_p: float
    random_gains: list[float]

    @classmethod
    def of(cls, task: str, tested: Transfer) -> TransferRow:
        return cls(
            task=task,
            n=tested.n,
            baseline=tested.arms[BASELINE].accuracy,
            steered=tested.arms[STEERED].accuracy,
            gain=tested.gain,
            gain_ci=tested.gain_ci,
            fixed=tested.flips.fixed,
            broken=tested.flips.broken,
            ser=tested.flips.ser,
            mcnemar_p=tested.flips.mcnemar_p,
            random_gains=tested.random_gains,
        )

    @property
    def best_random(self) -> float | None:
        return max(self.random_gains, default=None)
