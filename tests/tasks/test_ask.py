"""From questions to prompts: what is left out, what ends an answer, how it may be decoded."""

from dataclasses import dataclass

import pytest

from corrsteer.errors import ConfigError, DataError
from corrsteer.records import Question, Score
from corrsteer.tasks.base import HubData, Task


@dataclass(frozen=True, kw_only=True)
class Toy(Task):
    options: tuple[str, ...] = ()

    def rows(self):
        for n in range(9):
            yield Question(
                f"q{n}", {"x": "?" * (n + 1)}, "A", self.options, answer="A", notes={"n": str(n)},
                meta={"category": "even" if n % 2 == 0 else "odd"},
            )  # fmt: skip


def toy(**settings):
    return Toy(**{
        "name": "toy", "scorer": lambda e, t: Score(0.0, None), "max_new_tokens": 4,
        "prompt": "{x}\nAnswer:", **settings,
    })  # fmt: skip


def asked(task, chat=False):
    rows = task.questions()
    splits = {"selection": rows[:3], "validation": rows[3:6], "test": rows[6:], "shots": rows[:1]}
    return task.ask(splits, chat=chat)


def test_long_prompts_are_left_out_and_no_other():
    splits, _ = asked(toy(max_chars=15))
    lengths = {name: [len(e.prompt) for e in part] for name, part in splits.items()}
    assert lengths == {"selection": [9, 10, 11], "validation": [12, 13, 14], "test": [15]}
    with pytest.raises(
        DataError, match=r"all 3 prompts of the test split .* \(the shortest has 15 characters\)"
    ):
        asked(toy(max_chars=14))


def test_max_chars_counts_the_solved_questions_too():
    splits, _ = asked(toy(few_shot=1, max_chars=28))
    assert [len(e.prompt) for e in splits["test"]] == [28]


def test_stop_texts_are_the_tasks_own_and_the_gap_between_solved_questions():
    assert asked(toy())[1] == ()
    assert asked(toy(stop=["Q:", "\\n"]))[1] == ("Q:", "\n")
    assert asked(toy(few_shot=1, stop=["\n\n"]))[1] == ("\n\n",)
    assert asked(toy(few_shot=1), chat=True)[1] == ()


def test_notes_reach_the_example():
    assert asked(toy())[0]["test"][0].notes == {"n": "6"}


def test_a_subset_is_one_category_or_several():
    assert len(toy(subset="odd").questions()) == 4
    assert len(toy(subset=["odd", "even"]).questions()) == 9
    with pytest.raises(DataError, match="has no category 'prime'; categories: even, odd"):
        toy(subset=["odd", "prime"]).questions()
    with pytest.raises(DataError, match="task.subset="):
        toy(subset=[]).questions()


def test_decoding():
    free, choice = toy(), toy(options=("yes", "no"), prompt="{x}\n{options}\nAnswer:")
    for task in (free, choice):
        assert task.decoding("auto", task.questions()) == "free"
        assert task.decoding("free", task.questions()) == "free"
    for wanted in ("constrained", "loglikelihood"):
        assert choice.decoding(wanted, choice.questions()) == wanted
        with pytest.raises(
            ConfigError, match=f"decoding={wanted} (needs answer options|answers with a letter)"
        ):
            free.decoding(wanted, free.questions())
        reasoning = toy(prompt="{x}\n{options}", cot=True, max_new_tokens=99)
        with pytest.raises(ConfigError, match="task.cot=true and decoding="):
            reasoning.decoding(wanted, [])
    unlisted = toy(options=("yes", "no"))
    assert unlisted.decoding("loglikelihood", unlisted.questions()) == "loglikelihood"
    with pytest.raises(ConfigError, match="write {options} in it"):
        unlisted.decoding("constrained", unlisted.questions())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"few_shot": -1}, "task.few_shot=-1"),
        ({"max_new_tokens": 0}, "task.max_new_tokens=0"),
        ({"cot": True}, "task.max_new_tokens is 4; type e.g. task.max_new_tokens=256"),
        ({"stop": "ab"}, "must be a list"),
        ({"stop": [""]}, "must be a list"),
        ({"max_chars": 0}, "task.max_chars=0"),
        ({"likelihood": "mean"}, "choose one of: sum, per_character, per_token"),
        ({"prompt": "no field"}, "has no field"),
        ({"chat_prompt": "{0}"}, "not a field name"),
    ],
)
def test_settings_are_checked_when_built(settings, message):
    with pytest.raises(ConfigError, match=message):
        toy(**settings)


def test_a_hub_revision_must_be_a_commit():
    with pytest.raises(ConfigError, match="is not a commit"):
        HubData("a/b", "main", ["x"], "MIT")
    with pytest.raises(DataError, match="has no data set on the Hub"):
        toy(data="hub").files("*")
    with pytest.raises(DataError, match="has no bundled data"):
        toy().files("*")


def test_a_column_name_may_have_spaces():
    @dataclass(frozen=True, kw_only=True)
    class Spaced(Toy):
        def rows(self):
            yield from (
                Question(f"q{n}", {"the question": f"{n}?"}, "A", answer="A") for n in range(9)
            )

    task = Spaced(
        name="toy", scorer=lambda e, t: Score(0.0, None), max_new_tokens=4,
        prompt="{the question}\nAnswer:",
    )  # fmt: skip
    assert asked(task)[0]["test"][0].prompt == "6?\nAnswer:"
