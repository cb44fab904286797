from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrsteer.errors import DataError
from corrsteer.records import Question
from corrsteer.tasks.splits import SPLITS, split_questions

SIZES = {"selection": 50, "validation": 30, "test": 20}


def questions(n, part="", answer="A"):
    return [
        Question(f"{part}{i}", {"q": f"{part} p{i}"}, "A", answer=answer, part=part)
        for i in range(n)
    ]


def ids(splits):
    return {name: [q.id for q in splits[name]] for name in SPLITS}


def sizes(splits):
    return [len(splits[name]) for name in SPLITS]


def test_disjoint_with_the_sizes_asked_for():
    splits = ids(split_questions(questions(150), SIZES, seed=0))
    assert {name: len(part) for name, part in splits.items()} == SIZES
    assert len(set().union(*splits.values())) == sum(SIZES.values())


def test_file_order_does_not_matter_but_the_seed_does():
    rows = questions(150)
    assert ids(split_questions(rows, SIZES, 0)) == ids(split_questions(rows[::-1], SIZES, 0))
    assert ids(split_questions(rows, SIZES, 0)) != ids(split_questions(rows, SIZES, 1))


def test_too_few_questions_shrink_all_splits_alike():
    assert sizes(split_questions(questions(50), SIZES, seed=0)) == [25, 15, 10]


def test_a_limit_keeps_every_sample_in_its_split():
    whole = ids(split_questions(questions(150), SIZES, seed=0))
    limited = ids(split_questions(questions(150), SIZES, seed=0, limit=7))
    assert limited == {name: part[:7] for name, part in whole.items()}


def parts_of(splits):
    return [{q.part for q in splits[name]} for name in SPLITS]


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (["train", "validation", "test"], ["train", "validation", "test"]),
        (["train", "test"], ["train", "train", "test"]),
        (["validation", "test"], ["validation", "validation", "test"]),
        (["test"], ["test", "test", "test"]),
        (["train"], ["train", "train", "train"]),
        (["train", "validation"], ["train", "validation", "validation"]),
    ],
)
def test_official_parts_are_respected(present, expected):
    rows = [q for part in [*present, "shots"] for q in questions(200, part)]
    splits = split_questions(rows, SIZES, seed=0)
    assert parts_of(splits) == [{part} for part in expected]
    chosen = [q.id for name in SPLITS for q in splits[name]]
    assert len(set(chosen)) == len(chosen) == 100
    assert {q.part for q in splits["shots"]} == {"shots"}


def test_splits_that_share_a_small_part_share_it_by_their_sizes():
    rows = [*questions(16, "validation"), *questions(100, "test")]
    assert sizes(split_questions(rows, SIZES, seed=0)) == [10, 6, 20]


def test_official_parts_can_be_pooled_but_shots_stay_apart():
    rows = [*questions(60, "validation"), *questions(60, "test"), *questions(60, "shots")]
    splits = split_questions(rows, SIZES, seed=0, official=False)
    assert sizes(splits) == [50, 30, 20]
    assert all(q.part != "shots" for name in SPLITS for q in splits[name])
    assert {q.part for q in splits["selection"]} == {"validation", "test"}


def test_shots_come_out_of_the_selection_split_alone():
    rows = questions(150)
    plain, few = ids(split_questions(rows, SIZES, 0)), split_questions(rows, SIZES, 0, shots=3)
    assert [q.id for q in few["shots"]] == plain["selection"][:3]
    assert ids(few) == {**plain, "selection": plain["selection"][3:]}
    limited = split_questions(rows, SIZES, 0, limit=5, shots=3)
    assert ids(limited)["selection"] == plain["selection"][3:8]


def test_official_shots_leave_the_selection_split_alone():
    rows = [*questions(150, "test"), *questions(9, "shots")]
    few = split_questions(rows, SIZES, 0, shots=3)
    assert ids(few) == ids(split_questions(rows, SIZES, 0))
    assert len(few["shots"]) == 9


@pytest.mark.long
@given(
    st.lists(st.sampled_from(["train", "validation", "test", "shots"]), min_size=120, max_size=200),
    st.integers(0, 3),
    st.integers(0, 5),
)
def test_no_question_is_ever_in_two_places(parts, seed, shots):
    rows = [Question(str(i), {}, "A", part=part) for i, part in enumerate(parts)]
    try:
        splits = split_questions(rows, SIZES, seed, shots=shots)
    except DataError:
        return  # too few rows of a part
    found = [q.id for part in splits.values() for q in part]
    assert len(set(found)) == len(found)


def repeated(n, often, part=""):
    """``often`` rows of each of ``n`` questions, under ids of their own, in two orders."""
    orders = (("x", "y"), ("y", "x"))
    return [
        Question(f"{part}{i}-{k}", {"q": f"p{i}"}, "A", orders[k % 2], part=part)
        for i in range(n)
        for k in range(often)
    ]  # fmt: skip


def contents(splits, name):
    return {q.content for q in splits[name]}


@given(st.integers(1, 6), st.integers(0, 20), st.booleans())
def test_one_question_stands_in_one_split_whatever_its_rows_are_called(often, seed, limited):
    rows = repeated(150 // often, often)
    splits = split_questions(rows, SIZES, seed, limit=9 if limited else None)
    found = [contents(splits, name) for name in SPLITS]
    assert len(set().union(*found)) == sum(map(len, found))
    assert all(splits[name] for name in SPLITS)
    # The order of a file does not matter here either.
    again = split_questions(rows[::-1], SIZES, seed, limit=9 if limited else None)
    assert ids(again) == ids(splits)


def test_white_space_and_the_order_of_options_make_no_other_question():
    one = Question("1", {"q": "Who  ran?"}, "A", ("x", "y"))
    assert one.content == Question("2", {"q": "Who ran?\n"}, "B", ("y", "x")).content
    assert one.content == Question("2", {"q": "WHO ran?"}, "A", ("x ", "Y")).content
    for other in (
        Question("3", {"q": "Who ran?"}, "A", ("x", "z")),
        Question("4", {"q": "Who sat?"}, "A", ("x", "y")),
        Question("5", {"r": "Who ran?"}, "A", ("x", "y")),
    ):
        assert one.content != other.content
    assert Question("1", {}, "A").content != Question("2", {}, "A").content


def test_rows_without_repeats_are_dealt_as_ever_beside_those_with(caplog):
    plain = questions(150)
    by_hash = sorted(map(str, range(150)), key=lambda n: sha256(f"0\0{n}".encode()).digest())
    assert ids(split_questions(plain, SIZES, 0))["selection"] == by_hash[:50]
    assert not caplog.records
    split_questions([*plain, *repeated(1, 3)], SIZES, 0)
    (line,) = caplog.records
    assert line.getMessage().startswith("2 of 153 rows ask what another row asks; ")


def test_a_test_question_is_in_no_other_part(caplog):
    rows = [*repeated(90, 1, "train"), *repeated(60, 1, "test"), *repeated(20, 1, "shots")]
    splits = split_questions(rows, SIZES, 0)
    assert sizes(splits) == [18, 11, 20]  # of the 30 questions that only the train part has
    assert not contents(splits, "test") & (
        contents(splits, "selection") | contents(splits, "validation")
    )
    assert "80 of 170 rows" in caplog.text
    # Nor is one that is asked shown solved in the prompt.
    few = split_questions(rows, SIZES, 0, shots=5)
    assert not contents(few, "shots") & contents(few, "test")
    assert len(few["shots"]) == 20


def test_shots_from_the_selection_split_leave_no_twin_in_it():
    few = split_questions(repeated(50, 3), SIZES, 0, shots=4)
    assert len(few["shots"]) == 4
    assert not contents(few, "shots") & contents(few, "selection")


def test_repeats_alone_are_too_few():
    with pytest.raises(
        DataError, match=r"100 examples \(1 different ones\) are too few for a valid"
    ):
        split_questions(repeated(1, 100), SIZES, 0)


def test_errors():
    with pytest.raises(DataError, match="2 examples are too few"):
        split_questions(questions(2), SIZES, 0)
    with pytest.raises(DataError, match="type splits.official=false"):
        split_questions([*questions(100), *questions(100, "test")], SIZES, 0)
    with pytest.raises(DataError, match="too few for a selection split besides task.few_shot=30"):
        split_questions(questions(50), SIZES, 0, shots=30)
