"""The task ``stories``: its prompts to the letter, and that no opening comes twice."""

from itertools import islice
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from corrsteer import config
from corrsteer.errors import ConfigError, DataError
from corrsteer.records import Score
from corrsteer.tasks.splits import split_questions
from corrsteer.tasks.stories import OPENINGS, Stories, openings

CONF = Path(__file__).parents[2] / "conf"


def never(example, text):
    return Score(0.0, None)


def build(data="bundled"):
    return Stories(name="stories", data=data, prompt="{opening}", scorer=never, max_new_tokens=8)


def test_golden_prompts():
    first, second, third = build().examples()[:3]
    assert first.prompt == (
        "Amy was a little girl who lived near a lake. "
        "One day, Amy ran to get her new bag on the hill and hurt her leg. She was angry."
    )
    assert second.prompt == (
        "Tim was a kind boy who lived on a farm. "
        "One day, Tim fell at the beach and his bag of nuts broke. He looked for help."
    )
    assert third.prompt == (
        "Ella was a small cat who lived near a big hill. "
        "One day, Ella ran to get her kite in the woods and hurt her leg. She wanted to try again."
    )
    assert (first.id, first.gold, first.options) == ("story-0", "wanted", ())
    assert first.meta == {"trouble": "hurt"}


def test_openings_are_distinct_and_fill_the_usual_splits():
    examples = build().examples()
    assert len(examples) == OPENINGS
    assert len({e.id for e in examples}) == len({e.prompt for e in examples}) == OPENINGS
    splits = split_questions(
        build().questions(), {"selection": 1000, "validation": 500, "test": 2000}, 0
    )
    assert [len(splits[n]) for n in ("selection", "validation", "test")] == [1000, 500, 2000]


@pytest.mark.long
def test_the_task_is_the_start_of_the_stream_of_openings():
    """What lies behind it, such as the texts of SAEs, is in none of its splits."""
    stream = list(islice(openings(), OPENINGS + 30_000))
    assert [text for text, _ in stream[:OPENINGS]] == [e.prompt for e in build().examples()]
    behind = {text for text, _ in stream[OPENINGS:]}
    assert len(behind) == 30_000  # the templates give some of them twice
    assert behind.isdisjoint(e.prompt for e in build().examples())


def test_every_trouble_and_all_placeholders_are_filled():
    examples = build().examples()
    assert len({e.meta["trouble"] for e in examples}) == 10
    for example in examples:
        assert "{" not in example.prompt
        assert example.prompt.endswith(".") and "  " not in example.prompt
        assert " a a" not in example.prompt and " a o" not in example.prompt


def test_a_path_is_refused():
    with pytest.raises(DataError) as error:
        build("some/where").examples()
    assert str(error.value) == (
        "task stories makes its own openings and reads no data: data='some/where' cannot be used; "
        "type data=bundled"
    )


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [*overrides, "task=stories"])
    return config.instantiate(cfg.task)


def test_the_option_scores_an_ending():
    task = composed()
    example = task.examples()[0]
    assert task.scorer(example, "He was sad. Then Tom was happy.") == Score(1.0, "wanted")
    assert task.scorer(example, "He was happy. Then Tom was sad.") == Score(0.0, "unwanted")
    assert task.scorer(example, "He saw a box.") == Score(0.0, None)


def test_the_options_words_are_checked():
    with pytest.raises(ConfigError, match="both hold sad"):
        composed("task.scorer.wanted=[happy,sad]")
