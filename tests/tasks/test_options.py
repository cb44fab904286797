"""The order of options: shuffled by id and seed with all that names them, and told of where one
letter is right too often or no prompt shows them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from test_custom import build, never, write
from test_prompts_golden import BBQ_ROW
from test_prompts_golden import build as build_task

from corrsteer.errors import ConfigError
from corrsteer.records import LETTERS, NAMES, Example, Question
from corrsteer.tasks.bbq import BBQ
from corrsteer.tasks.custom import Custom
from corrsteer.tasks.gsm8k import GSM8K
from corrsteer.tasks.options import _at_least, one_sided, shuffled, unlisted


def question(n, right=0, options=("red", "blue", "tan"), **more):
    return Question(f"q{n}", {"q": f"{n}?"}, NAMES[right], options, **more)


@given(st.integers(0, 25), st.integers(2, 26), st.integers(0, 50), st.booleans())
def test_what_names_an_option_follows_it(right, n, seed, lettered):
    options = tuple(f"option {i}" for i in range(n))
    right %= n
    answer = NAMES[right] if lettered else options[right]
    notes = {"biased": NAMES[n - 1], "kind": "new"}
    one = question(1, right, options, answer=answer, notes=notes, aliases=("option x",))
    new = shuffled(one, seed, lettered)
    assert sorted(new.options) == sorted(options)
    assert new.options[NAMES.index(new.gold)] == options[right]
    assert new.options[NAMES.index(new.notes["biased"])] == options[n - 1]
    assert (new.notes["kind"], new.aliases, new.content) == ("new", one.aliases, one.content)
    assert new.answer == (new.gold if lettered else answer)
    assert shuffled(one, seed, lettered) == new


def test_every_order_comes_up_by_id_and_by_seed():
    by_id = {shuffled(question(n), 0).options for n in range(200)}
    by_seed = {shuffled(question(1), seed).options for seed in range(200)}
    assert len(by_id) == len(by_seed) == 6
    golds = [shuffled(question(n), 0).gold for n in range(600)]
    assert all(abs(golds.count(letter) - 200) < 50 for letter in "ABC")


ROWS = [{"q": f"{n}?", "best": f"yes {n}", "worst": f"no {n}", "why": "w"} for n in range(60)]
ALWAYS_A = {"options": ["best", "worst"], "gold": "best"}
LISTING = "{q}\\n{options}\\nAnswer:"


def asked(task, seed=0):
    rows = task.arranged(task.questions(), seed)
    return task.ask({"test": rows[2:], "shots": rows[:2]}, chat=False)[0]["test"], rows


def test_a_task_lists_its_options_in_an_order_of_their_own(tmp_path):
    file = write(tmp_path, ROWS)
    plain, _ = asked(build(file, LISTING, **ALWAYS_A))
    assert {e.gold for e in plain} == {"A"}
    mixed, rows = asked(build(file, LISTING, shuffle_options=True, few_shot=1, **ALWAYS_A))
    assert {e.gold for e in mixed} == {"A", "B"}
    for e in mixed:
        letter = dict(zip("AB", e.options, strict=True))
        assert letter[e.gold].startswith("yes")
        assert e.prompt.endswith(f"A. {letter['A']}\nB. {letter['B']}\nAnswer:")
        assert f"Answer: {rows[0].gold}\n\n" in e.prompt  # the solved question's, too
    task = build(file, LISTING, shuffle_options=True, **ALWAYS_A)
    assert asked(task, 1)[0] != asked(task, 0)[0]
    told = {"shots": ()}
    assert task.about_prompts(told, chat=False, decoding="free", stop=()).shuffle_options
    # Which rows these are does not depend on the seed.
    rows = task.questions()
    fingerprint = build(file, LISTING, **ALWAYS_A).about_data(rows).fingerprint
    assert task.about_data(rows).fingerprint == fingerprint


def test_bbq_keeps_its_bias_under_any_order(tmp_path):
    info = {f"ans{i}": [w, w] for i, w in enumerate(("red", "unknown", "blue"))}
    row = BBQ_ROW | {"question_polarity": "neg", "answer_info": info}
    row |= {"additional_metadata": {"stereotyped_groups": ["Red"]}}
    rows = [row | {"example_id": n} for n in range(30)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = build_task(BBQ, "bbq", tmp_path, shuffle_options=True)
    found = task.arranged(task.questions(), 0)
    assert len({q.options for q in found}) == 6
    for q in found:
        text = dict(zip("ABC", q.options, strict=True))
        assert text[q.notes["biased"]] == "The Red" and text[q.notes["unknown"]] == "Not known"
        assert text[q.gold] == "Not known"


def test_where_there_is_nothing_to_shuffle(tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "1?", "answer": "#### 1"}))
    task = build_task(GSM8K, "gsm8k", tmp_path, shuffle_options=True)
    with pytest.raises(ConfigError, match=r"shuffle_options=true: task gsm8k has no options"):
        task.questions()
    with pytest.raises(ConfigError, match="worked answers name options by their letters"):
        Custom(name="custom", scorer=never, max_new_tokens=99, path="x", prompt=LISTING,
               shuffle_options=True, cot=True, few_shot=1, solution="why", **ALWAYS_A)  # fmt: skip


@pytest.mark.parametrize(
    ("golds", "n", "told"),
    [
        ("A" * 578, 2, "of 578 rows A in 100 %, B in 0 %"),
        ("A" * 40 + "BCD" * 10, 4, "of 70 rows A in 57 %, B in 14 %, C in 14 %, D in 14 %"),
        ("AB" * 20 + "CD" * 20, 4, ""),
        ("A" * 60 + "B" * 40, 2, ""),  # much more than half of it would be more than 1.5 / 2
        ("A" * 8, 2, ""),  # chance does that once in 256 times
        ("A" * 11, 2, "of 11 rows A in 100 %, B in 0 %"),
        ("", 2, ""),
    ],
)
def test_one_letter_that_is_right_too_often(golds, n, told):
    rows = [question(i, LETTERS.index(gold), tuple("wxyz"[:n])) for i, gold in enumerate(golds)]
    assert one_sided(rows) == told
    assert one_sided(Question(str(i), {"q": "x"}, "refuse") for i in range(99)) == ""


@given(st.integers(0, 300), st.integers(1, 300), st.floats(0.01, 0.99))
def test_the_tail_is_the_binomial_one(hits, n, chance):
    hits = min(hits, n)
    assert _at_least(hits, n, chance) == pytest.approx(binom.sf(hits - 1, n, chance), abs=1e-9)


def test_options_that_no_prompt_shows():
    def examples(prompt):
        return [Example("1", prompt, "A", ("red", "blue"))]

    assert unlisted(examples("Which?"))
    assert not unlisted(examples("Which? A. red B. blue"))  # shown in the user's own way
    assert unlisted(examples("Which is red?"))
    assert not unlisted([Example("1", "Which?", "red")])
    assert not unlisted([])
