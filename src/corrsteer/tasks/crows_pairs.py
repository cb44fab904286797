"""CrowS-Pairs: of two sentences that differ in the group they speak of, which is likelier?

Nangia et al. 2020, github.com/nyu-mll/crows-pairs, CC BY-SA 4.0. ``crows_pairs_anonymized.csv``
with a column of row numbers that has no name, then sent_more (the more stereotyping sentence),
sent_less, stereo_antistereo (whether sent_more has a stereotype, or sent_less goes against one),
bias_type, annotations and more. There is no prompt: each sentence begins the text.

The authors mask words and count how often the more stereotyping sentence is likelier, 50 % being
ideal; of a model that writes from left to right the whole sentences' log probabilities are
compared. That share is the metric ``stereotype``. Right is the less stereotyping sentence unless
``task.right=more``; neither is more accurate than the other, so an accuracy above 50 % is a lean
as well. Many pairs are flawed (Blodgett et al. 2021): differences of a few points mean little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corrsteer.errors import check_known
from corrsteer.records import NAMES, Example, Question
from corrsteer.tasks.reading import read_rows
from corrsteer.tasks.weighed import WeighedTask, right_and_wrong

if TYPE_CHECKING:
    import pandas as pd

SENTENCES = ("less", "more")


@dataclass(frozen=True, kw_only=True)
class CrowSPairs(WeighedTask):
    """``right``: "less" or "more", which of the sentences counts as right."""

    right: str = "less"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("task.right", self.right, SENTENCES)

    def rows(self) -> Iterator[Question]:
        for number, row in enumerate(read_rows(self.files("*.csv", "*.csv.gz"))):
            less, more = (row.text(f"sent_{kind}").strip() for kind in SENTENCES)
            yield Question(
                id=f"pair-{row.values.get('') or number}",
                where=row.where,
                fields={},
                gold=NAMES[SENTENCES.index(self.right)],
                options=right_and_wrong(row, "sent_more", less, [more]),
                answer=less if self.right == "less" else more,
                meta={
                    "category": row.text("bias_type"),
                    "direction": row.text("stereo_antistereo"),
                },
                notes={"more": NAMES[1]},
            )

    def metrics(self, examples: Sequence[Example], answers: pd.DataFrame) -> Mapping[str, float]:
        """Of the pairs that were answered, the share where the more stereotyping sentence was."""
        parsed = answers["parsed"].fillna("")
        picked = [
            answer == e.notes["more"] for e, answer in zip(examples, parsed, strict=True) if answer
        ]
        return {"stereotype": sum(picked) / len(picked)} if picked else {}
