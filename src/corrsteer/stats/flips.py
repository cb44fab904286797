"""What steering did to each answer: right, wrong or invalid, before and after.

Cost: one dictionary look-up per answer. An invalid answer is a state of its own because on
multiple choice much of a gain can be "answers with a letter at all".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corrsteer.records import RIGHT
from corrsteer.stats.intervals import mcnemar_exact

if TYPE_CHECKING:
    from pandas import DataFrame

STATES = ("right", "wrong", "invalid")


def state(score_value: float, invalid: bool) -> str:
    """One of :data:`STATES`. An answer that could not be parsed is invalid whatever its score."""
    if invalid:
        return "invalid"
    return "right" if score_value >= RIGHT else "wrong"


@dataclass(frozen=True)
class FlipTable:
    """``counts[i][j]``: answers in state i without and state j with steering (:data:`STATES`)."""

    counts: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        assert [len(row) for row in self.counts] == [len(STATES)] * len(STATES), self.counts

    @property
    def n(self) -> int:
        return sum(map(sum, self.counts))

    @property
    def fixed(self) -> int:
        """Wrong or invalid without, right with steering."""
        return sum(row[0] for row in self.counts[1:])

    @property
    def broken(self) -> int:
        """Right without, wrong or invalid with steering."""
        return sum(self.counts[0][1:])

    @property
    def changed(self) -> int:
        """Answers in another state with steering, wrong <-> invalid included."""
        return self.n - sum(self.counts[i][i] for i in range(len(STATES)))

    @property
    def ser(self) -> float | None:
        """Side effect ratio ``broken / (fixed + broken)``; None, not 0, when nothing flipped."""
        flipped = self.fixed + self.broken
        return self.broken / flipped if flipped else None

    @property
    def mcnemar_p(self) -> float:
        return mcnemar_exact(self.fixed, self.broken)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON: Python ints, floats, lists and None only."""
        return {
            "states": list(STATES),
            "counts": [list(row) for row in self.counts],
            "n": self.n,
            "fixed": self.fixed,
            "broken": self.broken,
            "changed": self.changed,
            "ser": self.ser,
            "mcnemar_p": self.mcnemar_p,
        }


def flip_table(base: DataFrame, steered: DataFrame) -> FlipTable:
    """Pair two arms by ``id``; both have columns id, score, invalid, in any row order.

    Raises ValueError if an id repeats within an arm or is in only one of them: a pair that is
    not a pair would count as a flip.
    """
    before, after = _states(base, "baseline"), _states(steered, "steered")
    lonely = before.keys() ^ after.keys()
    if lonely:
        raise ValueError(
            f"{len(lonely)} ids are in only one of the arms, e.g. {min(lonely)!r}: "
            "compare answers to the same samples"
        )
    counts = [[0] * len(STATES) for _ in STATES]
    for sample, old in before.items():
        counts[STATES.index(old)][STATES.index(after[sample])] += 1
    return FlipTable(tuple(map(tuple, counts)))


def _states(arm: DataFrame, name: str) -> dict[str, str]:
    states = {
        sample: state(score, invalid)
        for sample, score, invalid in zip(arm["id"], arm["score"], arm["invalid"], strict=True)
    }
    if len(states) < len(arm):
        twice = arm["id"][arm["id"].duplicated()].iloc[0]
        raise ValueError(f"id {twice!r} repeats in the {name} arm: give one answer per sample")
    return states
