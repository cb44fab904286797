"""BLiMP: which of two sentences that differ in a word is grammatical?

Warstadt et al. 2020, github.com/alexwarstadt/blimp, CC BY 4.0. One jsonl file for each of 67
paradigms of 1,000 pairs, one row:

    {"sentence_good": "...", "sentence_bad": "...", "field": "syntax",
     "linguistics_term": "island_effects", "UID": "wh_island", "pairID": "1", ...}

On the Hub the rows are parquet, with the number ``pair_id`` in place of ``pairID``. There is no
prompt: each sentence begins the text, and the sums of log probabilities are compared, as the
authors do. Pairs whose sentences are the same (the originals have a few) are left out.
``task.subset`` names paradigms.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from corrsteer.records import NAMES, Question
from corrsteer.tasks.reading import read_rows
from corrsteer.tasks.weighed import WeighedTask

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BLiMP(WeighedTask):
    def rows(self) -> Iterator[Question]:
        same = 0
        for row in read_rows(self.files("*.jsonl", "*.jsonl.gz", "*.parquet")):
            good, bad = (row.text(f"sentence_{kind}").strip() for kind in ("good", "bad"))
            if good == bad:
                same += 1
                continue
            numbered = "pair_id" in row.values
            pair = str(row.get("pair_id", int)) if numbered else row.text("pairID")
            paradigm = row.text("UID")
            yield Question(
                id=f"{paradigm}-{pair}",
                where=row.where,
                fields={},
                gold=NAMES[0],
                options=(good, bad),
                answer=good,
                meta={
                    "category": paradigm,
                    "term": row.text("linguistics_term"),
                    "field": row.text("field"),
                },
            )
        if same:
            log.warning(
                "task %s: %d pairs are left out: their sentences are the same", self.name, same
            )
