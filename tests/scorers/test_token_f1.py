"""Shared words: a case table with reasons, and the textbook's F1 as an independent reference."""

import re
import string
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrsteer.records import Example
from corrsteer.scorers.token_f1 import TokenF1

BIG = 100_000
NAME = "Annick Bricaud"

CASES = [
    (NAME, "Annick Bricaud", 1, "the same"),
    (NAME, " annick bricaud.", 1, "case, space and a mark"),
    (NAME, "The Annick Bricaud", 1, "an article"),
    (NAME, "Bricaud, Annick", 1, "another order"),
    (NAME, "Annick", 2 / 3, "one word of two"),
    (NAME, "Annick Annick", 1 / 2, "a word said twice is shared once"),
    (NAME, "Annick Bricaud Dupont", 4 / 5, "a word too many"),
    (NAME, "It is Annick Bricaud", 2 / 3, "two words too many"),
    (NAME, "not Annick Bricaud", 4 / 5, "wrong: a denial shares the words"),
    (NAME, "I can't say that it is Annick Bricaud", 2 / 5, "the right answer within a refusal"),
    (NAME, "Claire Dupont", 0, "no word"),
    (NAME, "Annicks", 0, "whole words only"),
    (NAME, "AnnickBricaud", 0, "run together"),
    (NAME, "Annick-Bricaud", 0, "SQuAD deletes a hyphen"),
    (NAME, "Annick\nBricaud", 2 / 3, "the first line counts"),
    (NAME, "Annick Bricaud\nQuestion: more", 1, "what follows does not"),
    (NAME, "", None, "empty"),
    (NAME, " \n\t", None, "white space only"),
    (NAME, "...", None, "marks only"),
    (NAME, "the a an", None, "articles only"),
    (NAME, "\x00\x00", None, "null bytes only"),
    (NAME, "\u200f\u200b", None, "invisible characters only"),
    (NAME, "An\x00nick Bricaud", 1, "a null byte within"),
    (NAME, "\u202bAnnick Bricaud\u202c", 1, "direction marks around"),
    (NAME, "Ａnnick Bricaud", 1 / 2, "a full-width letter is another letter"),
    (NAME, "Аnnick Bricaud", 1 / 2, "and so is a Cyrillic one"),
    (NAME, "Annick\u00a0Bricaud", 1, "a no-break space is white space"),
    ("a cat and a dog", "cat dog", 4 / 5, "articles do not count"),
    ("x x y", "x y y", 2 / 3, "each word as often as both have it"),
    ("x x x", "x", 1 / 2, "said three times, shared once"),
    ("x", "x x x", 1 / 2, "the other way"),
    ("1 2 3 4", "5 6 7 4", 1 / 4, "one of four"),
    ("U.S.", "us", 1, "full stops are deleted"),
    ("don't", "don’t", 1, "apostrophes, too"),
    ("Benoît", "Benoi\u0302t", 1, "an accent in two spellings"),
    ("Benoît", "Benoit", 0, "an accent left out"),
    ("Straße", "STRASSE", 1, "full case folding"),
    ("五 六", "六", 2 / 3, "another script"),
    ("שלום עולם", "עולם", 2 / 3, "right to left"),
    ("The", "the", 1, "a right answer that is an article"),
    ("The", "an", 0, "another article"),
    ("+", "+", 1, "a right answer that is a mark"),
    ("+", "-", 0, "another mark is wrong, not invalid"),
    ("+", "", None, "nothing, where a mark is right"),
    ("Lund\nTaipei", "Lund\nTaipei\nRome", 1, "as many lines as the right answer has"),
    ("Lund\nTaipei", "Lund", 2 / 3, "one of two lines"),
]


@pytest.mark.parametrize(("gold", "text", "value", "why"), CASES, ids=[why for *_, why in CASES])
def test_token_f1(gold, text, value, why):
    score = TokenF1()(Example("1", "p", gold), text)
    assert score.value == pytest.approx(value or 0)
    assert score.invalid == (value is None)


def test_the_best_of_all_aliases_counts():
    example = Example("1", "p", "Lisbon", aliases=("the city of Lisbon", "Lisboa antiga"))
    assert TokenF1()(example, "Lisboa").value == pytest.approx(2 / 3)
    assert TokenF1()(example, "city of Lisbon").value == 1


def textbook(answer: str, right: str) -> float:
    """Precision and recall, then their harmonic mean; folded by regular expressions."""

    def words(text: str) -> list[str]:
        lower = "".join(c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", lower).split()

    shared = sum((Counter(words(answer)) & Counter(words(right))).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(words(answer)), shared / len(words(right))
    return 2 * precision * recall / (precision + recall)


WORDS = st.sampled_from(
    [
        "the",
        "a",
        "an",
        "cat",
        "Dog",
        "x1",
        "can't",
        "U.S.",
        "one-two",
        "the.",
        "'a'",
        "AN",
        ",",
        "-",
        "(",
        "fish",
    ]
)
ASCII = st.one_of(
    st.lists(WORDS, max_size=12).map(" ".join),
    st.text(st.characters(min_codepoint=32, max_codepoint=126)),
)


@given(ASCII, ASCII)
def test_it_is_the_f1_of_the_textbook(answer, right):
    expected = textbook(answer, right)
    score = TokenF1()(Example("1", "p", right), answer)
    if textbook(right, right):  # else the right answer is made of articles or marks
        assert score.value == pytest.approx(expected)


PIECES = st.sampled_from(
    ["the", "A", "Lisbon", "Porto", " ", "\n", ".", "-", "+", "’", "\x00", "\u200f", "İ", "ß"]
)
TEXT = st.one_of(st.text(), st.lists(PIECES).map("".join))


@given(TEXT, TEXT, TEXT)
def test_no_text_surprises_it(text, gold, alias):
    score = TokenF1()(Example("1", "p", gold, aliases=(alias,)), text)
    assert 0 <= score.value <= 1
    assert not (score.invalid and score.value)
    assert score.value >= TokenF1()(Example("1", "p", gold), text).value


@given(TEXT)
def test_the_right_answer_is_right(gold):
    score = TokenF1()(Example("1", "p", gold), gold)
    assert score.value == (0 if score.invalid else 1)


ENDLESS = ["the " * (BIG // 4), "x " * (BIG // 2), "." * BIG, "\x00" * BIG, "\n" * BIG, "x" * BIG]


@pytest.mark.parametrize("text", ENDLESS, ids=[repr(text[:6]) for text in ENDLESS])
def test_a_long_answer_takes_no_time(text):
    began = time.process_time()
    TokenF1()(Example("1", "p", NAME), text)
    assert time.process_time() - began < 3
