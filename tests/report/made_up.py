"""Records with numbers of one's choice, for what is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import binomtest

from corrsteer.report.record import Record
from corrsteer.stats.flips import FlipTable
from tests.report.fabricated_run import about, control, format_of

NULL = [0.001 * k for k in range(-20, 19)]  # 39 draws, the best of which gains 1.8 points


def made_up(
    *,
    counts: Sequence[Sequence[int]] = ((480, 20, 0), (140, 300, 0), (0, 0, 60)),
    random: Sequence[float] | None = NULL,
    controls: Mapping[str, Mapping[str, Any]] | None = None,
    **changes: Any,
) -> Record:
    """``counts``: of answers that were right, wrong and invalid and became so, in that order; by
    default 1,000 with 140 fixed and 20 broken. ``random``: gains of the random features, None for
    none. ``controls``: other ones by kind; all that is left out agrees with ``gains``."""
    table = FlipTable(tuple(map(tuple, counts)))
    n, gain = table.n, (table.fixed - table.broken) / table.n
    right = {"baseline": sum(counts[0]), "steered": sum(row[0] for row in counts)}
    invalid = {"baseline": sum(counts[2]), "steered": sum(row[2] for row in counts)}
    found = {} if random is None else {"random": control(gain, list(random))}
    for kind, given in (controls or {}).items():
        found[kind] = control(gain, list(given["gains"]), kind) | dict(given)
    return Record.model_validate(
        {
            **about(n_test=n),
            "chance": None,
            "arms": {arm: summary(arm, n, right[arm], invalid[arm]) for arm in right},
            "gain": gain,
            "gain_ci": [gain - 0.02, gain + 0.02],
            "flips": table.as_dict(),
            "changes": {"text": 0, "text_same_outcome": 0, "answer": 0},
            "ser": dict.fromkeys(("flips", "changed", "right", "off_target"), None)
            | {"negative_flip_rate": 0.0, "relative_negative_flip_rate": None},
            "ser_ci": None,
            "detectable_gain": None,
            "controls": found,
            "format": format_of(counts),
            "constrained_gain": None,
            "one_answer": None,
            "task_metrics": {},
            "groups": {},
            "noise": {"features": 6, "below_ceiling": 0, "unstable": 0},
            **changes,
        }
    )


def summary(kind: str, n: int, right: int, invalid: int = 0) -> dict[str, Any]:
    interval = binomtest(right, n).proportion_ci(method="wilson")
    return {
        "kind": kind, "n": n, "accuracy": right / n, "ci": [interval.low, interval.high],
        "right": right, "wrong": n - right - invalid, "invalid": invalid,
        "invalid_rate": invalid / n, "degenerate": 0,
    }  # fmt: skip
