"""The jobs of a study beyond the dials that were typed; see :mod:`corrsteer.report.widening`.

Cost: whole jobs, whose collection is in the store.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from corrsteer.errors import DataError
from corrsteer.sweep.more import More, run_more


def run_widened(config: DictConfig, folder: Path) -> None:
    """``config``: as for :func:`corrsteer.sweep.more.run_more`. One round after the other, until
    validation prefers no end or each was moved on as often as it may be. What cannot be read the
    report of the sweep tells of."""
    from corrsteer.report.settings import settings
    from corrsteer.report.widening import Dial, at_dial, lacking

    tried: set[Dial] = set()
    while True:
        try:
            wanted = [dial for dial in lacking(folder) if dial not in tried]
        except DataError:
            return
        if not wanted:
            return
        tried |= set(wanted)
        some = [
            More(
                dial.job,
                at_dial(settings(folder / str(dial.job)), dial),
                {"coef": dial.coef},
                f"job {dial.job} at coef={dial.coef:g}, since validation chooses at the end of a"
                " range, or to compare at equal norm",
            )
            for dial in wanted
        ]
        run_more(config, folder, some)
