"""The word-list scorer: a case table with reasons, what it refuses, and that it never raises."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from corrsteer.errors import ConfigError
from corrsteer.records import Example, Score
from corrsteer.scorers.words import Words

EXAMPLE = Example("1", "p", "wanted")
SMALL = Words(wanted=["happy", "fun", "glad"], unwanted=["sad", "cry", "scared"], sentences=3)

CASES = [
    ("Tom was happy.", "wanted", "a wanted word"),
    ("Tom was sad.", "unwanted", "an unwanted word"),
    ("Tom was a boy.", None, "no listed word"),
    ("", None, "nothing at all"),
    (" \n\n ... !?", None, "no word at all"),
    ("HAPPY", "wanted", "case is folded"),
    ("Happy!", "wanted", "at the very start"),
    ("Tom was unhappy.", None, "whole words only"),
    ("Tom was happyish, funny and sadder.", None, "longer words are other words"),
    ("They were hap", None, "cut off within a word"),
    ("They were happy and had a lot of f", "wanted", "an unfinished sentence counts"),
    ("They were sad. They had f", "unwanted", "half a wanted word does not"),
    ("Tom was sad. Then he was happy.", "wanted", "the last word decides"),
    ("Tom was happy. Then he was sad.", "unwanted", "in both directions"),
    ("Tom was sad but happy.", "wanted", "within a sentence too"),
    ("Tom was happy but sad.", "unwanted", "within a sentence, the other way"),
    ("Sad. Sad. Happy.", "wanted", "not the number of words"),
    ("He was happy. A. B. C.", None, "three sentences are looked at, this is the fourth"),
    ("He was happy. A. B.", "wanted", "the third last is looked at"),
    ("He was happy. A. B. !!! ... \n\n", "wanted", "sentences without a word are not counted"),
    ("He was happy\nA\nB\nC", None, "a line break ends a sentence"),
    ("He was happy! A? B.", "wanted", "so do ! and ?"),
    ("He was happy, a, b, c, d.", "wanted", "a comma does not"),
    ("Tom was not happy.", "unwanted", "negated: counts as unwanted"),
    ("Tom was not very happy.", "unwanted", "one word between"),
    ("Tom was not a very happy boy.", "unwanted", "two words between"),
    ("It is not that he was happy.", "wanted", "three words between: out of reach"),
    ("Tom wasn't happy.", "unwanted", "n't negates"),
    ("Tom wasn’t happy.", "unwanted", "with a typographic apostrophe too"),
    ("Tom was never happy.", "unwanted", "never negates"),
    ("They had no fun.", "unwanted", "no negates"),
    ("He played without fun.", "unwanted", "without negates"),
    ("Tom was not sad.", None, "a negated unwanted word does not count: it is not happy yet"),
    ("Tom was happy. He was not sad.", "wanted", "so the word before it decides"),
    ("Did you see Tom? No. Tom was happy.", "wanted", "a negation ends with its sentence"),
    ("No, Tom was happy.", "unwanted", "wrong: commas do not end a negation"),
    ("He did not cry, he was glad.", "wanted", "'not' is four words before 'glad'"),
    ("“Why are you sad?” asked Tom.", "unwanted", "wrong: a question is no feeling of Tom's"),
    ("He wanted to be happy.", "wanted", "wrong: a wish"),
    ("Tom got his ball back and danced home.", None, "wrong: told by deeds alone"),
    ("The bad cat was glad.", "wanted", "wrong: not the hero's feeling"),
    ("happy" * 3, None, "run together it is another word"),
    ("happy-go-lucky", "wanted", "a hyphen parts words"),
    ("Tom's happy' 'happy'", "wanted", "quotation marks do not stick to a word"),
    ("nothappy", None, "a negation in one word with it is another word"),
    ("ＨＡＰＰＹ", None, "full-width letters are other letters"),
    ("glücklich, счастлив, 幸せ", None, "other languages are not read"),
]


@pytest.mark.parametrize(("text", "parsed", "why"), CASES, ids=[why for *_, why in CASES])
def test_words(text, parsed, why):
    for gold in ("wanted", "unwanted"):
        assert SMALL(Example("1", "p", gold), text) == Score(float(parsed == gold), parsed)


def test_an_invalid_answer_is_neither_right_nor_an_unwanted_one():
    invalid, unwanted = SMALL(EXAMPLE, "A box."), SMALL(EXAMPLE, "A sad box.")
    assert (invalid.value, invalid.invalid) == (0.0, True)
    assert (unwanted.value, unwanted.invalid) == (0.0, False)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"wanted": []}, "task.scorer.wanted must hold single words in lower case"),
        ({"unwanted": []}, "not nothing"),
        ({"wanted": ["Happy"]}, "not 'Happy'"),
        ({"wanted": ["very happy"]}, "not 'very happy'"),
        ({"unwanted": [""]}, "not ''"),
        ({"wanted": ["happy", "sad"]}, "both hold sad"),
        ({"sentences": 0}, "sentences=0 must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused(settings, says):
    with pytest.raises(ConfigError) as error:
        Words(**{"wanted": ["happy"], "unwanted": ["sad"], **settings})
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def shipped() -> Words:
    conf = Path(__file__).parents[2] / "conf"
    option = OmegaConf.load(conf / "scorer" / "words.yaml")
    task = OmegaConf.load(conf / "task" / "stories.yaml").scorer
    settings = OmegaConf.to_container(OmegaConf.merge(option, task), resolve=True)
    assert isinstance(settings, dict)
    settings.pop("_target_")
    return Words(**settings)


PIECES = st.sampled_from(
    ["happy", "Sad", "not", "n't", "can't", "’", "'", ".", "!", "\n", " ", "fun", "İ", "ß", "\x00"]
)


@pytest.mark.long
@given(st.one_of(st.text(), st.lists(PIECES).map("".join), st.lists(PIECES).map(" ".join)))
def test_no_text_surprises_it(text):
    for scorer in (SMALL, shipped()):
        score = scorer(EXAMPLE, text)
        assert score.parsed in (None, "wanted", "unwanted")
        assert score.value == float(score.parsed == "wanted")


@given(st.lists(PIECES).map(" ".join))
def test_what_stands_before_the_last_sentences_is_not_read(text):
    assert SMALL(EXAMPLE, f"{text}. A box. One more box. The end.").parsed is None
