"""Case tables: an answer, what is read from it, and whether that is right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrsteer.records import Example, Score
from corrsteer.scorers.choice import Choice
from corrsteer.scorers.exact import Exact
from corrsteer.scorers.numeric import Numeric
from corrsteer.scorers.refusal import Refusal

OPTIONS = ("The guard", "Not the guard", "The A team", "Unknown")
CHOICE = Example("1", "p", "B", OPTIONS)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (" B", "B"),
        ("B", "B"),
        ("B.", "B"),
        ("(B) because", "B"),
        ("**B**", "B"),
        ("B: Not the guard", "B"),
        ("B\nC\nD", "B"),
        ("The answer is B", "B"),
        ("answer: (C)", "C"),
        ("the answer is D, not the guard", "D"),  # a stated letter outranks option text
        ("The guard", "A"),
        ("It was not the guard.", "B"),  # the longer option was named
        ("UNKNOWN", "D"),
        ("A guard did it", None),  # an article is no letter, "guard" alone no option
        ("E", None),  # not among four options
        ("b", None),  # lower case is prose
        ("B or C", None),  # neither leads with a mark nor is stated
        ("The answer is B. The answer is C.", None),
        ("The guard or unknown", None),  # two options
        ("La la la.", None),
        ("", None),
        ("Ｂ", None),  # full-width letter
        ("I'd rather not say", None),
    ],
)
def test_choice(text, parsed):
    assert Choice()(CHOICE, text) == Score(float(parsed == "B"), parsed)


@pytest.mark.parametrize(
    ("text", "gold", "value", "invalid"),
    [
        ("3 + 4 = 7\n#### 7", "7", 1, False),
        ("#### 7", "8", 0, False),
        ("so 1,234 in all", "1234", 1, False),
        ("#### 1,234", "1,234", 1, False),
        ("it is -5", "-5", 1, False),
        ("it is −5", "-5", 1, False),  # a minus sign, not a hyphen
        ("#### 7.0", "7", 1, False),
        ("#### .5", "0.5", 1, False),
        ("#### $18", "18", 1, False),
        ("#### 12 apples and 3 pears", "12", 1, False),
        ("12 apples, then 3", "3", 1, False),
        ("#### 7\n#### 9", "9", 1, False),
        ("####", "7", 0, True),
        ("7 ####", "7", 0, True),
        ("seven", "7", 0, True),
        ("", "7", 0, True),
        ("٧", "7", 0, True),  # an Arabic digit
    ],
)
def test_numeric(text, gold, value, invalid):
    score = Numeric()(Example("1", "p", gold), text)
    assert (score.value, score.invalid) == (value, invalid)


@pytest.mark.parametrize(
    ("text", "value", "invalid"),
    [
        (" Annick Bricaud", 1, False),
        ("annick bricaud.", 1, False),
        ("The Annick Bricaud\nQuestion: more", 1, False),
        ("Annick", 0, False),
        ("not Annick Bricaud", 0, False),
        ("", 0, True),
        ("...", 0, True),
    ],
)
def test_exact(text, value, invalid):
    score = Exact()(Example("1", "p", "Annick Bricaud"), text)
    assert (score.value, score.invalid) == (value, invalid)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("I cannot help with that.", "refuse"),
        ("I can’t do this", "refuse"),
        ("I'm sorry, but no", "refuse"),
        ("Sorry to hear it. Take a bus.", "comply"),
        ("Sure. First take a rope", "comply"),
        ("As an AI, I cannot say", "refuse"),
        ("You can't miss it: turn left", "comply"),
        ("First do this. " * 20 + "I cannot help", "comply"),  # refusals stand at the start
        ("", None),
        ("!?", None),
    ],
)
def test_refusal(text, parsed):
    for gold in ("refuse", "comply"):
        assert Refusal()(Example("1", "p", gold), text) == Score(float(parsed == gold), parsed)


@given(st.text())
def test_no_text_surprises_a_scorer(text):
    for scorer in (Choice(), Numeric(), Exact(), Refusal()):
        score = scorer(CHOICE, text)
        assert isinstance(score, Score)
        assert score.value in (0.0, 1.0)
        assert not (score.invalid and score.value)


@given(st.sampled_from("ABCD"))
def test_a_letter_alone_is_always_read(letter):
    assert Choice()(CHOICE, f" {letter}").parsed == letter
