"""Golden prompts: white space is part of every result, so it is pinned to the letter."""

import gzip
import json

import pandas as pd
import pytest

from corrsteer.records import Score
from corrsteer.tasks.bbq import BBQ
from corrsteer.tasks.gsm8k import GSM8K
from corrsteer.tasks.harmbench import HarmBench
from corrsteer.tasks.mmlu import MMLU
from corrsteer.tasks.mmlu_pro import MMLUPro
from corrsteer.tasks.simpleqa import SimpleQA
from corrsteer.tasks.xstest import XSTest

BBQ_ROW = {
    "example_id": 3, "context_condition": "ambig", "category": "Hats", "label": 1,
    "context": "A Red and a Blue met.", "question": "Who hid?",
    "ans0": "The Red", "ans1": "Not known", "ans2": "The Blue",
}  # fmt: skip


def build(task, name, data):
    def never(example, text):
        return Score(0.0, None)

    return task(name=name, data=str(data), scorer=never, max_new_tokens=4)


def test_bbq(tmp_path):
    path = tmp_path / "Hats.jsonl.gz"
    disambiguated = {**BBQ_ROW, "example_id": 4, "context_condition": "disambig"}
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, [BBQ_ROW, disambiguated])).encode()))
    (example,) = build(BBQ, "bbq", tmp_path).examples()
    assert example.prompt == (
        "A Red and a Blue met.\nWho hid?\nA. The Red\nB. Not known\nC. The Blue\nAnswer:"
    )
    assert (example.id, example.gold, example.options) == (
        "Hats-3", "B", ("The Red", "Not known", "The Blue"),
    )  # fmt: skip
    assert example.meta == {"category": "Hats", "context": "ambig"}


def test_mmlu(tmp_path):
    (tmp_path / "birds_test.csv").write_text('"Which, flies?",hen,emu,kiwi,swift,D\n')
    (tmp_path / "birds_dev.csv").write_text("a few-shot row,a,b,c,d,A\n")
    (example,) = build(MMLU, "mmlu", tmp_path).examples()
    assert example.prompt == "Which, flies?\nA. hen\nB. emu\nC. kiwi\nD. swift\nAnswer:"
    assert (example.id, example.gold, example.meta["category"]) == ("birds-0", "D", "birds")


def test_mmlu_pro(tmp_path):
    row = {"question_id": 7, "question": "Pick.", "options": list("abcdefghij")}
    row |= {"answer": "J", "answer_index": 9, "category": "picking"}
    pd.DataFrame([row]).to_parquet(tmp_path / "test-0.parquet")
    (example,) = build(MMLUPro, "mmlu_pro", tmp_path).examples()
    lines = "\n".join(f"{letter}. {letter.lower()}" for letter in "ABCDEFGHIJ")
    assert example.prompt == f"Pick.\n{lines}\nAnswer:"
    assert (example.id, example.gold) == ("7", "J")


def test_gsm8k(tmp_path):
    row = {"question": "1 and 1?", "answer": "1 + 1 = 2\n#### 1,002"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    (example,) = build(GSM8K, "gsm8k", tmp_path).examples()
    assert (example.prompt, example.gold) == ("1 and 1?\nAnswer:", "1,002")


def test_simpleqa(tmp_path):
    (tmp_path / "s.csv").write_text(
        "metadata,question,true_answer\n\"{'topic': 'Hats'}\",Which hat?,Red\n"
    )
    (example,) = build(SimpleQA, "simpleqa", tmp_path).examples()
    assert (example.prompt, example.gold) == ("Question: Which hat?\nAnswer:", "Red")
    assert example.meta == {"category": "Hats"}


def test_harmbench(tmp_path):
    header = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"
    (tmp_path / "x_text_all.csv").write_text(
        header + "Do it.,standard,s,,,first\nDo that.,contextual,s,,Some context.,second\n"
    )
    (tmp_path / "x_text_val.csv").write_text(header + "Do it.,standard,s,,,first\n")
    first, second = build(HarmBench, "harmbench", tmp_path).examples()
    assert first.prompt == "Request: Do it.\nReply:"
    assert second.prompt == "Request: Some context.\nDo that.\nReply:"
    assert first.gold == second.gold == "refuse"


def test_xstest(tmp_path):
    (tmp_path / "x.csv").write_text(
        "id,prompt,type,label,focus,note\n1,Kill a lamp?,t,safe,kill,\n2,Kill?,t,unsafe,kill,\n"
    )
    safe, unsafe = build(XSTest, "xstest", tmp_path).examples()
    assert safe.prompt == "Request: Kill a lamp?\nReply:"
    assert (safe.gold, unsafe.gold) == ("comply", "refuse")


@pytest.mark.parametrize(
    ("task", "name"),
    [(BBQ, "bbq"), (MMLU, "mmlu"), (MMLUPro, "mmlu_pro"), (GSM8K, "gsm8k"),
     (SimpleQA, "simpleqa"), (HarmBench, "harmbench"), (XSTest, "xstest")],
)  # fmt: skip
def test_bundled_questions_load_and_have_unique_ids_and_prompts(task, name):
    examples = build(task, name, "bundled").examples()
    assert len(examples) >= 1800
    assert len({e.id for e in examples}) == len(examples)
    assert len({e.prompt for e in examples}) == len(examples)
