"""Right answers within sentences: a case table with reasons, round trips, no surprises."""

import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from corrsteer.records import Example, Score
from corrsteer.scorers.contains import Contains
from corrsteer.scorers.exact import Exact

BIG = 100_000
CITY = "Santiago"

# (right answer, text, whether it is in there, why)
CASES = [
    (CITY, "Santiago", 1, "alone"),
    (CITY, "The capital of Chile is Santiago.", 1, "at the end of a sentence"),
    (CITY, "Santiago is the capital of Chile.", 1, "at its beginning"),
    (CITY, "It is, I think, Santiago, in Chile.", 1, "in its middle"),
    (CITY, "that would be SANTIAGO", 1, "in capitals"),
    (CITY, "**Santiago**", 1, "in bold"),
    (CITY, "“Santiago”", 1, "in quotation marks"),
    (CITY, "Chile's capital?\n\nSantiago.", 1, "on a later line"),
    (CITY, "Santiago's people", 0, "a genitive is another word: SQuAD deletes its apostrophe"),
    (CITY, "Santiagos", 0, "whole words only"),
    (CITY, "San Tiago", 0, "not run together"),
    (CITY, "Lima", 0, "another word"),
    (CITY, "It is not Santiago.", 1, "wrong: what is said about it is not read"),
    (CITY, "Lima, Quito or Santiago", 1, "wrong: one of many"),
    (CITY, "I can't say that it is Santiago", 1, "wrong: a refusal"),
    (CITY, "<think>Santiago?</think>Lima", 0, "what was thought does not count"),
    (CITY, "<think>Lima?</think>It is Santiago", 1, "what is said behind it does"),
    (CITY, "Lima\nQuestion: what of Santiago?", 0, "nor does what runs on"),
    ("Annick Bricaud", "It was Annick Bricaud, a dancer.", 1, "two words"),
    ("Annick Bricaud", "It was Annick.", 0, "one of two"),
    ("Annick Bricaud", "It was Bricaud, Annick", 0, "in another order"),
    ("Annick Bricaud", "Annick M. Bricaud", 0, "with another between them"),
    ("Annick Bricaud", "Annick\nBricaud", 1, "over a line break"),
    ("Lord of the Rings", "I like the lord of rings", 1, "articles do not count"),
    ("the Nile", "Nile it is", 1, "an article of the right answer"),
    ("U.S.", "in the US, of course", 1, "full stops are deleted"),
    ("1929-1930", "from 1929–1930 on", 1, "an en dash"),
    ("4,000", "about 4000 men", 1, "commas are deleted"),
    ("4", "about 4000 men", 0, "a number is a word"),
    ("4", "4.", 1, "a number before a full stop"),
    ("3.5", "it is 35", 0, "a decimal is not the number without its point"),
    ("3.5", "it is 3.5.", 1, "but itself"),
    ("35", "it is 3.5", 0, "nor the other way round"),
    (".5", "it is 5", 0, "a decimal that begins with its point"),
    ("3,5", "it is 35", 0, "a comma that parts no thousands"),
    ("3/4", "it is 34", 0, "a fraction"),
    ("5", "it is -5", 0, "a sign"),
    ("5", "it is −$5", 0, "a minus sign, before currency"),
    ("-5", "it is −5", 1, "a sign in two characters"),
    ("5", "that is it -- 5", 1, "a dash is no sign"),
    ("5", "it is ...5", 1, "nor is an ellipsis a point"),
    ("Benoît", "it was Benoi\u0302t", 1, "an accent in two spellings"),
    ("Benoît", "it was Benoit", 0, "an accent left out"),
    ("Straße", "DIE STRASSE", 1, "full case folding"),
    ("東京", "首都は東京です", 0, "wrong: no spaces, no words"),
    ("東京", "首都は 東京 です", 1, "with spaces"),
    ("The", "The cat", 1, "a right answer that is an article"),
    ("The", "a cat", 0, "another article"),
    ("+", "a + b", 1, "a right answer that is a mark"),
    ("+", "a - b", 0, "another mark"),
    (CITY, "An\x00swer: San\u200btiago", 1, "what nobody sees"),
    (CITY, "Ѕantiago", 0, "a Cyrillic letter"),
    ("", "anything", 0, "no right answer is in no text"),
]


@pytest.mark.parametrize(("gold", "text", "value", "why"), CASES, ids=[why for *_, why in CASES])
def test_contains(gold, text, value, why):
    score = Contains()(Example("1", "p", gold), text)
    assert score.value == value and not score.invalid


@pytest.mark.parametrize("text", ["", " \n", "...", "the", "\x00", "<think>Santiago"])
def test_nothing_is_invalid(text):
    assert Contains()(Example("1", "p", CITY), text) == Score(0.0, None)


def test_what_was_found_is_told():
    example = Example("1", "p", "Lisbon", aliases=("Lisboa", "Olisipo"))
    assert Contains()(example, "In Olisipo, once.") == Score(1.0, "olisipo")
    assert Contains()(example, "In Porto, once.") == Score(0.0, "in porto once")
    number = Example("1", "p", "-3.5")
    assert Contains()(number, "It is −3.5") == Score(1.0, "-3.5")
    assert Contains()(number, "It is 1,000.5") == Score(0.0, "it is 1000.5")


PIECES = st.sampled_from(
    ["the", "A", "Lisbon", " ", "\n", ".", "-", "+", "’", "\x00", "\u200f", "İ", "ß", "e\u0301",
     "<think>", "</think>", "Question:"]
)  # fmt: skip
TEXT = st.one_of(st.text(), st.lists(PIECES).map("".join))


@given(TEXT, TEXT)
def test_no_text_surprises_it(text, gold):
    score = Contains()(Example("1", "p", gold), text)
    assert score.value in (0, 1)
    assert not (score.invalid and score.value)


@given(TEXT, TEXT)
def test_what_exact_takes_for_right_it_does_too(text, gold):
    assume(not any(char.isdigit() for char in text + gold))  # of numbers, exact deletes the marks
    example = Example("1", "p", gold)
    assert Contains()(example, text).value >= Exact()(example, text).value


WORDS = st.lists(st.sampled_from(["blue", "sea", "it", "is"]), max_size=5).map(" ".join)


@given(WORDS, WORDS)
def test_any_words_around_it_change_nothing(before, after):
    assert Contains()(Example("1", "p", "Lund"), f"{before} Lund, {after}").value == 1
    assert Contains()(Example("1", "p", "Lund"), f"{before} lunds {after}").value == 0


@pytest.mark.parametrize("text", ["the " * (BIG // 4), "." * BIG, "x\n" * BIG, "İ" * BIG])
def test_a_long_answer_takes_no_time(text):
    began = time.process_time()
    Contains()(Example("1", "p", CITY), text)
    assert time.process_time() - began < 3
