"""What steering did to each answer: right, wrong or invalid, before and after.

Cost: a look-up per answer, to pair by id: milliseconds for 10,000. An invalid answer is a state of
its own because on multiple choice much of a gain can be "answers with a letter at all".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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


def side_effect_ratios(flips: FlipTable, answers_changed: int) -> dict[str, float | None]:
    """What steering broke, per what: the published definitions, None where one divides by 0.

    ``answers_changed``: answers that were read as another one with steering (:func:`changes`).

    ===========================  ==================================================================
    flips                        per flip, fixed or broken (CorrSteer): the default
    changed                      per changed answer (CorrSteer: "of all changed answers")
    right                        per right answer before
    negative_flip_rate           per answer (Yan et al. 2021, "Positive-congruent training")
    relative_negative_flip_rate  that, as a multiple of what independent errors at the accuracies
                                 before and after would give (Yan et al. 2021)
    ===========================  ==================================================================
    """
    n, broken = flips.n, flips.broken
    before, after = sum(flips.counts[0]), sum(row[0] for row in flips.counts)
    independent = before * (n - after) / n
    return {
        "flips": flips.ser,
        "changed": broken / answers_changed if answers_changed else None,
        "right": broken / before if before else None,
        "negative_flip_rate": broken / n,
        "relative_negative_flip_rate": broken / independent if independent else None,
    }


def off_target_ratio(changed: int, prompts: int, fixed: int, questions: int) -> float | None:
    """Answers changed per unrelated prompt, over answers fixed per test question: the price of a
    fixed answer elsewhere. None where nothing was fixed."""
    assert 0 <= changed <= prompts > 0 and 0 <= fixed <= questions > 0
    return (changed / prompts) / (fixed / questions) if fixed else None


def flip_table(base: DataFrame, steered: DataFrame) -> FlipTable:
    """Pair two arms by ``id``; both have columns id, score, invalid, in any row order.

    Raises ValueError as :func:`paired` does.
    """
    before, after = paired(base, steered)
    counts = np.zeros((len(STATES), len(STATES)), dtype=int)
    np.add.at(counts, (_states(before), _states(after)), 1)
    return FlipTable(tuple(map(tuple, counts.tolist())))


def changes(base: DataFrame, steered: DataFrame) -> dict[str, int]:
    """How many answers differ between two arms, whatever that does to their scores.

    Columns id, answer, parsed (missing: not read), score, invalid. ``text``: the text differs;
    ``text_same_outcome``: it does, and the state does not; ``answer``: it is read as another answer
    (two that were not read are the same). Raises ValueError as :func:`paired` does.
    """
    before, after = paired(base, steered)
    text = before["answer"].to_numpy(object) != after["answer"].to_numpy(object)
    old, new = before["parsed"].astype("string"), after["parsed"].astype("string")
    same = (old == new).fillna(False) | (old.isna() & new.isna())
    return {
        "text": int(text.sum()),
        "text_same_outcome": int((text & (_states(before) == _states(after))).sum()),
        "answer": int((~same).sum()),
    }


def paired(base: DataFrame, steered: DataFrame) -> tuple[DataFrame, DataFrame]:
    """Both arms indexed by ``id``, in the baseline's order.

    Raises ValueError if an id repeats within an arm or is in only one of them: a pair that is
    not a pair would count as a flip.
    """
    for arm, name in ((base, "baseline"), (steered, "steered")):
        twice = arm["id"][arm["id"].duplicated()]
        if len(twice):
            raise ValueError(
                f"id {twice.iloc[0]!r} repeats in the {name} arm: give one answer per sample"
            )
    unpaired = set(base["id"]) ^ set(steered["id"])
    if unpaired:
        raise ValueError(
            f"{len(unpaired)} ids are in only one of the arms, e.g. {min(unpaired)!r}: "
            "compare answers to the same samples"
        )
    before = base.set_index("id")
    return before, steered.set_index("id").loc[before.index]


def _states(arm: DataFrame) -> np.ndarray:
    """[N] int: :func:`state` of every answer, by its place in :data:`STATES`."""
    right = arm["score"].to_numpy(float) >= RIGHT
    return np.select([arm["invalid"].to_numpy(bool), right], [2, 0], default=1)
