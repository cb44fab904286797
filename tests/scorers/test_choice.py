"""Multiple choice: case tables with reasons, round trips, and that no text surprises it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrsteer.records import LETTERS, Example, Score
from corrsteer.scorers.choice import Choice

OPTIONS = ("The guard", "Not the guard", "The A team", "Unknown")
CHOICE = Example("1", "p", "B", OPTIONS)
BIG = 100_000

CASES = [
    # The letter
    ("B. Not the guard", "B", "a letter and its option, as one that was chosen is written"),
    (" B", "B", "the space that a tokenizer leaves"),
    ("B", "B", "a letter alone"),
    ("B.", "B", "a full stop"),
    ("B)", "B", "half a bracket"),
    ("(B)", "B", "brackets"),
    ("(B) because", "B", "brackets, then prose"),
    ("[B]", "B", "square brackets"),
    ("**B**", "B", "bold"),
    ("__B__", "B", "bold, the other way"),
    ("**B.** Not the guard", "B", "a bold label"),
    ("`B`", "B", "code"),
    ('"B"', "B", "quotation marks"),
    ("B: Not the guard", "B", "a label with its own text"),
    ("B - Not the guard", "B", "a dash as label"),
    ("B — because he ran", "B", "a long dash"),
    ("B Not the guard", "B", "a letter and its own text, no mark"),
    ("B\nC\nD", "B", "the first line decides"),
    ("B\n\nQuestion: who? Answer: C", "B", "a base model asks on"),
    ("Option B", "B", "named as an option"),
    ("Option (B)", "B", "named as an option, in brackets"),
    ("b)", "B", "lower case with a bracket"),
    ("(b)", "B", "lower case in brackets"),
    ("(b) Not the guard", "B", "a lower-case label"),
    ("b", "B", "a lower-case letter that is all there is"),
    ("b.", "B", "with a full stop"),
    ("option b", "B", "with its noun"),
    ("b was there", None, "a lower-case letter before prose"),
    ("a", None, "the beginning of prose"),
    ("B, D is wrong", "B", "a letter followed by a verb is no second choice"),
    ("B, not C", "B", "the other is denied"),
    ("B. B. B.", "B", "one letter, three times"),
    # Statements
    ("The answer is B", "B", "stated"),
    ("The correct answer is (B).", "B", "stated in brackets"),
    ("the best option would be B", "B", "stated as the best option"),
    ("Answer: B", "B", "stated with a colon"),
    ("answer: (C)", "C", "stated in lower case"),
    ("**Answer:** B", "B", "the colon within the bold"),
    ("**Final Answer**\n\nC", "C", "a heading, then a letter"),
    ("Answer:\nB", "B", "on the next line"),
    ("The answer is (b).", "B", "a stated lower-case letter in brackets"),
    ("the answer is b", None, "a bare lower-case letter may be a word cut off"),
    ("The answer is option B.", "B", "stated as an option"),
    ("I choose B", "B", "chosen"),
    ("I'd go with B because he ran", "B", "chosen with a reason"),
    (r"\boxed{B}", "B", "in a box"),
    (r"$\boxed{\text{(B)}}$", "B", "in a box, in a font"),
    ("B is correct", "B", "a verdict"),
    ("Of these, option B is the right answer", "B", "a verdict at length"),
    ("The answer is A because he ran", "A", "A with a reason is a letter"),
    ("The answer is the guard.", "A", "an option's text stated"),
    ("the answer is D, not the guard", "D", "a stated letter outranks option text"),
    ("I'm not sure, but the answer is B", "B", "a doubt before 'but' takes nothing back"),
    ("answer: b", "B", "a lower-case letter after a colon"),
    ("ANSWER: b", "B", "the same after capitals"),
    ("answer: b\nbecause he ran", "B", "at the end of its line"),
    ("answer: a man", None, "an article after a colon"),
    ("ans: B", "B", "in short"),
    ("The correct option is b", "B", "a lower-case letter said to be the option"),
    ("The correct option is a", None, "an article said to be it"),
    (r"\boxed{b}", "B", "a lower-case letter in a box"),
    # Plain words
    ("It is B.", "B", "a sentence"),
    ("It's B", "B", "a contraction"),
    ("Therefore, B.", "B", "a conclusion"),
    ("So it must be (B).", "B", "a conclusion at length"),
    ("I'd say B.", "B", "said to be said"),
    ("I'd say B because he ran", "B", "with a reason"),
    ("I think it's B.", "B", "thought"),
    ("My guess is B", "B", "guessed"),
    ("It is C. The guard slept.", "C", "plain words come before a mention"),
    ("It is A.", "A", "A with a full stop"),
    ("It is A man", None, "an article after plain words"),
    ("A man walks", None, "an article first"),
    ("It was I.", None, "a pronoun"),
    ("It is B or C", None, "two letters in plain words"),
    ("It is not B.", None, "denied in plain words"),
    ("I wouldn't say B.", None, "not said"),
    ("I doubt it is B.", None, "doubted"),
    ("I have no doubt it is B.", "B", "no doubt"),
    ("Nobody would say it is B.", None, "said by nobody"),
    ("I'd say B, no wait, C.", "C", "corrected"),
    ("B. No, wait.", None, "taken back"),
    ("If it is B, he ran.", None, "supposed"),
    ("Is it B?", None, "asked"),
    ("It could be B.", None, "a possibility"),
    ("It is B-flat", None, "a word that begins with a letter"),
    # The reply
    ("<think>It could be A.</think>\n\nB", "B", "what was thought does not count"),
    ("<think>\nThe answer is B", None, "thinking that was cut off"),
    ("The answer is B.\n\nQ: who?\nThe answer is C.", "B", "the next question runs on"),
    # Option text
    ("The guard", "A", "an option's text"),
    ("The guard\nNot the guard", "A", "the first line decides here too"),
    ("UNKNOWN", "D", "case is folded"),
    ("unknown.", "D", "a mark after the text"),
    ("It was not the guard.", "B", "the longer option was named, not the one within it"),
    ("It was the   guard", "A", "white space is folded"),
    ("I say the A team did it", "C", "option text in prose"),
    ("A guard did it", None, "an article is no letter, 'guard' alone no option"),
    ("the guards", None, "whole words only"),
    ("The guard is innocent", "A", "wrong: what follows the name is not read"),
    # Ambiguous
    ("A or B", None, "two letters"),
    ("A and B", None, "two letters, both"),
    ("A, B", None, "two letters in a list"),
    ("A/B", None, "two letters with a slash"),
    ("(A) or (B)", None, "two letters in brackets"),
    ("A. B. C. D.", None, "all letters"),
    ("B or C", None, "neither leads with a mark nor is stated"),
    ("The answer is B or C", None, "two letters stated"),
    ("The answer is B. The answer is C.", None, "two statements"),
    ("B: no, the answer is C", None, "a line that starts with one and states another"),
    ("B. The guard", None, "a letter with another option's text"),
    ("B The guard", None, "the same without a mark"),
    ("The guard or unknown", None, "two options"),
    ("Not the guard, the guard", None, "two options, the shorter also outside the longer"),
    # Nothing, or nothing on offer
    ("A potter did it", None, "an article"),
    ("The answer is A potter", None, "an article after a statement"),
    ("A's", None, "a genitive"),
    ("A+", None, "a grade"),
    ("E", None, "not among four options"),
    ("The answer is E", None, "stated, but not among four options"),
    ("E. Unknown", None, "a label that is not on offer, with a text that is"),
    ("I, for one, say unknown", "D", "I is a word where there are four options"),
    ("not B", None, "denied"),
    ("~B", None, "denied by a sign"),
    ("B is wrong", None, "denied by a verdict"),
    ("B?", None, "asked, not said"),
    ("The answer is not A", None, "a denied statement"),
    ("I don't think the answer is B", None, "a statement taken back before it is made"),
    ("Neither A nor B is correct", None, "a denied verdict"),
    ("It wasn't unknown", None, "denied option text"),
    # Refusals
    ("I'd rather not say", None, "a refusal"),
    ("I cannot answer B", None, "a letter within a refusal"),
    ("I can't say that the answer is B", None, "a right statement within a refusal"),
    ("I can't say that it was the guard", None, "the text of an option within a refusal"),
    ("I can’t say that it was the guard", None, "the same with a typographic apostrophe"),
    ("I cannot say. It was the guard.", "A", "the next sentence takes the refusal back"),
    ("La la la.", None, "chatter"),
    ("There is no telling", None, "no option"),
    # Bytes
    ("", None, "empty"),
    (" \n\t ", None, "white space"),
    ("...", None, "marks only"),
    ("\x00\x00", None, "null bytes"),
    ("\x00B\x00", "B", "null bytes around a letter"),
    ("\u200f\u202bB", "B", "direction marks before a letter"),
    ("\u200b", None, "a zero-width space"),
    ("Ｂ", None, "a full-width letter"),
    ("The answer is Ｂ", None, "a full-width letter, stated"),
    ("В", None, "a Cyrillic letter that looks like B"),
    ("Α", None, "a Greek letter that looks like A"),
    ("الجواب هو", None, "another language"),
    ("הגבול B", None, "a letter after a right-to-left word"),
    ("The gua", None, "an option cut off"),
]


@pytest.mark.parametrize(("text", "parsed", "why"), CASES, ids=[why for *_, why in CASES])
def test_choice(text, parsed, why):
    assert Choice()(CHOICE, text) == Score(float(parsed == "B"), parsed)


OPTION_CASES = [
    (("B", "A", "C", "D"), "B", None, "a letter that is another option's text"),
    (("A", "B", "C", "D"), "B", "B", "a letter that is its own option's text"),
    (("Zn", "B", "C", "O"), "B. B", "B", "its own text labelled, one letter long"),
    (("one", "two", "one", "three"), "one", None, "two options with one text"),
    (("one", "two", "One", "three"), "One", "C", "two texts that differ by case, to the letter"),
    (("one", "two", "One", "three"), "ONE", None, "two texts that differ by case, else"),
    (("one", "two", "one", "three"), "C", "C", "a letter is clear even so"),
    (("A and B", "B only", "A only", "none"), "A and B", "A", "letters as an option's text"),
    (("-1", "1", "2", "3"), "-1", "A", "to the letter, signs count"),
    (("-1", "1", "2", "3"), "A) -1", "A", "a minus after a label is no dash"),
    (("F", "m", "F_B = 2", "B"), "F_B = 2", "C", "a letter with an index is no letter"),
    (("x", "y", "(A) and (B) alike", "z"), "(A) and (B) alike", "C", "a text that has letters"),
    (("2c", "c", "3c", "4c"), "c", "B", "a lower-case letter that is an option's text"),
    (("2c", "c", "3c", "4c"), "The right option is c", "B", "and that is stated"),
    (("2c", "c", "3c", "4c"), "C", "C", "a letter is not the text of another in lower case"),
    (("x\x80y", "z"), "x\x80y", "A", "invisible characters within an option"),
    (("-1", "1", "2", "3"), "so -1 it is", None, "in prose, signs are not words"),
    (("1", "2", "3", "4"), "it is 1.5", None, "1 is not in 1.5"),
    (("1", "2", "3", "4"), "it is -1", None, "1 is not in -1"),
    (("1", "2", "3", "4"), "it is 1", "A", "1 in prose"),
    (("+", "-", "*", "/"), "-", "B", "a text of marks"),
    (("+", "-", "*", "/"), "", None, "an empty answer names no option made of marks"),
    (("yes", "no"), "There is no telling", None, "a short word within prose is no option"),
    (("yes", "no"), "No, he did not", "B", "a short word at the start is one"),
    (("yes", "no"), "The answer is no.", "B", "and so is one that is stated"),
    (("straße", "x"), "STRASSE", "A", "full case folding"),
    (("Can't be determined", "x"), "It can't be determined.", "A", "an option that denies"),
    (("Can’t be determined", "x"), "can't be determined", "A", "either apostrophe"),
    (("Cannot answer", "x"), "I cannot answer", "A", "an option that refuses"),
    ((), "A", None, "no options, no letters"),
    (tuple("abcdefghij"), "J", "J", "ten options"),
    (tuple("qrstuvwxyz"), "I", "I", "the ninth letter, where there are ten"),
    (("", "x"), "", None, "an empty option"),
    (("x" * 3000, "y"), "x" * 3000, "A", "a long option"),
    (("(a+)+$", "[", "\\"), "(a+)+$", "A", "an option's text is no pattern"),
]


@pytest.mark.parametrize(
    ("options", "text", "parsed", "why"), OPTION_CASES, ids=[why for *_, why in OPTION_CASES]
)
def test_choice_with_other_options(options, text, parsed, why):
    assert Choice()(Example("1", "p", "A", options), text) == Score(float(parsed == "A"), parsed)


REASONED = [
    ("The answer is B", "B", "stated"),
    ("First A. Then C. The answer is B.", "B", "letters on the way do not count"),
    ("The answer is A. No: the answer is B.", "B", "the last statement counts"),
    ("The answer is B.\nA or C seem wrong.", "B", "what follows states nothing"),
    ("A. It was dark.\nSo the answer is B.", "B", "a leading letter does not count"),
    ("B. It was dark, so he left.", None, "a leading letter states nothing"),
    ("B because it was dark", None, "nor does one with a reason"),
    ("(B) is one of them", None, "nor does one in brackets"),
    ("B", "B", "a last line that is only a letter"),
    ("It was dark.\nB", "B", "the same after reasoning"),
    ("It was dark.\n(B)", "B", "in brackets"),
    ("It was dark.\n**B.**", "B", "in bold"),
    ("It was dark.\nOption B", "B", "named as an option"),
    ("It was dark.\nb", None, "lower case is prose"),
    ("It was dark.\n(b)", "B", "lower case in brackets"),
    ("It was dark.\nB. Not the guard", "B", "a label with its own text"),
    ("It was dark.\nB. The guard", None, "a label with another option's text"),
    ("It was dark.\nB. He ran away", None, "a label with prose: a step of the reasoning"),
    ("It was dark.\nNot the guard", "B", "a last line that is an option's text"),
    ("It was dark.\nnot the guard.\n\n", "B", "folded, before empty lines"),
    ("It was dark, so not the guard", None, "option text in prose is a mention"),
    ("It was the guard or unknown", None, "two mentions"),
    ("The answer is A.\nB", "B", "the last line comes after the statement"),
    ("B\nThe answer is A.", "A", "and here before it"),
    (r"So \boxed{B}", "B", "in a box"),
    (r"\boxed{A} was my guess, now \boxed{B}", "B", "the last box"),
    (r"\boxed{\text{B}}.", "B", "a box with a font"),
    (r"\boxed{Not the guard}", "B", "option text in a box"),
    (r"\boxed{7}", None, "a box without an option"),
    ("Answer: B", "B", "with a colon"),
    ("**Answer: B**", "B", "in bold"),
    ("Final answer: **B**", "B", "the letter in bold"),
    ("The answer is not the guard.", "B", "an option's text stated"),
    ("Therefore the answer is: unknown", "D", "stated after a colon"),
    ("I choose B", "B", "chosen"),
    ("It was dark. Therefore, B.", "B", "a conclusion in plain words"),
    ("It is A. No. It is B.", "B", "the last of two"),
    ("It is A. But the answer is B.", "B", "a statement comes before plain words"),
    ("If it is A, he ran.", None, "what is supposed"),
    ("<think>The answer is A.</think>So it is B.", "B", "what was thought does not count"),
    ("The answer is B.\nQuestion: who?\nThe answer is A.", "B", "the next question runs on"),
    ("So B is correct.", "B", "a verdict"),
    ("So B is the right answer. A is not.", "B", "a verdict, then a denial"),
    ("A is correct at first sight. The answer is B.", "B", "a verdict, then a statement"),
    ("The answer is B. A is correct, too, I say: no", "A", "the last verdict"),
    ("The answer is B or C", None, "two letters stated"),
    ("The answer is B. The answer is A or C.", None, "ambiguous in the end"),
    ("The answer is E", None, "not on offer"),
    ("The answer is not A", None, "a denied statement"),
    ("I don't think the answer is B", None, "a statement taken back"),
    ("I can't say that the answer is B.", None, "the right answer within a refusal"),
    ("Is the answer B? Hmm", None, "a question"),
    ("The answer is A potter", None, "an article"),
    ("The answer is A since it was dark", "A", "A with a reason is a letter"),
    ("We look for the answer. It was dark", None, "no statement"),
    ("Options: A, B, C or D", None, "the options read out"),
    ("It was dark.\nA+", None, "a grade"),
    ("", None, "empty"),
    (" \n \n", None, "white space"),
    ("\x00", None, "a null byte"),
    ("It was dark.\n\u200fB\u200f", "B", "direction marks"),
    ("The answer is Ｂ", None, "a full-width letter"),
    ("The answer is В", None, "a Cyrillic letter"),
    ("The answer is", None, "cut off before the letter"),
    ("It was dark.\nNot the gua", None, "cut off within the option"),
]


@pytest.mark.parametrize(("text", "parsed", "why"), REASONED, ids=[why for *_, why in REASONED])
def test_choice_with_reasoning(text, parsed, why):
    assert Choice(reasoning=True)(CHOICE, text) == Score(float(parsed == "B"), parsed)


PIECES = st.sampled_from(
    [*"ABCDEIb", "(", ")", "**", ". ", ", ", ": ", "\n", " ", " or ", " and ", "not ",
     "I can't say ", "answer", " is ", "Answer: ", "I choose ", "\\boxed{", "}", "option ",
     " correct", "the guard", "Not the guard", "unknown", "’s", "\x00", "\u200f", "İ", "ß", "Ｂ",
     "$", "?", "-", "1.5"]
)  # fmt: skip
GRAMMAR = st.lists(PIECES).map("".join)
SOME_OPTIONS = st.lists(st.one_of(st.text(max_size=8), GRAMMAR), max_size=10).map(tuple)


@given(st.one_of(st.text(), GRAMMAR), st.one_of(st.just(OPTIONS), SOME_OPTIONS), st.booleans())
def test_no_text_surprises_it(text, options, reasoning):
    score = Choice(reasoning)(Example("1", "p", "A", options), text)
    assert score.parsed is None or score.parsed in LETTERS[: len(options)]
    assert score.value == float(score.parsed == "A")


FORMS = [
    "{}", " {}", "{}.", "({})", "{})", "[{}]", "**{}**", "Answer: {}", "The answer is {}.",
    "The correct answer is ({}).", "\\boxed{{{}}}", "Option {}", "\n{}\n",
]  # fmt: skip


@given(st.sampled_from(FORMS), st.sampled_from("ABCD"), st.booleans())
def test_a_letter_in_a_common_form_is_always_read(form, letter, reasoning):
    assert Choice(reasoning)(CHOICE, form.format(letter)).parsed == letter


@given(st.integers(0, 3), st.sampled_from(["{}", "The answer is {}.", "Answer: {}"]), st.booleans())
def test_an_options_text_in_a_common_form_is_always_read(index, form, reasoning):
    text = form.format(OPTIONS[index])
    assert Choice(reasoning)(CHOICE, text).parsed == LETTERS[index]


@given(GRAMMAR, st.sampled_from("ABCD"))
def test_after_any_reasoning_a_last_line_decides(thought, letter):
    assert Choice(reasoning=True)(CHOICE, f"{thought}\n{letter}").parsed == letter


ENDLESS = [
    "B" * BIG, "A " * (BIG // 2), "( " * (BIG // 2), " " * BIG, "\n" * BIG, "\x00" * BIG,
    "answer is " * (BIG // 10), "answer: B " * (BIG // 10), "answer is not " * (BIG // 14),
    "\\boxed{" * (BIG // 7), "\\boxed{" + " " * BIG, "answer is" + " " * BIG + "B",
    "the guard " * (BIG // 10), "not the guard " * (BIG // 14), "the " * (BIG // 4),
    "the" + "." * BIG + "guard", "B is " * (BIG // 5), "A or " * (BIG // 5), "*" * BIG + "B",
    "it is B. " * (BIG // 9), "so " * (BIG // 3), "answer: b" + "\n" * BIG, "if " * (BIG // 3),
    "B" + "*" * BIG, "I can't say " * (BIG // 12), "B" + " " * BIG + "x", "_" * BIG, "İ" * BIG,
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("text", ENDLESS, ids=[repr(text[:14]) for text in ENDLESS])
@pytest.mark.parametrize("reasoning", [False, True])
def test_a_long_answer_takes_no_time(text, reasoning):
    began = time.process_time()
    Choice(reasoning)(CHOICE, text)
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A. The answer is B", "A"),  # an option that states another's letter
        ("B. Yes", "B"),  # the beginning of a longer one
        ("C. Yes, and no", "C"),
        ("D. Yes", "D"),  # the same text twice: it was the second
        ("E. I can't say A", "E"),
        ("L. last", "L"),  # beyond the letters that a model is asked for
    ],
)
def test_an_option_that_was_chosen_is_named_whatever_it_says(text, letter):
    texts = ("The answer is B", "Yes", "Yes, and no", "Yes", "I can't say A")
    options = (*texts, *(f"more {n}" for n in range(6)), "last")
    for gold, value in ((letter, 1.0), ("F", 0.0)):
        assert Choice()(Example("1", "p", gold, options), text) == Score(value, letter)
