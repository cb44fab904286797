"""Tasks of lm-evaluation-harness, against lm-eval itself, on tasks and rows made here."""

import builtins
import json
import subprocess
import sys

import pytest

from corrsteer.errors import ConfigError, DataError
from corrsteer.records import Example, Score
from corrsteer.tasks.lm_eval import LMEval, OwnScore
from corrsteer.tasks.splits import split_questions

pytestmark = pytest.mark.long

pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install 'corrsteer[lm-eval]'")
yaml = pytest.importorskip("yaml")

CHOICES = [
    {"q": "A bird?", "opts": ["swims", "flies"], "gold": 1},
    {"q": "A fish?", "opts": ["swims", "flies", "digs"], "gold": 0},
    {"q": "A mole?", "opts": ["flies", "digs", "swims"], "gold": 1},
    {"q": "A worm?", "opts": ["flies", "digs"], "gold": 1},
]
SUMS = [
    {"question": "2 + 3?", "answer": "Two and three. #### 5"},
    {"question": "2 + 5?", "answer": "Two and five. #### 7"},
    {"question": "4 + 4?", "answer": "Twice four. #### 8"},
]
LAST = {"function": "regex", "regex_pattern": r"(-?\d+)", "group_select": -1}
FIRST = {"function": "take_first"}


@pytest.fixture(scope="module", autouse=True)
def imported():
    """It takes seconds, for which no single test is to be charged."""
    import lm_eval.tasks  # noqa: F401


@pytest.fixture
def home(tmp_path):
    """``home(name, rows, {...})``: writes a task; "test" and the like in rows are its splits."""

    def write(name, splits, **settings):
        files = {}
        for split, rows in splits.items():
            file = tmp_path / f"{name}_{split}.jsonl"
            file.write_text("\n".join(map(json.dumps, rows)))
            files[split] = str(file)
        kept = {"train": "training_split", "validation": "validation_split", "test": "test_split"}
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files, "cache_dir": str(tmp_path / "cache")},
            **{kept[split]: split for split in splits if split in kept},
            "metadata": {"version": 2.0},
            **settings,
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(task))
        return tmp_path

    return write


def choice(home, splits=None, **settings):
    return home(
        "animals",
        splits or {"test": CHOICES},
        **{
            "output_type": "multiple_choice",
            "description": "Answer well.\n\n",
            "doc_to_text": "Q: {{q}}\nA:",
            "doc_to_choice": "opts",
            "doc_to_target": "gold",
            "metric_list": [{"metric": m} for m in ("acc", "acc_norm")],
            **settings,
        },
    )


def sums(home, **settings):
    return home(
        "sums",
        {"test": SUMS},
        **{
            "output_type": "generate_until",
            "doc_to_text": "Q: {{question}}\nA:",
            "doc_to_target": "{{answer.split('####')[-1].strip()}}",
            "generation_kwargs": {"until": ["\n\n", "Q:"], "max_gen_toks": 9},
            "filter_list": [
                {"name": "last", "filter": [LAST, FIRST]},
                {"name": "first", "filter": [{**LAST, "group_select": 0}, FIRST]},
            ],
            "metric_list": [{"metric": "exact_match", "ignore_case": True}],
            **settings,
        },
    )


def build(folder, name, **settings):
    fixed = {"prompt": "{context}", "max_new_tokens": 16, "include_path": str(folder)}
    return LMEval(**{"name": name, "scorer": OwnScore(), **fixed, **settings})


def reference(folder, name):
    """The same task, loaded by lm-eval alone."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(folder), include_defaults=False).load(name)["tasks"][name]


def answer(task, question, text):
    return task.scorer(Example(question.id, "", question.gold, question.options), text)


def test_multiple_choice(home):
    task = build(choice(home, {"test": CHOICES[:2], "train": CHOICES[2:]}), "animals")
    questions = task.questions()
    assert [(q.id, q.part, q.gold) for q in questions] == [
        ("test-0", "test", "B"), ("test-1", "test", "A"),
        ("train-0", "train", "B"), ("train-1", "train", "B"),
    ]  # fmt: skip
    assert questions[1].options == ("swims", "flies", "digs")
    asked, stop = task.ask({"test": questions[:1], "shots": ()}, chat=False)
    assert asked["test"][0].prompt == "Answer well.\n\nQ: A bird?\nA:"
    assert stop == ()
    assert task.few_shot == 0
    with pytest.raises(DataError, match=r"task\.max_chars=3"):
        short = build(task.include_path, "animals", max_chars=3)
        short.ask({"test": short.questions(), "shots": ()}, chat=False)
    assert task.decoding("auto", questions) == "loglikelihood"
    assert task.decoding("constrained", questions) == "constrained"
    scores = [answer(task, questions[1], text) for text in ("A. swims", " A", "B. flies", "x", "")]
    assert scores == [
        Score(1.0, "A"), Score(1.0, "A"), Score(0.0, "B"), Score(0.0, None), Score(0.0, None)
    ]  # fmt: skip
    assert task.scorer.version.endswith("animals 2.0, acc_norm")


@pytest.mark.parametrize(
    ("settings", "likelihood", "name"),
    [
        ({"metric": "acc"}, "sum", "acc"),
        ({"metric": "acc_norm"}, "per_character", "acc_norm"),
        ({"likelihood": "sum"}, "sum", "acc"),
        ({"likelihood": "per_token"}, "per_token", "per token"),
    ],
)
def test_metrics_of_options_say_how_they_are_compared(home, settings, likelihood, name):
    task = build(choice(home), "animals", **settings)
    task.questions()
    assert task.likelihood == likelihood
    assert task.scorer.version.endswith(f"animals 2.0, {name}")


@pytest.mark.parametrize(
    ("golds", "letters"),
    [
        ([1, 0], [["B"], ["A"]]),
        (["flies", "swims"], [["B"], ["A"]]),
        ([[1, 0], [2]], [["B", "A"], ["C"]]),
    ],
)
def test_every_form_of_a_right_option(home, golds, letters):
    rows = [{**row, "gold": gold} for row, gold in zip(CHOICES[:2], golds, strict=True)]
    questions = build(choice(home, {"test": rows}), "animals").questions()
    assert [[q.gold, *q.aliases] for q in questions] == letters


def test_any_of_several_right_options_counts(home):
    rows = [{**row, "gold": [0, 1]} for row in CHOICES[:2]]
    task = build(choice(home, {"test": rows}), "animals")
    question = task.questions()[1]
    example = Example("test-1", "", question.gold, question.options, {}, question.aliases)
    scores = [task.scorer(example, text) for text in ("A. swims", "B. flies", "C. digs")]
    assert [score.value for score in scores] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("sampler", ["default", "first_n"])
def test_solved_questions_are_those_of_lm_eval(home, sampler):
    splits = {"test": [{**row, "q": row["q"].upper()} for row in CHOICES], "train": CHOICES}  # type: ignore[attr-defined]
    folder = choice(home, splits, num_fewshot=2, fewshot_config={"sampler": sampler})
    task = build(folder, "animals")
    questions = [q for q in task.questions() if q.part == "test"]
    assert task.few_shot == 2
    own = reference(folder, "animals")
    own.set_fewshot_seed(1234)
    contexts = [own.fewshot_context(doc, num_fewshot=2) for doc in own.eval_docs]
    assert [q.fields["context"] for q in questions] == contexts
    assert contexts[0].count("Q: ") == 3
    asked, _ = task.ask({"test": questions, "shots": ()}, chat=False)
    assert [e.prompt for e in asked["test"]] == contexts
    assert build(folder, "animals", few_shot=1).questions()[0].fields["context"].count("Q: ") == 2


@pytest.mark.parametrize("sampler", ["default", "first_n"])
def test_no_question_is_solved_before_itself(home, sampler):
    splits = {"test": CHOICES[:1], "train": CHOICES}
    folder = choice(home, splits, num_fewshot=3, fewshot_config={"sampler": sampler})
    for question in build(folder, "animals").questions():
        if question.part == "train":
            words = CHOICES[int(question.id.split("-")[1])]["q"]
            assert question.fields["context"].count(words) == 1


def test_a_split_that_is_named_twice_is_used_once(home):
    folder = choice(home, validation_split="test")
    assert {q.part for q in build(folder, "animals").questions()} == {"test"}


def test_official_splits_are_kept_apart(home):
    rows = [{**CHOICES[n % 4], "q": f"{n}?"} for n in range(9)]
    task = build(choice(home, {"validation": rows}), "animals")
    sizes = {"selection": 3, "validation": 3, "test": 3}
    assert all(len(s) == 3 for s in list(split_questions(task.questions(), sizes, 0).values())[:3])


def test_generation(home):
    folder = sums(home)
    task = build(folder, "sums", stop=["\\n"])
    questions = task.questions()
    assert [(q.id, q.gold, q.options) for q in questions][:2] == [
        ("test-0", "5", ()), ("test-1", "7", ())
    ]  # fmt: skip
    asked, stop = task.ask({"test": questions, "shots": ()}, chat=False)
    assert asked["test"][0].prompt == "Q: 2 + 3?\nA:"
    assert stop == ("\n\n", "Q:", "\n")
    assert task.decoding("auto", questions) == "free"
    assert task.scorer.version.endswith("sums 2.0, exact_match after filter last")


@pytest.mark.parametrize("filter_name", ["last", "first"])
def test_scores_are_those_of_lm_eval(home, filter_name):
    folder = sums(home)
    task = build(folder, "sums", filter=filter_name)
    own, questions = reference(folder, "sums"), task.questions()
    texts = ["so 2 plus 3 is 5", "5, or 7", "7, or 5", "five", "", "[invalid]", " 8\n", "-5"]
    for n, doc in enumerate(own.eval_docs):
        for text in texts:
            instance = own.construct_requests(doc, "", metadata=("sums", n, 1))
            instance.resps = [text]
            own._instances = [instance]
            own.apply_filters()
            read = instance.filtered_resps[filter_name]
            value = own.process_results(doc, [read])["exact_match"]
            parsed = None if read == "[invalid]" else read
            assert answer(task, questions[n], text) == Score(float(value), parsed), text


def test_the_default_filter_and_several_right_answers(home):
    folder = sums(
        home,
        doc_to_target="{{['five', answer.split('####')[-1].strip()]}}",
        filter_list=None,
    )
    task = build(folder, "sums")
    first = task.questions()[0]
    assert [first.gold, *first.aliases] == ["five", "5"]
    scores = [answer(task, first, text) for text in ("5", "five", "FIVE", "6", " ")]
    assert [(s.value, s.parsed) for s in scores] == [
        (1.0, "5"), (1.0, "five"), (1.0, "FIVE"), (0.0, "6"), (0.0, None)
    ]  # fmt: skip


def test_a_text_can_be_a_choice(home):
    rows = [{"q": "A bird?", "opts": ["swims", "flies"], "gold": 1}]
    folder = choice(
        home, {"test": rows}, output_type="generate_until",
        metric_list=[{"metric": "exact_match"}],
    )  # fmt: skip
    task = build(folder, "animals")
    (question,) = task.questions()
    assert (question.gold, question.options) == ("flies", ())
    assert answer(task, question, "flies").value == 1.0


def test_python_of_the_users_folder(home, tmp_path):
    folder = sums(home, filter_list=None, doc_to_text="FUNCTION", process_results="JUDGE")
    (tmp_path / "helper.py").write_text(
        "def text(doc):\n    return 'F: ' + doc['question']\n"
        "def judge(doc, results):\n"
        "    return {'length': len(results[0]) / 10, 'exact_match': (1, 2), 'long': 11}\n"
    )
    file = tmp_path / "sums.yaml"
    written = file.read_text().replace("FUNCTION", "!function helper.text")
    file.write_text(written.replace("JUDGE", "!function helper.judge"))
    task = build(folder, "sums", metric="length")
    question = task.questions()[0]
    assert question.fields["context"] == "F: 2 + 3?"
    assert answer(task, question, "12345") == Score(0.5, "12345")
    for metric, message in (
        (None, "exact_match of task sums is (1, 2), not a number from 0 to 1; choose one of: len"),
        ("long", "long of task sums is 11, not a number"),
        ("lenght", "has no such metric; choose one of: length"),
    ):
        with pytest.raises(ConfigError) as error:
            build(folder, "sums", metric=metric).questions()
        assert message in str(error.value)
    with pytest.raises(DataError, match=r"answer to test-0: IndexError|KeyError|ZeroDivision"):
        (tmp_path / "helper.py").write_text(
            "def text(doc):\n    return 'F: '\ndef judge(doc, results):\n    return 1 / 0\n"
        )
        build(folder, "sums", metric="length").questions()


@pytest.mark.night
def test_another_scorer(home):
    def never(example, text):
        return Score(0.0, None)

    folder = sums(home)
    choice(home)  # both are there when the folder is read: lm-eval's own index is not looked at
    task = build(folder, "sums", scorer=never)
    assert (len(task.questions()), task.scorer) == (3, never)
    with pytest.raises(ConfigError, match=r"leave out task\.scorer"):
        build(sums(home), "sums", scorer=never, metric="exact_match")
    chosen = build(choice(home), "animals", scorer=never)
    assert chosen.decoding("free", chosen.questions()) == "free"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_type": "loglikelihood", "doc_to_choice": None}, "output_type is loglikelihood;"),
        ({"doc_to_text": "{{gold}}", "doc_to_target": "digs"}, "its options are several contexts"),
        ({"unsafe_code": True}, "would run code that a model wrote"),
        ({"repeats": 3}, "needs 3 sampled answers"),
        ({"doc_to_choice": "{{['a', 'b'] * 14}}"}, "row test-0 of task animals has 28 options"),
        ({"doc_to_choice": "{{['a']}}", "doc_to_target": "{{0}}"}, "has 1 options"),
        ({"doc_to_target": "q"}, "the right answer 'A bird?' is not one of"),
        ({"num_fewshot": 9}, "cannot make a question from it with task.few_shot=9"),
        ({"doc_to_text": "{{q.nosuch()}}"}, "lm-eval cannot load task animals"),
    ],
)
def test_tasks_that_cannot_be_used(home, settings, message):
    with pytest.raises((ConfigError, DataError)) as error:
        build(choice(home, **settings), "animals").questions()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_right_option_that_is_none(home):
    rows = [CHOICES[0], {**CHOICES[1], "gold": 3}, {**CHOICES[2], "gold": -1}]
    for kept, wrong in (([0, 1], "test-1 of task animals: the right answer '3'"), ([0, 2], "'-1'")):
        with pytest.raises(DataError, match=f"{wrong} is not one of its 3 options"):
            build(choice(home, {"test": [rows[n] for n in kept]}), "animals").questions()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sums", {"filter": "lst"}, "choose one of: last, first"),
        ("sums", {"metric": "acc"}, "choose one of: exact_match"),
        ("animals", {"metric": "f1"}, "likeliest per character, task.metric=acc_norm"),
        ("animals", {"filter": "last"}, "leave out task.filter"),
        ("sums", {"subset": "old"}, "sums has no category 'old'"),
    ],
)
def test_settings_that_a_task_does_not_have(home, name, settings, message):
    sums(home)
    with pytest.raises((ConfigError, DataError), match=message.replace(".", r"\.")):
        build(choice(home), name, **settings).questions()


def test_decodings_that_a_task_does_not_have(home):
    sums(home)
    chosen, written = build(choice(home), "animals"), build(sums(home), "sums")
    with pytest.raises(ConfigError, match=r"task\.scorer=choice"):
        chosen.decoding("free", chosen.questions())
    with pytest.raises(ConfigError, match="type decoding=free"):
        written.decoding("loglikelihood", written.questions())


def test_wrong_settings(tmp_path):
    with pytest.raises(ConfigError, match=r"type task\.name=NAME"):
        build(tmp_path, "lm_eval")
    with pytest.raises(ConfigError, match="leave out data"):
        build(tmp_path, "x", data="rows.jsonl")
    with pytest.raises(ConfigError, match=r"leave out task\.cot"):
        build(tmp_path, "x", cot=True, max_new_tokens=64)
    with pytest.raises(ConfigError, match="few_shot=-1"):
        build(tmp_path, "x", few_shot=-1)
    with pytest.raises(DataError, match=r"task\.include_path=.*nowhere is not a folder"):
        build(tmp_path / "nowhere", "x").questions()


def test_a_group_lists_its_tasks(home, tmp_path, monkeypatch):
    choice(home, tag="beasts")
    sums(home, tag="beasts")
    (tmp_path / "all.yaml").write_text("group: all_of_them\ntask: [animals, sums]\n")
    for name in ("beasts", "all_of_them"):
        with pytest.raises(ConfigError, match="is a group of tasks; .*: animals, sums$"):
            build(tmp_path, name).questions()


def test_an_unknown_name_and_a_missing_data_set(home, tmp_path, monkeypatch):
    from corrsteer.tasks import harness

    folder = choice(home)
    # Otherwise lm-eval's own tasks, of which it makes an index for 10 s, are looked through.
    small, manager = harness._manager(str(folder), False), harness._manager
    monkeypatch.setattr(harness, "_manager", lambda folder, own: small)
    with pytest.raises(ConfigError, match=r"no such task \(did you mean animals\?\)"):
        build(folder, "animal").questions()
    monkeypatch.setattr(harness, "_manager", manager)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "far.yaml").write_text(
        "task: far\ndataset_path: nobody/nothing\ndataset_name: small\ntest_split: test\n"
        "doc_to_text: q\ndoc_to_target: a\n"
    )
    with pytest.raises(DataError) as error:
        build(tmp_path / "far", "far").questions()
    assert "its data set nobody/nothing is not in the cache" in str(error.value)
    assert "datasets.load_dataset('nobody/nothing', 'small')" in str(error.value)


def test_without_lm_eval_one_line_says_what_to_type(tmp_path, monkeypatch):
    from corrsteer.tasks import harness

    def refuse(name, *arguments, **more):
        if name.split(".")[0] == "lm_eval":
            raise ImportError("No module named 'lm_eval'")
        return real(name, *arguments, **more)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    harness._manager.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'corrsteer\[lm-eval\]'"):
        build(tmp_path, "x").questions()


def test_settings_are_checked_without_importing_lm_eval():
    code = (
        "import sys; from corrsteer.tasks.lm_eval import LMEval, OwnScore;"
        "LMEval(name='x', scorer=OwnScore(), prompt='{context}', max_new_tokens=1);"
        "assert not {'lm_eval', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
