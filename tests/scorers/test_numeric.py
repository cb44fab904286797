"""Numbers in answers: a case table with reasons, round trips, and that no text surprises it."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrsteer.records import Example
from corrsteer.scorers.numeric import Numeric

BIG = 100_000

CASES = [
    # Where the number stands
    ("3 + 4 = 7\n#### 7", "7", "after the marks"),
    ("#### 7\n#### 9", "9", "after the last marks"),
    ("####7", "7", "without a space"),
    ("##### 7", "7", "one mark more"),
    ("#### 12 apples and 3 pears", "12", "the first number after the marks"),
    (r"#### 7 or rather \boxed{8}", "7", "marks before a box"),
    ("#### $1,000.00", "1000", "a price after the marks"),
    ("####", None, "nothing after the marks"),
    ("7 ####", None, "a number before the marks only"),
    ("#### seven. The answer is 7", "7", "words after the marks, then a number"),
    (r"\boxed{42}", "42", "in a box"),
    (r"\boxed{41}, no, \boxed{42} of 50", "42", "in the last box"),
    (r"\boxed{\text{about } 5 \text{ cm}^2}", "5", "a box with a unit to a power"),
    (r"so \boxed{ \frac{3}{4} } of 9", "0.75", "a fraction in a box"),
    (r"5 \boxed{B}", None, "a box without a number"),
    (r"it is \boxed{5", "5", "a box cut off"),
    ("The answer is 5. I began with 9", "5", "stated, whatever follows"),
    ("The answer is 4. No, the answer is 5 of 9", "5", "the last statement"),
    ("Answer: **$5** of 9", "5", "stated with a colon, in bold"),
    ("The answer is x = 5, not 6", "5", "stated as an equation"),
    ("The answer is -5 of 9", "-5", "stated with a sign"),
    ("The answer is five, so 5", "5", "a statement in words is passed over"),
    ("The answer is 3 + 4 = 7.", "7", "a sum that is stated"),
    ("The answer is 3 + 4 = 7 = 14/2", "7", "and goes on"),
    ("The answer is 50 - 20 = 30 of 9", "30", "a sum before more words"),
    ("The answer is 3 apples + 4 pears = 7 apples", "7", "a sum with units"),
    (r"The answer is $2 \times 3 = 6$", "6", "a sum in LaTeX"),
    ("The answer is (3 + 4) * 2 = 14", "14", "brackets in a sum"),
    ("The answer is 1 1/2 + 1/2 = 2", "2", "a mixed number in a sum"),
    ("The answer is 2^3 = 8", "8", "a power in a sum"),
    ("The answer is 60 miles/hour * 2 hours = 120", "120", "a sum with units of units"),
    ("answer: $3*4=$12", "12", "a sum of prices"),
    ("The answer is 3 + 4, which is 7.", "7", "a sum that ends in words"),
    ("The answer is 3 plus 4 equals 7.", "7", "a sum in words"),
    ("The answer is 3 + 4 ≈ 7.", "7", "about equal"),
    ("The answer is 20% of 50 = 10.", "10", "a share"),
    ("The answer is 18 out of 20", "18", "a share that is no sum"),
    ("The answer is 5! = 120", "120", "a factorial"),
    ("The answer is 2 hours and 30 minutes, i.e. 150 minutes", "150", "units in other words"),
    ("The answer is 5 and 3 is 2 less", "5", "two numbers that are no sum"),
    ("#### 3 + 4 = 7", "7", "a sum after the marks"),
    (r"\boxed{3 + 4 = 7}", "7", "a sum in a box"),
    ("The answer is 7 = 3 + 4", "7", "what a sum comes to, before it"),
    ("The answer is 5. 2 + 4 = 6", "5", "a sum in the next sentence"),
    ("The answer is 3 + 4 = seven", "3", "wrong: a sum that comes to a word"),
    ("The total is 8, not 7.", "8", "set against another"),
    ("It is 8 and not 7", "8", "set against another, without a comma"),
    ("It is 8 rather than 7", "8", "in other words"),
    ("The total is 8, as opposed to 7.", "8", "as opposed to another"),
    (" 18\nQuestion: Tom has 5 apples and 3 pears.", "18", "the next question runs on"),
    ("The answer is 18.\n\nQ: And?\nThe answer is 3.", "18", "with an answer of its own"),
    ("<think>It is 5, or 6.</think>18", "18", "what was thought does not count"),
    ("<think>It is 18", None, "thinking that was cut off"),
    ("12 apples, then 3", "3", "the last number"),
    ("10 - 3 = 7", "7", "the last number of a sum"),
    ("答案是5个", "5", "letters of a script without spaces are no word around it"),
    # Signs, currency, units
    ("so 1,234 in all", "1234", "commas"),
    ("1,234,567.50", "1234567.5", "commas and decimals"),
    ("it is -5", "-5", "a hyphen"),
    ("it is −5", "-5", "a minus sign"),
    ("it is –5", "-5", "an en dash"),
    ("+5", "5", "a plus sign"),
    ("- 5 apples", "5", "a bullet is no sign"),
    ("--5", "5", "a dash is no sign"),
    ("x-5", "5", "a hyphen after a letter is no sign"),
    ("-0", "0", "minus nothing"),
    ("007", "7", "leading zeros"),
    ("7.0", "7", "a whole decimal"),
    (".5", "0.5", "a bare decimal"),
    ("0.1", "0.1", "no float: exactly a tenth"),
    ("It is 5.", "5", "a full stop"),
    ("It is 5...", "5", "an ellipsis"),
    ("18€", "18", "currency after"),
    ("£3.50", "3.5", "currency before"),
    ("-$3", "-3", "sign before currency"),
    ("$-3", "-3", "sign after currency"),
    (r"-\$3", "-3", "escaped currency"),
    ("US$5", "5", "letters before the currency"),
    ("70 000 people", "70000", "a space parts thousands"),
    ("1 234 567.5", "1234567.5", "two spaces do"),
    ("in 2019 300 came", "300", "a year parts nothing"),
    ("$70k", "70000", "thousands of a currency"),
    ("70K of them", "70000", "thousands of anything"),
    ("$3M", "3000000", "millions of a currency"),
    ("70 million", "70000000", "millions in words"),
    ("$3 million", "3000000", "of a currency"),
    ("2.5 Billion people", "2500000000", "a decimal of them"),
    ("The answer is 3 million or 4 million", None, "one of two, in words"),
    ("5m", "5", "but metres"),
    ("5 m^2", "5", "and square metres"),
    (r"$30^\circ$", "30", "degrees"),
    (r"30^{\circ}", "30", "degrees in braces"),
    ("50%", "50", "per cent is as written"),
    ("5kg", "5", "a unit"),
    ("the 12th", "12", "an ordinal"),
    ("25 m^2", "25", "a unit to a power"),
    ("5 s^{-1}", "5", "a unit to a negative power"),
    ("25 m²", "25", "a unit with a superscript"),
    ("1e3", "1000", "an exponent"),
    ("2.5E-3", "0.0025", "a negative exponent"),
    ("(5)", "5", "brackets are no sign"),
    # Fractions
    ("3/4", "0.75", "a fraction"),
    ("3 / 4", "0.75", "a fraction with spaces"),
    ("-2/3", "-2/3", "a fraction that does not end"),
    ("1 1/2", "1.5", "a mixed number"),
    ("-1 1/2", "-1.5", "a negative mixed number"),
    ("½", "0.5", "one character"),
    ("2½", "2.5", "one character after a whole number"),
    ("1⁄3", "1/3", "a fraction slash"),
    (r"1\frac{1}{2}", "1.5", "LaTeX, mixed"),
    (r"\frac12", "0.5", "LaTeX without braces"),
    (r"1\frac 34", "1.75", "and mixed"),
    (r"\frac{1}2", "0.5", "with one pair of them"),
    (r"\frac123", None, "a fraction times a number is not read"),
    (r"10{,}000", "10000", "LaTeX's comma"),
    ("1\u202f234", "1234", "a narrow space parts thousands"),
    # Not certain
    ("3-5", None, "a range"),
    ("$5-$10", None, "a range of prices"),
    ("5 or 6", None, "one of two"),
    ("The answer is 5 to 6", None, "a range in words, stated"),
    ("it isn't 5", None, "denied"),
    ("It is not 5", None, "denied in full"),
    ("1.234,50", None, "European notation"),
    ("3,50", None, "a comma that parts no thousands"),
    ("12,34,567", None, "Indian notation"),
    ("1,2,3", None, "a list"),
    ("1.2.3", None, "a version"),
    ("3:30", None, "a time"),
    ("2024-05-01", None, "a date"),
    ("05/01/2024", None, "a date with slashes"),
    ("10^3", None, "a power"),
    ("10²", None, "a power in a superscript"),
    ("1/0", None, "no number"),
    ("1.5/2", None, "a grade"),
    ("1e999999999", None, "too large to write out"),
    ("1e-999999999", None, "too small"),
    ("9" * 51, None, "more digits than anybody counts"),
    # Not numbers
    ("B12", None, "a vitamin"),
    ("x_1", None, "an index"),
    ("0x1F", None, "digits among letters"),
    ("seven", None, "number words are not read"),
    ("", None, "empty"),
    (" \n", None, "white space"),
    ("٧", None, "an Arabic digit"),
    ("७", None, "a Devanagari digit"),
    ("５", None, "a full-width digit"),
    ("VII", None, "a Roman numeral"),
    ("-", None, "a sign alone"),
    ("$", None, "currency alone"),
    ("\x00", None, "a null byte"),
    ("\x005\x00", "5", "null bytes around a number"),
    ("\u200f5\u200f", "5", "direction marks around a number"),
    ("I cannot say that it is 18", "18", "wrong: a refusal is not read"),
    ("Question 2", "2", "wrong: the last number need not be an answer"),
]


@pytest.mark.parametrize(("text", "parsed", "why"), CASES, ids=[why for *_, why in CASES])
def test_numeric(text, parsed, why):
    score = Numeric()(Example("1", "p", "not a number"), text)
    assert (score.parsed, score.value) == (parsed, 0.0)
    if parsed is not None:
        assert Numeric()(Example("1", "p", parsed), text).value == 1
        assert Numeric()(Example("1", "p", f"{parsed}1"), text).value == 0


@pytest.mark.parametrize(
    ("gold", "text", "value"),
    [
        ("1,002", "1002", 1),
        ("$5", "5.00", 1),
        ("1/3", "2/6", 1),
        ("1/3", "0.3333333333", 0),
        ("0.3", "3e-1", 1),
        ("10000000000000001", "10000000000000000", 0),  # equal as floats
        ("", "", 0),
    ],
)
def test_numbers_are_compared_exactly(gold, text, value):
    assert Numeric()(Example("1", "p", gold), text).value == value


def test_an_alias_is_as_right():
    assert Numeric()(Example("1", "p", "5", aliases=("7",)), "7").value == 1


PIECES = st.sampled_from(
    ["####", "\\boxed{", "}", "{", "The answer is ", "answer: ", "1", "23", "456", ",", ".", "/",
     "-", "−", "+", "$", "€", "%", "e", "E", "^", " ", "\n", "½", "⅓", "²", "٧", "\\frac{", "}{",
     "or", "not", "kg", "_", ":", "\x00", "\u202f", "\u2044", "\u200f", "0" * 60, "1e99", "e-99"]
)  # fmt: skip
GRAMMAR = st.lists(PIECES).map("".join)


@pytest.mark.long
@given(st.one_of(st.text(), GRAMMAR), st.one_of(st.just("5"), GRAMMAR))
def test_no_text_surprises_it(text, gold):
    score = Numeric()(Example("1", "p", gold), text)
    assert score.value in (0, 1)
    assert not (score.invalid and score.value)
    if not score.invalid:
        assert Numeric()(Example("1", "p", score.parsed), text).value == 1


PLACES = ["{}", "#### {}", "\\boxed{{{}}}", "The answer is {}.", "Of 9, answer: {}", "7 then {}"]


@given(
    st.integers(-(10**12), 10**12),
    st.sampled_from(["{}", "{:,}", "{:,}.00", "{}/1", "{}e0", "{} kg", "{}%"]),
    st.sampled_from(PLACES),
)
def test_a_whole_number_in_any_form_is_read(number, form, place):
    text = place.format(form.format(number))
    assert Numeric()(Example("1", "p", str(number)), text).value == 1


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6), st.sampled_from(PLACES))
def test_a_fraction_is_compared_as_one(over, under, place):
    reduced = str(Fraction(over, under))
    score = Numeric()(Example("1", "p", reduced), place.format(f"{over}/{under}"))
    assert score.value == 1


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-9999, max_value=9999)
)
def test_a_decimal_is_exact(number):
    score = Numeric()(Example("1", "p", f"{number:f}"), f"so {number:f}.")
    assert score.value == 1
    assert Fraction(score.parsed) == Fraction(number)


ENDLESS = [
    "1" * BIG, "1," * (BIG // 2), "1 " * (BIG // 2), "1/" * (BIG // 2), "1.1" * (BIG // 3),
    "1-" * (BIG // 2), "-" * BIG, "$" * BIG, "####" * (BIG // 4), "answer is " * (BIG // 10),
    "answer is 1 " * (BIG // 12), "\\boxed{" * (BIG // 7), "\\boxed{" + "{" * BIG, "1" + "a" * BIG,
    "1a" * (BIG // 2), "1e" * (BIG // 2), "1e" + "9" * BIG, " " * BIG, "½" * BIG, "1½" * (BIG // 2),
    "\\frac{1}{" * (BIG // 9), "1{,}" * (BIG // 4), "1 / " * (BIG // 4), "_" * BIG,
    ("9" * 49 + " ") * 2000,
    "111 " * (BIG // 4) + "x", "answer is 1" + " -  1" * (BIG // 5), "1 + " * (BIG // 4),
    "answer is " + "1 x " * (BIG // 4), "not 5, " * (BIG // 7), "\\frac1" * (BIG // 6),
    "1\u202f" * (BIG // 2), "1,000" + ",000" * (BIG // 4), "answer" + " " * BIG + "is 5",
]  # fmt: skip


@pytest.mark.parametrize("text", ENDLESS, ids=[repr(text[:12]) for text in ENDLESS])
def test_a_long_answer_takes_no_time(text):
    began = time.process_time()
    Numeric()(Example("1", "p", "5"), text)
    assert time.process_time() - began < 3
