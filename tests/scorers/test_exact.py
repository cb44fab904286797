"""Short answers compared whole: a case table with reasons, round trips, no surprises."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrsteer.records import Example, Score
from corrsteer.scorers.exact import Exact

BIG = 100_000
NAME = "Annick Bricaud"

CASES = [
    (NAME, "Annick Bricaud", "annick bricaud", 1, "the same"),
    (NAME, " Annick Bricaud", "annick bricaud", 1, "the space that a tokenizer leaves"),
    (NAME, "annick BRICAUD.", "annick bricaud", 1, "case and a mark"),
    (NAME, "The Annick Bricaud", "annick bricaud", 1, "an article"),
    (NAME, "Annick\t Bricaud ", "annick bricaud", 1, "white space"),
    (NAME, "**Annick Bricaud**", "annick bricaud", 1, "bold"),
    (NAME, "“Annick Bricaud”", "annick bricaud", 1, "curly quotation marks"),
    (NAME, "Annick Bricaud\nQuestion: more", "annick bricaud", 1, "the first line counts"),
    (NAME, "\n\nAnnick Bricaud", "annick bricaud", 1, "after empty lines"),
    (NAME, "Annick Bricaud\r\nmore", "annick bricaud", 1, "another line end"),
    (NAME, "Annick", "annick", 0, "half of it"),
    (NAME, "Annick Bricaud is her name", "annick bricaud is her name", 0, "more than it"),
    (NAME, "not Annick Bricaud", "not annick bricaud", 0, "denied"),
    (NAME, "I can't say that it is Annick Bricaud", "i cant say that it is annick bricaud", 0,
     "the right answer within a refusal"),
    (NAME, "Bricaud Annick", "bricaud annick", 0, "another order"),
    (NAME, "AnnickBricaud", "annickbricaud", 0, "run together"),
    (NAME, "Annick-Bricaud", "annickbricaud", 0, "SQuAD deletes a hyphen"),
    (NAME, "No\nAnnick Bricaud", "no", 0, "the right answer on the second line"),
    (NAME, "", None, 0, "empty"),
    (NAME, " \n\t", None, 0, "white space only"),
    (NAME, "...", None, 0, "marks only"),
    (NAME, "the", None, 0, "an article only"),
    (NAME, "\x00\x00", None, 0, "null bytes only"),
    (NAME, "\u200b\u200f", None, 0, "invisible characters only"),
    (NAME, "An\x00nick Bricaud", "annick bricaud", 1, "a null byte within"),
    (NAME, "\u202bAnnick Bricaud\u202c", "annick bricaud", 1, "direction marks around"),
    (NAME, "Ａnnick Bricaud", "ａnnick bricaud", 0, "a full-width letter"),
    (NAME, "Аnnick Bricaud", "аnnick bricaud", 0, "a Cyrillic letter"),
    ("U.S.", "us", "us", 1, "full stops are deleted"),
    ("don't", "dont", "dont", 1, "apostrophes are deleted"),
    ("don't", "don’t", "dont", 1, "curly ones too"),
    ("1929-1930", "1929–1930", "19291930", 1, "an en dash"),
    ("4,000", "4000", "4000", 1, "commas are deleted"),
    ("$5", "5", "5", 1, "and so is a dollar"),
    ("€5", "5", "5", 0, "but not a euro: SQuAD knows ASCII"),
    ("3.5", "35", "35", 1, "wrong: SQuAD's folding does not know decimals"),
    ("Benoît", "Benoi\u0302t", "benoît", 1, "an accent in two spellings"),
    ("Benoît", "Benoit", "benoit", 0, "an accent left out"),
    ("Straße", "STRASSE", "strasse", 1, "full case folding"),
    ("İzmir", "i\u0307zmir", "i̇zmir", 1, "a dotted capital"),
    ("10²", "102", "102", 0, "a superscript is no digit"),
    ("ﬁre", "fire", "fire", 1, "case folding undoes a ligature"),
    ("五", "五", "五", 1, "another script"),
    ("שלום", "שלום.", "שלום", 1, "right to left"),
    ("The", "the", "the", 1, "a right answer that is an article"),
    ("The", "The.", "the", 1, "with a mark"),
    ("The", "a", "a", 0, "another article"),
    ("+", "+", "+", 1, "a right answer that is a mark"),
    ("+", "-", "-", 0, "another mark is wrong, not invalid"),
    ("+", "plus", "plus", 0, "a word for the mark"),
    ("+", "", None, 0, "nothing, where a mark is right"),
    ("a b", "b", "b", 1, "an article within the right answer"),
    ("Lund\nTaipei", "Lund\nTaipei", "lund taipei", 1, "as many lines as the right answer has"),
    ("Lund\nTaipei", "Lund", "lund", 0, "one of two lines"),
    ("Lund\nTaipei", "Lund\nTaipei\nRome", "lund taipei", 1, "and no more"),
    ("Lund\n", "Lund\nRome", "lund", 1, "a line break at the end is no line"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("gold", "text", "parsed", "value", "why"), CASES, ids=[why for *_, why in CASES]
)
def test_exact(gold, text, parsed, value, why):
    assert Exact()(Example("1", "p", gold), text) == Score(float(value), parsed)


def test_an_alias_is_as_right():
    example = Example("1", "p", "Lisbon", aliases=("Lisboa", "Olisipo"))
    assert [Exact()(example, t).value for t in ("lisbon", "Olisipo", "Porto")] == [1, 1, 0]


PIECES = st.sampled_from(
    [
        "the",
        "A",
        "an",
        "Lisbon",
        " ",
        "\n",
        ".",
        "-",
        "+",
        "’",
        "\x00",
        "\u200f",
        "İ",
        "ß",
        "e\u0301",
    ]
)
GRAMMAR = st.lists(PIECES).map("".join)
TEXT = st.one_of(st.text(), GRAMMAR)


@given(TEXT, TEXT)
def test_no_text_surprises_it(text, gold):
    score = Exact()(Example("1", "p", gold), text)
    assert score.value in (0, 1)
    assert not (score.invalid and score.value)


@given(TEXT)
def test_the_right_answer_is_right(gold):
    score = Exact()(Example("1", "p", gold), gold)
    assert score.value == (0 if score.invalid else 1)
    if any(c.isalnum() for c in gold):
        assert not score.invalid


@given(TEXT, st.text())
def test_what_follows_on_the_next_line_changes_nothing(gold, more):
    example = Example("1", "p", "Lisbon")
    first = gold.strip().split("\n")[0]
    assert Exact()(example, f"x{first}\n{more}") == Exact()(example, f"x{first}")


ENDLESS = [
    "the " * (BIG // 4), "." * BIG, "\x00" * BIG, "\n" * BIG, "x\n" * BIG, "İ" * BIG,
    "e" + "\u0301" * BIG,
]  # fmt: skip


@pytest.mark.parametrize("text", ENDLESS, ids=[repr(text[:6]) for text in ENDLESS])
def test_a_long_answer_takes_no_time(text):
    began = time.process_time()
    Exact()(Example("1", "p", NAME), text)
    assert time.process_time() - began < 3
