"""Every row of the original files loads. Counts were read off the files independently."""

import pytest
from test_prompts_golden import build

from corrsteer.tasks.bbq import BBQ
from corrsteer.tasks.gsm8k import GSM8K
from corrsteer.tasks.harmbench import HarmBench
from corrsteer.tasks.mmlu import MMLU
from corrsteer.tasks.mmlu_pro import MMLUPro
from corrsteer.tasks.simpleqa import SimpleQA
from corrsteer.tasks.xstest import XSTest


@pytest.mark.parametrize(
    ("task", "name", "rows"),
    [(MMLU, "mmlu", 10528), (MMLUPro, "mmlu_pro", 9059), (GSM8K, "gsm8k", 1028),
     (SimpleQA, "simpleqa", 3231), (HarmBench, "harmbench", 297), (XSTest, "xstest", 340)],
)  # fmt: skip
def test_every_row_loads(shared, task, name, rows):
    examples = build(task, name, shared / "data" / name).examples()
    assert len(examples) == rows
    assert len({e.id for e in examples}) == rows
    assert all(e.prompt and e.gold for e in examples)


def test_bbq_rows_of_both_contexts(shared):
    folder = shared / "data" / "bbq"
    counts = {}
    for context in ("ambig", "disambig", "both"):
        task = BBQ(name="bbq", data=str(folder), scorer=None, max_new_tokens=4, context=context)
        counts[context] = len(task.examples())
    assert counts["both"] == counts["ambig"] + counts["disambig"] == 9059
