"""The last jobs of a comparison of rivals: checkpoints at the subject's accuracy.

Which checkpoint of a fine-tuned rival is as accurate as the subject on validation is known only
when both have been tried. Cost: answers to the test split and side effects of one arm each;
training and validation are in the store.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from corrsteer.errors import DataError
from corrsteer.sweep.more import More, run_more


def run_matched(config: DictConfig, folder: Path) -> None:
    """``config``: as for :func:`corrsteer.sweep.more.run_more`. What cannot be read the report of
    the sweep tells of."""
    from corrsteer.report.compare_wanted import wanted

    try:
        lacking = wanted(folder)
    except DataError:
        return
    some = []
    for one in lacking:
        asked = {"coef": 1.0, "strategy.match": one.accuracy}  # accuracies are those at dial 1
        why = (
            f"the checkpoint of job {one.job} with {100 * one.accuracy:.1f} % on validation, to"
            " compare it at equal accuracy"
        )
        some.append(More(one.job, {**asked, "strategy.coef": 1.0}, asked, why))
    run_more(config, folder, some)
