"""Tasks whose options are weighed: what a row becomes in every form of its file, what is refused,
their own numbers, and every row of the originals."""

import csv
import functools
import gzip
import json
from collections import Counter

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from test_hub_forms import parquet, sheet
from test_prompts_golden import CONF, build

from corrsteer import config
from corrsteer.errors import ConfigError, DataError
from corrsteer.tasks.blimp import BLiMP
from corrsteer.tasks.crows_pairs import CrowSPairs
from corrsteer.tasks.model_written_evals import ModelWrittenEvals
from corrsteer.tasks.openbookqa import OpenBookQA
from corrsteer.tasks.splits import split_questions
from corrsteer.tasks.truthfulqa import TruthfulQA

TASKS = {
    "truthfulqa": TruthfulQA, "openbookqa": OpenBookQA, "blimp": BLiMP,
    "crows_pairs": CrowSPairs, "model_written_evals": ModelWrittenEvals,
}  # fmt: skip

QA_COLUMNS = [
    "Type", "Category", "Question", "Best Answer", "Best Incorrect Answer", "Correct Answers",
    "Incorrect Answers", "Source",
]  # fmt: skip
QA_ROW = [
    "Plain", "Hats", "Do hats fly?", "Hats do not fly", "Hats fly", "No; Hats do not fly",
    "Hats fly; Yes ; Hats fly;", "x",
]  # fmt: skip
OPEN_ROW = {
    "id": "7-1",
    "question": {
        "stem": "A hat is worn on",
        "choices": [{"text": "the head", "label": "A"}, {"text": "a foot", "label": "B"}],
    },
    "answerKey": "A",
}
PAIR_ROW = {
    "sentence_good": "The hats fall.", "sentence_bad": "The hats falls.", "field": "morphology",
    "linguistics_term": "agreement", "UID": "hats_1", "simple_LM_method": True, "pairID": "12",
}  # fmt: skip
CROWS_COLUMNS = ["", "sent_more", "sent_less", "stereo_antistereo", "bias_type", "annotations"]
CROWS_ROW = ["5", "Reds are mean.", "Blues are mean.", "stereo", "colour", "[]"]
PERSONA_ROW = {
    "question": 'Is the following statement something you would say?\n"I like hats"',
    "statement": "I like hats", "label_confidence": 0.9,
    "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No",
}  # fmt: skip
CHOICES_ROW = {
    "question": "Hat?\n\nChoices:\n (A) No\n (B) Yes\n (C) Two",
    "answer_matching_behavior": " (B)", "answer_not_matching_behavior": [" (C)", " (A)"],
}  # fmt: skip


def lines(*rows):
    return "\n".join(map(json.dumps, rows)).encode()


def write(folder, name, content):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return file


def only(task):
    (question,) = task.questions()
    return question


def shown(task, question, *, chat=False):
    splits, _ = task.ask({"test": [question], "shots": ()}, chat=chat)
    return splits["test"][0].prompt


@functools.cache
def configured(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"task={name}", *overrides])
    return config.instantiate(cfg.task)


# -- a row of each --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TruthfulQA.csv", "TruthfulQA.csv.gz"])
def test_truthfulqa(tmp_path, name):
    write(tmp_path, name, sheet(QA_COLUMNS, QA_ROW))
    task = build(TruthfulQA, "truthfulqa", tmp_path)
    question = only(task)
    assert question.options == ("Hats do not fly", "Hats fly")
    assert (question.id, question.gold, question.answer) == ("question-0", "A", "Hats do not fly")
    assert question.meta == {"category": "Hats", "type": "Plain"}
    assert shown(task, question) == "Q: Do hats fly?\nA:"
    assert shown(task, question, chat=True) == "Do hats fly?"
    all_of_them = only(build(TruthfulQA, "truthfulqa", tmp_path, kind="mc1"))
    assert all_of_them.options == ("Hats do not fly", "Hats fly", "Yes")


def test_truthfulqa_of_the_hub(tmp_path):
    targets = {"choices": ["No", "Yes ", "Maybe"], "labels": [0, 1, 0]}
    rows = parquet({"question": ["Fly?"], "mc1_targets": [targets], "mc2_targets": [targets]})
    write(tmp_path, "validation-00000-of-00001.parquet", rows)
    question = only(build(TruthfulQA, "truthfulqa", tmp_path, kind="mc1"))
    assert (question.options, question.gold) == (("Yes", "No", "Maybe"), "A")


def test_openbookqa_in_both_forms(tmp_path):
    published = {
        "id": ["7-1"], "question_stem": ["A hat is worn on"], "answerKey": ["A "],
        "choices": [{"text": ["the head", "a foot"], "label": ["A", "B"]}],
    }  # fmt: skip
    write(tmp_path, "one/dev.jsonl", lines(OPEN_ROW))
    write(tmp_path, "two/validation-00000-of-00001.parquet", parquet(published))
    task = build(OpenBookQA, "openbookqa", tmp_path / "one")
    question = only(task)
    assert question == only(build(OpenBookQA, "openbookqa", tmp_path / "two"))
    assert question.options == ("the head", "a foot")
    assert (question.gold, question.answer, question.part) == ("A", "the head", "validation")
    assert shown(task, question) == shown(task, question, chat=True) == "A hat is worn on"


def test_blimp_in_both_forms(tmp_path):
    published = {k: [v] for k, v in PAIR_ROW.items() if k != "pairID"} | {"pair_id": [12]}
    write(tmp_path, "one/hats_1.jsonl.gz", lines(PAIR_ROW))
    write(tmp_path, "two/hats_1/train-00000-of-00001.parquet", parquet(published))
    task = build(BLiMP, "blimp", tmp_path / "one")
    question = only(task)
    assert question == only(build(BLiMP, "blimp", tmp_path / "two"))
    assert question.options == ("The hats fall.", "The hats falls.")
    assert (question.id, question.gold) == ("hats_1-12", "A")
    assert question.meta == {"category": "hats_1", "term": "agreement", "field": "morphology"}
    assert shown(task, question) == shown(task, question, chat=True) == ""


def test_a_pair_of_equal_sentences_is_left_out(tmp_path, caplog):
    same = PAIR_ROW | {"pairID": "13", "sentence_bad": "The hats fall. "}
    write(tmp_path, "hats_1.jsonl", lines(same, PAIR_ROW, same | {"pairID": "14"}))
    assert only(build(BLiMP, "blimp", tmp_path)).id == "hats_1-12"
    assert "2 pairs are left out: their sentences are the same" in caplog.text


def test_crows_pairs_right_either_way(tmp_path):
    write(tmp_path, "c.csv", sheet(CROWS_COLUMNS, CROWS_ROW))
    less = only(build(CrowSPairs, "crows_pairs", tmp_path))
    more = only(build(CrowSPairs, "crows_pairs", tmp_path, right="more"))
    assert less.options == more.options == ("Blues are mean.", "Reds are mean.")
    assert (less.gold, more.gold, less.answer) == ("A", "B", "Blues are mean.")
    assert less.notes == more.notes == {"more": "B"}
    assert less.meta == {"category": "colour", "direction": "stereo"}
    assert less.id == "pair-5"


@pytest.mark.parametrize(
    ("row", "right", "options", "gold"),
    [
        (PERSONA_ROW, "matching", ("Yes", "No"), "A"),
        (PERSONA_ROW, "not_matching", ("Yes", "No"), "B"),
        (CHOICES_ROW, "matching", ("(A)", "(B)", "(C)"), "B"),
    ],
)
def test_model_written_evals(tmp_path, row, right, options, gold):
    write(tmp_path, "persona/likes-hats.jsonl", lines(row))
    task = build(ModelWrittenEvals, "model_written_evals", tmp_path, right=right)
    question = only(task)
    assert (question.options, question.gold) == (options, gold)
    assert (question.id, question.meta) == ("likes-hats-1", {"category": "likes-hats"})
    assert question.answer == options["ABC".index(gold)]
    assert shown(task, question) == f"{row['question']}\nAnswer:"
    assert shown(task, question, chat=True) == row["question"]


def test_behaviours_are_asked_by_name(tmp_path, caplog):
    names = ("human_generated_evals/hats", "lm_generated_evals/hats", "persona/coats")
    for name in names:
        write(tmp_path, f"{name}.jsonl", lines(PERSONA_ROW))
    write(tmp_path, "other/odd.jsonl", lines({"pronoun": "x"}))  # of no interest here
    for subset, found in ((["hats", "hats-lm"], {"hats-1", "hats-lm-1"}), ("coats", {"coats-1"})):
        caplog.clear()
        task = build(ModelWrittenEvals, "model_written_evals", tmp_path, subset=subset)
        assert {q.id for q in task.questions()} == found
        assert ("2 behaviours are asked together" in caplog.text) == (len(found) == 2)
    with pytest.raises(
        DataError, match="no file of that name: 'hat'; there are: coats, hats, hats"
    ):
        build(ModelWrittenEvals, "model_written_evals", tmp_path, subset="hat").questions()


# -- how they are answered ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "likelihood", "shuffled"),
    [
        ("truthfulqa", "sum", True), ("openbookqa", "per_character", False),
        ("blimp", "sum", True), ("crows_pairs", "sum", True), ("model_written_evals", "sum", False),
    ],
)  # fmt: skip
def test_options_are_weighed_unless_told_otherwise(name, likelihood, shuffled):
    task = configured(name)
    assert (task.likelihood, task.shuffle_options) == (likelihood, shuffled)
    question = only_of(name)
    assert task.decoding("auto", [question]) == "loglikelihood"
    asked = task.about_prompts(
        {"shots": ()}, chat=False, decoding=task.decoding("auto", [question]), stop=()
    )
    assert (asked.decoding, asked.likelihood) == ("loglikelihood", likelihood)
    with pytest.raises(ConfigError, match="task.prompt"):
        task.decoding("constrained", [question])
    if not task.prompt:
        with pytest.raises(ConfigError, match="task.prompt is empty"):
            task.decoding("free", [question])


def only_of(name):
    from corrsteer.records import Question

    return Question("q", {"question": "?"}, "A", ("one", "two"), notes={}, meta={"category": name})


def test_the_right_option_has_no_place_of_its_own(tmp_path):
    """Neither a tie nor a liking for the first option looks like knowledge."""
    rows = [[str(n), f"Red {n}.", f"Blue {n}.", "stereo", "colour", ""] for n in range(200)]
    write(tmp_path, "c.csv", sheet(CROWS_COLUMNS, *rows))
    task = configured("crows_pairs", f"data={tmp_path}")
    questions = task.arranged(task.questions(), 0)
    golds = Counter(q.gold for q in questions)
    assert abs(golds["A"] - 100) < 30
    for q in questions:
        assert q.options["AB".index(q.gold)].startswith("Blue")
        assert q.options["AB".index(q.notes["more"])].startswith("Red")


def test_solved_questions_show_the_text_of_an_option(tmp_path):
    rows = [PERSONA_ROW, PERSONA_ROW | {"question": "Coats?"}]
    write(tmp_path, "hats.jsonl", lines(*rows))
    task = build(ModelWrittenEvals, "model_written_evals", tmp_path, few_shot=1)
    first, second = task.questions()
    splits, _ = task.ask({"test": [second], "shots": [first]}, chat=False)
    solved = f"{PERSONA_ROW['question']}\nAnswer: Yes"
    assert splits["test"][0].prompt == f"{solved}\n\nCoats?\nAnswer:"


# -- their own numbers ----------------------------------------------------------------------------


def parsed(*letters):
    return pd.DataFrame({"parsed": pd.array(letters, dtype="string")})


def test_the_stereotype_score_counts_answers_not_right_ones(tmp_path):
    rows = [[str(n), f"Red {n}.", f"Blue {n}.", "stereo", "colour", ""] for n in range(4)]
    write(tmp_path, "c.csv", sheet(CROWS_COLUMNS, *rows))
    letters = "BBAB"
    for right in ("less", "more"):
        task = build(CrowSPairs, "crows_pairs", tmp_path, right=right)
        examples = task.examples()
        assert task.metrics(examples, parsed(*letters)) == {"stereotype": 0.75}
        assert task.metrics(examples, parsed(letters[0], None, letters[2], None)) == {
            "stereotype": 0.5
        }
        assert task.metrics(examples, parsed(*[None] * 4)) == {}


def test_a_favourite_answer_is_told_by_its_text(tmp_path):
    rows = [PERSONA_ROW, PERSONA_ROW | {"question": "Coats?"}, {**CHOICES_ROW}]
    write(tmp_path, "hats.jsonl", lines(*rows))
    task = build(ModelWrittenEvals, "model_written_evals", tmp_path)
    examples = task.examples()
    assert task.metrics(examples, parsed("B", "B", "A")) == {"same_answer": 2 / 3}
    assert task.metrics(examples, parsed("B", None, None)) == {"same_answer": 1.0}
    assert task.metrics(examples, parsed(None, None, None)) == {}


# -- what is refused ------------------------------------------------------------------------------


def changed(columns, row, **values):
    cells = [
        values.get(column.replace(" ", "_"), cell)
        for column, cell in zip(columns, row, strict=True)
    ]
    return sheet(columns, cells)


@pytest.mark.parametrize(
    ("name", "file", "content", "settings", "message"),
    [
        ("truthfulqa", "t.csv", sheet(QA_COLUMNS[:4], QA_ROW[:4]), {},
         "field 'Best Incorrect Answer' is missing; fields found: Type, Category, Question"),
        ("truthfulqa", "t.csv",
         changed(QA_COLUMNS, QA_ROW, Best_Incorrect_Answer="Hats do not fly"), {},
         "has the right answer 'Hats do not fly' among the wrong ones"),
        ("truthfulqa", "t.csv", changed(QA_COLUMNS, QA_ROW, Incorrect_Answers=" ; ;"),
         {"kind": "mc1"}, "makes 1 options; there must be 2 to 26"),
        ("truthfulqa", "t.csv",
         changed(QA_COLUMNS, QA_ROW, Incorrect_Answers=";".join(map(str, range(30)))),
         {"kind": "mc1"}, "makes 31 options"),
        ("truthfulqa", "t.parquet",
         parquet({"question": ["?"], "mc1_targets": [{"choices": ["a", "b"], "labels": [1, 1]}]}),
         {"kind": "mc1"}, "row 1: field 'mc1_targets' should hold a list of choices, and labels"),
        ("openbookqa", "t.jsonl", lines(OPEN_ROW | {"answerKey": "E"}), {},
         "t.jsonl, line 1: field 'answerKey' is 'E', not one of A, B"),
        ("openbookqa", "t.jsonl", lines(OPEN_ROW | {"question": {"stem": "x"}}), {},
         "field 'question' should hold a list of objects called 'choices'"),
        ("openbookqa", "t.jsonl", lines(OPEN_ROW | {"question": {"stem": " ", "choices": []}}), {},
         "should hold a text called 'stem'"),
        ("openbookqa", "t.jsonl",
         lines(OPEN_ROW | {"question": {"stem": "x", "choices": [{"text": "a", "label": 1}]}}), {},
         "should hold a text and a label for each choice"),
        ("blimp", "t.jsonl", lines(PAIR_ROW | {"sentence_bad": ""}), {},
         "field 'sentence_bad' is empty"),
        ("blimp", "t.jsonl", lines({k: v for k, v in PAIR_ROW.items() if k != "UID"}), {},
         "field 'UID' is missing"),
        ("crows_pairs", "t.csv", changed(CROWS_COLUMNS, CROWS_ROW, sent_less=" "), {},
         "field 'sent_less' is empty"),
        ("model_written_evals", "t.jsonl", lines(CHOICES_ROW), {"right": "not_matching"},
         "has 2 answers: type task.right=matching"),
        ("model_written_evals", "t.jsonl",
         lines(PERSONA_ROW | {"answer_not_matching_behavior": " Yes"}), {},
         "should be one answer that does not stand in the other field"),
        ("model_written_evals", "t.jsonl", lines({"question": "x"}), {},
         "field 'answer_matching_behavior' is missing"),
        ("model_written_evals", "t.jsonl",
         lines(PERSONA_ROW | {"answer_not_matching_behavior": []}), {},
         "field 'answer_not_matching_behavior' should be an answer or a list of a few"),
    ],
)  # fmt: skip
def test_malformed_rows(tmp_path, name, file, content, settings, message):
    write(tmp_path, file, content)
    with pytest.raises(DataError) as caught:
        build(TASKS[name], name, tmp_path, **settings).questions()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("truthfulqa", {"kind": "mc2"}, "task.kind=mc2 is unknown; choose one of: binary, mc1"),
        ("crows_pairs", {"right": "x"}, "task.right=x is unknown; choose one of: less, more"),
        ("model_written_evals", {"right": "x"}, "choose one of: matching, not_matching"),
    ],
)
def test_settings(tmp_path, name, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(TASKS[name], name, tmp_path, **settings)


def test_what_the_hub_does_not_have():
    with pytest.raises(ConfigError, match=r"has no best incorrect answers; type data=PATH"):
        configured("truthfulqa", "data=hub")
    for name in ("crows_pairs", "model_written_evals"):
        with pytest.raises(DataError, match=f"task {name} has no data set on the Hub: type data=P"):
            configured(name, "data=hub").questions()


# -- every row of the originals -------------------------------------------------------------------


@functools.cache
def loaded(folder, name, **settings):
    return tuple(build(TASKS[name], name, folder / name, **settings).questions())


def original(file):
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text)) if ".csv" in file.name else list(map(json.loads, text))


@pytest.mark.long
def test_every_row_of_truthfulqa(shared):
    rows = original(shared / "data/truthfulqa/TruthfulQA.csv")
    binary = loaded(shared / "data", "truthfulqa")
    several = loaded(shared / "data", "truthfulqa", kind="mc1")
    assert len(binary) == len(several) == len(rows) == 578
    for row, two, more in zip(rows, binary, several, strict=True):
        assert two.options == (row["Best Answer"].strip(), row["Best Incorrect Answer"].strip())
        assert more.options[0] == two.options[0]
        wrong = {text.strip() for text in row["Incorrect Answers"].split(";")} - {""}
        assert {*more.options[1:]} == wrong
    assert max(len(q.options) for q in several) == 13


@pytest.mark.long
def test_every_row_of_openbookqa(shared):
    rows = original(shared / "data/openbookqa/openbookqa.jsonl")
    questions = loaded(shared / "data", "openbookqa")
    assert [q.gold for q in questions] == [row["answerKey"] for row in rows]
    assert (len(questions), {len(q.options) for q in questions}) == (361, {4})


@pytest.mark.long
def test_every_row_of_blimp(shared):
    files = sorted((shared / "data/blimp").glob("*.jsonl.gz"))
    questions = loaded(shared / "data", "blimp")
    expected = Counter()
    for file in files:
        pairs = [
            (row["sentence_good"].strip(), row["sentence_bad"].strip()) for row in original(file)
        ]
        expected[file.name.split(".")[0]] = sum(good != bad for good, bad in pairs)
    assert Counter(q.meta["category"] for q in questions) == expected
    assert (len(expected), sum(expected.values())) == (67, len(questions))
    assert len({q.meta["term"] for q in questions}) == 13


@pytest.mark.long
def test_every_row_of_crows_pairs(shared):
    rows = original(shared / "data/crows_pairs/crows_pairs_anonymized.csv")
    questions = loaded(shared / "data", "crows_pairs")
    assert len(rows) == len(questions) == 1133
    for row, q in zip(rows, questions, strict=True):
        assert q.options == (row["sent_less"].strip(), row["sent_more"].strip())
        assert q.id == f"pair-{row['']}"
    assert len({q.meta["category"] for q in questions}) == 9


@pytest.mark.long
def test_every_row_of_model_written_evals(shared):
    files = sorted((shared / "data/model_written_evals").glob("*.jsonl"))
    expected = {file.stem: original(file) for file in files}
    for right, field in (("matching", "answer_"), ("not_matching", "answer_not_")):
        questions = loaded(shared / "data", "model_written_evals", right=right)
        rows = [row for name in sorted(expected) for row in expected[name]]
        named = sorted(questions, key=lambda q: q.meta["category"])
        for row, q in zip(rows, named, strict=True):
            assert q.answer == row[f"{field}matching_behavior"].strip()
            assert len(q.options) == 2 and q.options["AB".index(q.gold)] == q.answer
    assert len(expected) == 28


@pytest.mark.long
@pytest.mark.parametrize("name", TASKS)
def test_every_question_is_dealt(shared, name):
    sizes = {"selection": 40, "validation": 20, "test": 60}
    dealt = split_questions(loaded(shared / "data", name), sizes, seed=0)
    assert {split: len(dealt[split]) for split in sizes} == sizes
