import pytest

from corrsteer.errors import DataError
from corrsteer.records import Example
from corrsteer.tasks.splits import split_examples

SIZES = {"selection": 50, "validation": 30, "test": 20}


def examples(n):
    return [Example(f"e{i}", f"p{i}", "A") for i in range(n)]


def ids(splits):
    return {name: [e.id for e in part] for name, part in splits.items()}


def test_disjoint_with_the_sizes_asked_for():
    splits = ids(split_examples(examples(150), SIZES, seed=0))
    assert {name: len(part) for name, part in splits.items()} == SIZES
    assert len(set().union(*splits.values())) == sum(SIZES.values())


def test_file_order_does_not_matter_but_the_seed_does():
    rows = examples(150)
    assert ids(split_examples(rows, SIZES, 0)) == ids(split_examples(rows[::-1], SIZES, 0))
    assert ids(split_examples(rows, SIZES, 0)) != ids(split_examples(rows, SIZES, 1))


def test_too_few_examples_shrink_all_splits_alike():
    splits = split_examples(examples(50), SIZES, seed=0)
    assert [len(part) for part in splits.values()] == [25, 15, 10]


def test_a_limit_keeps_every_sample_in_its_split():
    whole = ids(split_examples(examples(150), SIZES, seed=0))
    limited = ids(split_examples(examples(150), SIZES, seed=0, limit=7))
    assert limited == {name: part[:7] for name, part in whole.items()}


def test_errors():
    with pytest.raises(DataError, match="'e0' occurs more than once"):
        split_examples([*examples(5), *examples(1)], SIZES, 0)
    with pytest.raises(DataError, match="2 examples are too few"):
        split_examples(examples(2), SIZES, 0)
