"""Golden prompts: white space is part of every result, so it is pinned to the letter.

The templates are those of conf/task, so a changed template fails here.
"""

import functools
import gzip
import json
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

import corrsteer.config  # noqa: F401  (the schema that conf/config.yaml starts from)
from corrsteer.errors import ConfigError
from corrsteer.records import Score
from corrsteer.tasks.bbq import BBQ
from corrsteer.tasks.gsm8k import GSM8K
from corrsteer.tasks.harmbench import HarmBench
from corrsteer.tasks.mmlu import MMLU
from corrsteer.tasks.mmlu_pro import MMLUPro
from corrsteer.tasks.prompts import NEXT
from corrsteer.tasks.simpleqa import SimpleQA
from corrsteer.tasks.splits import split_questions
from corrsteer.tasks.xstest import XSTest

CONF = Path(__file__).parents[2] / "conf"
TASKS = {
    "bbq": BBQ, "mmlu": MMLU, "mmlu_pro": MMLUPro, "gsm8k": GSM8K, "simpleqa": SimpleQA,
    "harmbench": HarmBench, "xstest": XSTest,
}  # fmt: skip

BBQ_ROW = {
    "example_id": 3, "context_condition": "ambig", "category": "Hats", "label": 1,
    "context": "A Red and a Blue met.", "question": "Who hid?",
    "ans0": "The Red", "ans1": "Not known", "ans2": "The Blue",
}  # fmt: skip


@functools.cache
def settings_of(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [f"task={name}"]).task


def build(task, name, data, **settings):
    """A task with the templates of conf/task and a scorer that finds nothing right."""

    def never(example, text):
        return Score(0.0, None)

    templates = {key: settings_of(name)[key] for key in ("prompt", "chat_prompt")}
    usual = {"scorer": never, "max_new_tokens": 4, **templates}
    return task(name=name, data=str(data), **(usual | settings))


def asked(name, data, *, chat=False, **settings):
    """(prompts, stop texts); without official shots the first questions are the solved ones."""
    if settings.get("cot"):
        settings = {"max_new_tokens": 256} | settings
    task = build(TASKS[name], name, data, **settings)
    questions = task.questions()
    shots = [q for q in questions if q.part == "shots"] or questions[: task.few_shot]
    rest = [q for q in questions if q not in shots]
    splits, stop = task.ask({"test": rest, "shots": shots}, chat=chat)
    return [e.prompt for e in splits["test"]], stop


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


HARMBENCH_HEADER = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID\n"


def test_harmbench(tmp_path):
    (tmp_path / "x_text_all.csv").write_text(
        HARMBENCH_HEADER + "Do it.,standard,s,,,one\nDo that.,contextual,s,,Some context.,two\n"
    )
    (tmp_path / "x_text_val.csv").write_text(HARMBENCH_HEADER + "Do it.,standard,s,,,one\n")
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


@pytest.mark.parametrize("name", TASKS)
def test_bundled_questions_load_and_have_unique_ids_and_prompts(name):
    examples = build(TASKS[name], name, "bundled").examples()
    assert len(examples) >= 1800
    assert len({e.id for e in examples}) == len(examples)
    assert len({e.prompt for e in examples}) == len(examples)


# -- the same rows in every form of prompt -------------------------------------------------------


@pytest.fixture
def rows(tmp_path):
    """``rows(name)``: a folder with three questions of a task, two of them to be solved."""
    people = ("Red", "Blue", "Grey")

    def bbq(folder):
        wanted = [
            {**BBQ_ROW, "example_id": n, "context": f"A {who} met me.", "label": n}
            for n, who in enumerate(people)
        ]
        (folder / "Hats.jsonl").write_text("\n".join(map(json.dumps, wanted)))

    def mmlu(folder):
        for subject in ("birds", "hats"):
            (folder / f"{subject}_test.csv").write_text(f"Which of {subject}?,a,b,c,d,A\n")
            (folder / f"{subject}_dev.csv").write_text(
                "".join(f"{subject} {n}?,e,f,g,h,{letter}\n" for n, letter in enumerate("BCD"))
            )

    def mmlu_pro(folder):
        def row(number, category, answer, **more):
            about = {"question_id": number, "question": f"Q{number}?", "options": ["x", "y", "z"]}
            index = "ABC".index(answer)
            return about | {"category": category, "answer_index": index, "answer": answer} | more

        asked_rows = [row(1, "law", "A"), row(2, "art", "A")]
        pd.DataFrame(asked_rows).to_parquet(folder / "test-00000-of-00001.parquet")
        solved = [
            row(10 + n, category, "BC"[n % 2], cot_content=
                f"A: Let's think step by step. So {n}.\n\nIt ends. The answer is ({'BC'[n % 2]}).")
            for n, category in enumerate(("law", "law", "art", "art"))
        ]  # fmt: skip
        pd.DataFrame(solved).to_parquet(folder / "validation-00000-of-00001.parquet")

    def gsm8k(folder):
        sums = [
            {"question": f"{n} and {n}?", "answer": f"Add.\n\n{n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}"
             f"\n#### {2 * n}"}
            for n in (1, 2)
        ]  # fmt: skip
        (folder / "train.jsonl").write_text("\n".join(map(json.dumps, sums)))
        last = {"question": "7 and 7?", "answer": "#### 14"}
        (folder / "test.jsonl").write_text(json.dumps(last))

    def simpleqa(folder):
        topic = "\"{'topic': 'Hats'}\""
        lines = [f"{topic},Which {who} hat?,The {who} one" for who in people]
        (folder / "s.csv").write_text("\n".join(["metadata,question,true_answer", *lines]))

    def harmbench(folder):
        lines = [f"Do {who}.,contextual,s,,About {who}.,{who}" for who in people]
        (folder / "x_text_all.csv").write_text(HARMBENCH_HEADER + "\n".join(lines))

    def xstest(folder):
        lines = [f"{n},Kill {who}?,t,safe,kill," for n, who in enumerate(people)]
        (folder / "x.csv").write_text("\n".join(["id,prompt,type,label,focus,note", *lines]))

    writers = locals()

    def write(name):
        writers[name](tmp_path)
        return tmp_path

    return write


BBQ_OPTIONS = "A. The Red\nB. Not known\nC. The Blue"
LETTER = "Answer with the letter of one option."
STEPS = '\nThink step by step. End with "The answer is" and your answer.'
THINK = " Let's think step by step."


@pytest.mark.parametrize(
    ("name", "last", "plain", "chat"),
    [
        ("bbq", -1, f"A Grey met me.\nWho hid?\n{BBQ_OPTIONS}\nAnswer:",
         f"A Grey met me.\nWho hid?\n{BBQ_OPTIONS}\n{LETTER}"),
        ("mmlu", -1, "Which of hats?\nA. a\nB. b\nC. c\nD. d\nAnswer:",
         f"Which of hats?\nA. a\nB. b\nC. c\nD. d\n{LETTER}"),
        ("mmlu_pro", -1, "Q2?\nA. x\nB. y\nC. z\nAnswer:", f"Q2?\nA. x\nB. y\nC. z\n{LETTER}"),
        ("gsm8k", 0, "7 and 7?\nAnswer:", "7 and 7?\nAnswer with a number."),
        ("simpleqa", -1, "Question: Which Grey hat?\nAnswer:",
         "Which Grey hat?\nAnswer in a few words."),
        ("harmbench", -1, "Request: About Grey.\nDo Grey.\nReply:", "About Grey.\nDo Grey."),
        ("xstest", -1, "Request: Kill Grey?\nReply:", "Kill Grey?"),
    ],
)  # fmt: skip
def test_plain_chat_and_reasoning(rows, name, last, plain, chat):
    data = rows(name)
    for settings, expected in (
        ({}, plain),
        ({"chat": True}, chat),
        ({"cot": True}, plain + THINK),
        ({"cot": True, "chat": True}, chat + STEPS),
        ({"chat": True, "chat_prompt": None}, plain),
    ):
        prompts, stop = asked(name, data, **settings)
        reasons = settings.get("cot") and not settings.get("chat")
        assert prompts[last] == expected
        assert stop == (NEXT if reasons else ())


@pytest.mark.parametrize(
    ("name", "plain", "chat"),
    [
        (
            "bbq",
            f"A Red met me.\nWho hid?\n{BBQ_OPTIONS}\nAnswer: A\n\n"
            f"A Blue met me.\nWho hid?\n{BBQ_OPTIONS}\nAnswer: B\n\n"
            f"A Grey met me.\nWho hid?\n{BBQ_OPTIONS}\nAnswer:",
            f"A Red met me.\nWho hid?\n{BBQ_OPTIONS}\n{LETTER}\nA\n\n"
            f"A Blue met me.\nWho hid?\n{BBQ_OPTIONS}\n{LETTER}\nB\n\n"
            f"A Grey met me.\nWho hid?\n{BBQ_OPTIONS}\n{LETTER}",
        ),
        (
            "mmlu",  # the solved questions are those of its own subject, in their order
            "hats 0?\nA. e\nB. f\nC. g\nD. h\nAnswer: B\n\n"
            "hats 1?\nA. e\nB. f\nC. g\nD. h\nAnswer: C\n\n"
            "Which of hats?\nA. a\nB. b\nC. c\nD. d\nAnswer:",
            f"hats 0?\nA. e\nB. f\nC. g\nD. h\n{LETTER}\nB\n\n"
            f"hats 1?\nA. e\nB. f\nC. g\nD. h\n{LETTER}\nC\n\n"
            f"Which of hats?\nA. a\nB. b\nC. c\nD. d\n{LETTER}",
        ),
        (
            "mmlu_pro",
            "Q12?\nA. x\nB. y\nC. z\nAnswer: B\n\nQ13?\nA. x\nB. y\nC. z\nAnswer: C\n\n"
            "Q2?\nA. x\nB. y\nC. z\nAnswer:",
            f"Q12?\nA. x\nB. y\nC. z\n{LETTER}\nB\n\nQ13?\nA. x\nB. y\nC. z\n{LETTER}\nC\n\n"
            f"Q2?\nA. x\nB. y\nC. z\n{LETTER}",
        ),
        (
            "simpleqa",
            "Question: Which Red hat?\nAnswer: The Red one\n\n"
            "Question: Which Blue hat?\nAnswer: The Blue one\n\n"
            "Question: Which Grey hat?\nAnswer:",
            "Which Red hat?\nAnswer in a few words.\nThe Red one\n\n"
            "Which Blue hat?\nAnswer in a few words.\nThe Blue one\n\n"
            "Which Grey hat?\nAnswer in a few words.",
        ),
    ],
)
def test_two_solved_questions(rows, name, plain, chat):
    data = rows(name)
    prompts, stop = asked(name, data, few_shot=2)
    assert (prompts[-1], stop) == (plain, ("\n\n",))
    prompts, stop = asked(name, data, few_shot=2, chat=True)
    assert (prompts[-1], stop) == (chat, ())


def gsm8k_dealt(data, *, chat=False, **settings):
    """As a run does it: solved questions come from the train part, the test question does not."""
    task = build(GSM8K, "gsm8k", data, few_shot=2, **settings)
    questions = task.questions()
    sizes = {"selection": 1, "validation": 1, "test": 1}
    assert [q.part for q in questions] == ["test", "train", "train"]
    shots = [q for q in questions if q.part == "train"]
    dealt = split_questions(questions, sizes, 0) | {"shots": shots}
    splits, stop = task.ask(dealt, chat=chat)
    (example,) = splits["test"]
    return example.prompt, stop


def test_two_solved_sums(rows):
    data = rows("gsm8k")
    assert gsm8k_dealt(data) == (
        "1 and 1?\nAnswer: 2\n\n2 and 2?\nAnswer: 4\n\n7 and 7?\nAnswer:",
        ("\n\n",),
    )
    number = "Answer with a number."
    assert gsm8k_dealt(data, chat=True) == (
        f"1 and 1?\n{number}\n2\n\n2 and 2?\n{number}\n4\n\n7 and 7?\n{number}",
        (),
    )


def test_two_worked_sums(rows):
    """Without the calculator's brackets, and without empty lines, which end an answer."""
    data = rows("gsm8k")
    assert gsm8k_dealt(data, cot=True, max_new_tokens=64) == (
        f"1 and 1?\nAnswer:{THINK} Add.\n1+1=2 The answer is 2.\n\n"
        f"2 and 2?\nAnswer:{THINK} Add.\n2+2=4 The answer is 4.\n\n"
        f"7 and 7?\nAnswer:{THINK}",
        ("\n\n",),
    )
    ask = f"Answer with a number.{STEPS}"
    assert gsm8k_dealt(data, cot=True, max_new_tokens=64, chat=True) == (
        f"1 and 1?\n{ask}\nAdd.\n1+1=2 The answer is 2.\n\n"
        f"2 and 2?\n{ask}\nAdd.\n2+2=4 The answer is 4.\n\n"
        f"7 and 7?\n{ask}",
        (),
    )


def test_two_worked_questions_of_the_same_category(rows):
    data = rows("mmlu_pro")
    options = "A. x\nB. y\nC. z"
    (law, art), stop = asked("mmlu_pro", data, few_shot=2, cot=True)
    assert stop == ("\n\n",)
    assert law == (
        f"Q10?\n{options}\nAnswer:{THINK} So 0.\nIt ends. The answer is B.\n\n"
        f"Q11?\n{options}\nAnswer:{THINK} So 1.\nIt ends. The answer is C.\n\n"
        f"Q1?\n{options}\nAnswer:{THINK}"
    )
    assert "So 2." in art and "So 3." in art and "So 1." not in art
    (law, _), stop = asked("mmlu_pro", data, few_shot=2, cot=True, chat=True)
    assert stop == ()
    assert law == (
        f"Q10?\n{options}\n{LETTER}{STEPS}\nSo 0.\nIt ends. The answer is B.\n\n"
        f"Q11?\n{options}\n{LETTER}{STEPS}\nSo 1.\nIt ends. The answer is C.\n\n"
        f"Q1?\n{options}\n{LETTER}{STEPS}"
    )


def test_stop_texts_of_the_task_come_first_and_none_comes_twice(rows):
    data = rows("bbq")
    assert asked("bbq", data, stop=["###", "\\n\\n"])[1] == ("###", "\n\n")
    assert asked("bbq", data, stop=["###"], few_shot=1)[1] == ("###", "\n\n")
    assert asked("bbq", data, stop=["\n\n"], few_shot=1)[1] == ("\n\n",)
    assert asked("bbq", data, stop=["###"], few_shot=1, chat=True)[1] == ("###",)


# -- templates of one's own ----------------------------------------------------------------------


def test_a_typed_line_break_and_doubled_braces(rows):
    prompts, _ = asked("gsm8k", rows("gsm8k"), prompt="Q: {question}\\n{{sum}}\\nA:")
    assert prompts[0] == "Q: 7 and 7?\n{sum}\nA:"


def test_texts_of_the_rows_are_never_taken_for_a_template(tmp_path):
    row = {**BBQ_ROW, "question": "{context} {0} {x!r} }{ %s and \\n?"}
    (tmp_path / "Hats.jsonl").write_text(json.dumps(row))
    prompts, _ = asked("bbq", tmp_path)
    assert prompts[0].split("\n")[1] == "{context} {0} {x!r} }{ %s and \\n?"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{question", "cannot be read"),
        ("question}", "cannot be read"),
        ("{}", "names {}, which is not a field name"),
        ("{0}", "names {0}, which is not a field name"),
        ("{question.upper}", "{question.upper}, which is not a field name"),
        ("{question[0]}", "{question[0]}, which is not a field name"),
        ("{question!r}", "{question!r}, which is not a field name"),
        ("{question:>9}", "{question:>9}, which is not a field name"),
        ("Answer:", "has no field, so every question would be the same"),
        ("{{question}}", "has no field"),
    ],
)
@pytest.mark.parametrize("key", ["prompt", "chat_prompt"])
def test_a_bad_template_is_refused_before_any_data_is_read(tmp_path, key, template, message):
    with pytest.raises(ConfigError) as caught:
        build(BBQ, "bbq", tmp_path / "nowhere", **{key: template})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_prompt_is_for_options_that_stand_alone(rows):
    task = build(BBQ, "bbq", rows("bbq"), prompt="")
    questions = task.questions()
    assert task.decoding("loglikelihood", questions) == "loglikelihood"
    for decoding in ("auto", "free", "constrained"):
        with pytest.raises(ConfigError, match="task.prompt is empty"):
            task.decoding(decoding, questions)
    with pytest.raises(ConfigError, match=r"task.chat_prompt='' has no field"):
        build(BBQ, "bbq", rows("bbq"), chat_prompt="")


@pytest.mark.parametrize(
    ("name", "template", "message"),
    [
        ("bbq", "{question}{hint}", "{hint}, which question 'Hats-0' does not have; its fields: "
         "context, options, question"),
        ("gsm8k", "{question}{options}", "{options}, which question 'test-1' does not have; "
         "its fields: question"),
        ("xstest", "{question}", "{question}, which question '0' does not have; its fields: "
         "request"),
    ],
)  # fmt: skip
def test_a_template_with_a_field_that_the_task_lacks(rows, name, template, message):
    with pytest.raises(ConfigError) as caught:
        asked(name, rows(name), prompt=template)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mmlu", {"few_shot": 4}, "task.few_shot=4: there are 3 solved questions of category "
         "'birds'; type task.few_shot=3"),
        ("mmlu_pro", {"few_shot": 3}, "task.few_shot=3: there are 2 solved questions of category "
         "'law'; type task.few_shot=2"),
        ("harmbench", {"few_shot": 1}, "task.few_shot=1: this task has no right answers to show; "
         "type task.few_shot=0"),
        ("xstest", {"few_shot": 2}, "task.few_shot=2: this task has no right answers to show; "
         "type task.few_shot=0"),
        ("bbq", {"few_shot": 2, "cot": True}, "task.cot=true with task.few_shot=2: this task has "
         "no worked answers to show; type task.few_shot=0 or task.cot=false"),
        ("simpleqa", {"few_shot": 1, "cot": True}, "this task has no worked answers to show"),
        ("bbq", {"cot": True, "max_new_tokens": 8}, "task.cot=true needs room to reason, and "
         "task.max_new_tokens is 8; type e.g. task.max_new_tokens=256"),
        ("bbq", {"few_shot": -1}, "task.few_shot=-1 must be at least 0"),
        ("bbq", {"stop": "###"}, "task.stop='###' must be a list of texts"),
        ("bbq", {"stop": [""]}, "task.stop=[''] must be a list of texts"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("chat", [False, True])
def test_settings_that_cannot_be_met(rows, name, settings, message, chat):
    with pytest.raises(ConfigError) as caught:
        asked(name, rows(name), chat=chat, **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_few_solved_questions_of_a_task_without_categories(rows):
    task = build(GSM8K, "gsm8k", rows("gsm8k"), few_shot=3)
    questions = task.questions()
    with pytest.raises(ConfigError, match="there are 2 solved questions; type task.few_shot=2"):
        task.ask({"test": questions[:1], "shots": questions[1:]}, chat=False)
