"""A pattern of the user's own: a case table with reasons, and what it refuses."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrsteer.errors import ConfigError
from corrsteer.records import Example, Score
from corrsteer.scorers.regex import Regex

BIG = 100_000
ANSWER = r"Answer: (\w+)"
PAIR = r"(?P<key>\w+)=(?P<value>\w*)"

CASES = [
    (ANSWER, {}, "Answer: Lisbon", "lisbon", "the first group"),
    (ANSWER, {}, "Answer: lisbon", "lisbon", "folded like the right answer"),
    (ANSWER, {}, "I say Answer: Lisbon, of course", "lisbon", "anywhere in the answer"),
    (ANSWER, {}, "Answer: Porto", "porto", "another answer"),
    (ANSWER, {}, "Answer: Porto\nAnswer: Lisbon", "lisbon", "the last match"),
    (ANSWER, {"take": "first"}, "Answer: Lisbon\nAnswer: Porto", "lisbon", "the first match"),
    (ANSWER, {"take": "first"}, "Answer: Lisbon", "lisbon", "the only match is the first"),
    (ANSWER, {}, "answer: Lisbon", None, "case counts"),
    (ANSWER, {"ignore_case": True}, "ANSWER: Lisbon", "lisbon", "unless it is ignored"),
    (r"(?i)answer: (\w+)", {}, "ANSWER: Lisbon", "lisbon", "a flag within the pattern"),
    (ANSWER, {}, "It is Lisbon", None, "the right answer where the pattern does not look"),
    (ANSWER, {}, "I can't give an Answer: Lisbon", "lisbon", "wrong: a refusal is not read"),
    (ANSWER, {}, "", None, "empty"),
    (ANSWER, {}, " \n", None, "white space"),
    (ANSWER, {}, "Answer: ", None, "cut off"),
    (ANSWER, {}, "Answer: \x00", None, "a null byte is no word"),
    (ANSWER, {}, "\x00Answer: Lisbon\x00", "lisbon", "null bytes around"),
    (ANSWER, {}, "\u202bAnswer: Lisbon\u202c", "lisbon", "direction marks around"),
    (ANSWER, {}, "Answer: ليسبون", "ليسبون", "right to left"),
    (ANSWER, {}, "Answer: Ｌisbon", "ｌisbon", "a full-width letter is another letter"),
    (ANSWER, {}, "Answer: LISBON!", "lisbon", "what the group does not hold"),
    (r"Lisbon|Porto", {}, "Porto, no, Lisbon", "lisbon", "no group: the whole match"),
    (r"Lisbon|Porto", {"take": "first"}, "Porto, no, Lisbon", "porto", "the same, first"),
    (r"Lisbon", {"group": 0}, "Lisbon", "lisbon", "group 0 is the whole match"),
    (ANSWER, {"group": 0}, "Answer: Lisbon", "answer lisbon", "also beside other groups"),
    (PAIR, {}, "city=Lisbon", "city", "the first of two groups"),
    (PAIR, {"group": 2}, "city=Lisbon", "lisbon", "the second group by number"),
    (PAIR, {"group": "2"}, "city=Lisbon", "lisbon", "a number that came as text"),
    (PAIR, {"group": "value"}, "city=Lisbon", "lisbon", "a group by name"),
    (PAIR, {"group": "value"}, "city=", None, "a group that matched nothing"),
    (r"(x)?Lisbon", {}, "Lisbon", None, "a group that took no part"),
    (r"(?:Lisbon)", {}, "Lisbon", "lisbon", "a group that captures nothing is none"),
    (r"x*", {}, "yyy", None, "an empty match"),
    (r"\s+", {}, "a  b", None, "a match of white space"),
    (r"\[(.*?)\]", {}, "[the] [Lisbon]", "lisbon", "brackets, the last"),
    (r"\[(.*?)\]", {}, "[Lisbon] [the]", "the", "an article only is read, and wrong"),
    (r"\[(.*?)\]", {}, "[Lisbon] [...]", "...", "marks only are read, and wrong"),
    (r"\[(.*?)\]", {}, "[The Lisbon.]", "lisbon", "articles and marks are folded"),
    (r"\[(.*)\]", {}, "[a\nb]", None, "a dot stops at a line"),
    (r"(?s)\[(.*)\]", {}, "[Lisbon\nx]", "lisbon", "unless told otherwise; the first line counts"),
    (r"^(\w+)$", {}, "x y\nLisbon\nx y", None, "^ is the start of the answer"),
    (r"(?m)^(\w+)$", {}, "x y\nLisbon\nx y", "lisbon", "unless told otherwise"),
    (r"(\d+)", {}, "٧", "٧", "the user's \\d means any script"),
    (r"([0-9]+)", {}, "٧", None, "and [0-9] does not"),
    (r"(A|B)", {}, "A or B", "b", "two letters: the last"),
    (r"\b(\w)\b.*\b(\w)\b", {"group": 2}, "A or B", "b", "two groups, the second"),
]


@pytest.mark.parametrize(
    ("pattern", "settings", "text", "parsed", "why"), CASES, ids=[why for *_, why in CASES]
)
def test_regex(pattern, settings, text, parsed, why):
    score = Regex(pattern, **settings)(Example("1", "p", "Lisbon"), text)
    assert score == Score(float(parsed == "lisbon"), parsed)


def test_an_alias_is_as_right():
    example = Example("1", "p", "Lisbon", aliases=("Lisboa",))
    assert Regex(ANSWER)(example, "Answer: Lisboa").value == 1


def test_a_right_answer_may_be_a_mark():
    assert Regex(r"[-+]")(Example("1", "p", "+"), "it is +").value == 1
    assert Regex(r"[-+]")(Example("1", "p", "+"), "it is -") == Score(0.0, "-")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"pattern": "(a"}, "task.scorer.pattern='(a' does not compile: missing )"),
        ({"pattern": "*"}, "does not compile: nothing to repeat"),
        ({"pattern": "(?P<1>a)"}, "does not compile: bad character in group name"),
        ({"pattern": "a{99999999999999999999}"}, "does not compile: the repetition number"),
        ({"pattern": "(" * 5000 + ")" * 5000}, "does not compile"),
        ({"pattern": ""}, "task.scorer.pattern='' is not a pattern; type e.g."),
        ({"pattern": 5}, "task.scorer.pattern=5 is not a pattern; type e.g."),
        ({"pattern": None}, "task.scorer.pattern=None is not a pattern; type e.g."),
        ({"pattern": "(a)", "group": 2}, "task.scorer.group=2 is not a group of '(a)'; choose one"),
        ({"pattern": "(?P<x>a)", "group": "y"}, "choose one of: 0, 1, x"),
        ({"pattern": "(a)", "group": -1}, "task.scorer.group=-1 is not a group"),
        ({"pattern": "(a)", "group": True}, "task.scorer.group=True is not a group"),
        ({"pattern": "a", "take": "all"}, "task.scorer.take=all is unknown; choose one of: first"),
    ],
)
def test_what_cannot_work_is_refused(settings, says):
    with pytest.raises(ConfigError) as error:
        Regex(**settings)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


PIECES = st.sampled_from(
    ["Answer: ", "Lisbon", "the", " ", "\n", ".", "\x00", "\u200f", "İ", "ß", "=", "city", "x"]
)
TEXT = st.one_of(st.text(), st.lists(PIECES).map("".join))


@given(TEXT, TEXT, st.sampled_from([ANSWER, PAIR, "x*", r"\s+", r".*", r"(?s)(.+)"]))
def test_no_text_surprises_it(text, gold, pattern):
    for take in ("first", "last"):
        score = Regex(pattern, take=take)(Example("1", "p", gold), text)
        assert score.value in (0, 1)
        assert not (score.invalid and score.value)


@given(st.text(st.characters(categories=["L", "Nd"]), min_size=1), TEXT)
def test_a_stated_answer_is_right(word, before):
    assert Regex(ANSWER)(Example("1", "p", word), f"{before}\nAnswer: {word}").value == 1


@given(st.text())
def test_any_pattern_compiles_or_is_refused(pattern):
    try:
        Regex(pattern)
    except ConfigError as error:
        assert "task.scorer.pattern" in str(error)


@pytest.mark.parametrize("text", ["Answer: x " * (BIG // 10), "Answer: " + "x" * BIG, "x" * BIG])
def test_a_long_answer_takes_no_time_with_a_plain_pattern(text):
    began = time.process_time()
    Regex(ANSWER)(Example("1", "p", "x"), text)
    assert time.process_time() - began < 3
