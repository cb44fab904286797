"""IFEval's instructions: what follows each, what does not, and what is odd about a text."""

import inspect
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corrsteer.errors import ConfigError, DataError
from corrsteer.records import Example
from corrsteer.scorers import instruction_rules, instructions
from corrsteer.scorers.instruction_rules import RULES, capitals, occurrences, sentences
from corrsteer.scorers.instructions import Instructions, loosened, read

LANGUAGES = instructions.tells_languages()
needs_langdetect = pytest.mark.skipif(not LANGUAGES, reason="langdetect is not installed")


@pytest.fixture(autouse=True)
def _langdetect(monkeypatch):
    """Rules that tell no languages are tested without it, too."""
    if not LANGUAGES:
        monkeypatch.setattr(instructions, "tells_languages", lambda: True)


def gold(*listed):
    """``(name, arguments)`` each."""
    return json.dumps([{"instruction": name, **arguments} for name, arguments in listed])


NAMED = {name.partition(":")[2]: name for name in RULES}
assert len(NAMED) == len(RULES)


def holds(name, text, mended=False, **arguments):
    (one,) = read(gold((NAMED[name], arguments)))
    return one.holds(text, mended=mended)


ENGLISH = "The weather in the north is cold and wet, but people go for long walks every day."
FOUR = {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "Weekend"}
AT_LEAST_2 = {"frequency": 2, "relation": "at least"}
LESS_THAN_2 = {"frequency": 2, "relation": "less than"}
LETTER = {"let_frequency": 2, "let_relation": "at least"}
CAPITAL = {"capital_frequency": 2, "capital_relation": "at least"}
SENTENCES = {"num_sentences": 2, "relation": "at least"}
WORDS = {"num_words": 3, "relation": "at least"}
PS, PPS = {"postscript_marker": "P.S."}, {"postscript_marker": "P.P.S"}
SECTIONS = {"section_spliter": "SECTION", "num_sections": 2}

# instruction, arguments, text, why, as the authors count, mended
CASES = [
    ("existence", {"keywords": ["war", "Ärger"]}, "WAR and ärger", "case", 1, 1),
    ("existence", {"keywords": ["war", "sea"]}, "war", "one of two", 0, 0),
    ("existence", {"keywords": ["war"]}, "It is warm.", "inside a word", 1, 0),
    ("existence", {"keywords": ["c++"]}, "I like C++!", "no pattern", 1, 1),
    ("frequency", {"keyword": "war", **AT_LEAST_2}, "War, war.", "twice", 1, 1),
    ("frequency", {"keyword": "war", **AT_LEAST_2}, "War, warm.", "in a word", 1, 0),
    ("frequency", {"keyword": "war", **LESS_THAN_2}, "War, war.", "twice", 0, 0),
    ("frequency", {"keyword": "war", **LESS_THAN_2}, "Peace.", "none is fewer", 1, 1),
    ("forbidden_words", {"forbidden_words": ["no", "may"]}, "Nobody knows", "inside", 1, 1),
    ("forbidden_words", {"forbidden_words": ["no", "may"]}, "Oh, No!", "case", 0, 0),
    ("letter_frequency", {"letter": "E", **LETTER}, "Eve", "either case", 1, 1),
    ("letter_frequency", {"letter": "e", **LETTER}, "Eva", "once", 0, 0),
    ("letter_frequency", {"letter": "!", **LETTER}, "Oh! Yes!", "a mark", 1, 1),
    ("number_sentences", SENTENCES, "One. Two", "the last without stop", 1, 1),
    ("number_sentences", SENTENCES, "I met Dr. Who", "abbreviation", 0, 0),
    ("number_sentences", SENTENCES, "1. one thing", "number of an item", 1, 0),
    ("number_sentences", SENTENCES, "**So it is.**", "marks left over", 1, 0),
    ("number_words", WORDS, "I don't", "an apostrophe parts", 1, 1),
    ("number_words", WORDS, "two words", "too few", 0, 0),
    ("number_words", WORDS, "раз два три", "Cyrillic", 1, 1),
    ("number_words", WORDS, "* - !", "no words", 0, 0),
    ("number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "two", 1, 1),
    ("number_paragraphs", {"num_paragraphs": 2}, "***\na\n***\nb\n***", "ends", 1, 1),
    ("number_paragraphs", {"num_paragraphs": 2}, "a\n***\n\n***\nb", "gap", 0, 0),
    ("number_paragraphs", {"num_paragraphs": 2}, "a\n\nb", "no divider", 0, 0),
    ("number_paragraphs", {"num_paragraphs": 1}, "***", "only a divider", 0, 0),
    ("nth_paragraph_first_word", FOUR, "a\n\n'weekend.' b\n\nc", "it", 1, 1),
    ("nth_paragraph_first_word", FOUR, "a\n\nb\n\nWeekend c", "the third", 0, 0),
    ("nth_paragraph_first_word", FOUR, "a\n\nweekend b", "two in all", 0, 0),
    ("nth_paragraph_first_word", FOUR, "\n\na\n\nweekend\n\nc", "blank first", 0, 1),
    ("nth_paragraph_first_word", FOUR, "\n\nweekend\n\nb\n\nc", "blank first", 1, 0),
    ("nth_paragraph_first_word", FOUR, "a\n\n**Weekend** b\n\nc", "bold", 0, 1),
    ("number_placeholders", {"num_placeholders": 2}, "[a] [b c]", "two", 1, 1),
    ("number_placeholders", {"num_placeholders": 2}, "[a\nb] [c]", "a break", 0, 0),
    ("postscript", PS, "So.\n\np. s. Write", "small, with a blank", 1, 1),
    ("postscript", PS, "So.\n**P.S.** Write", "bold", 1, 1),
    ("postscript", PS, "So. PS Write", "no stops", 0, 0),
    ("postscript", PS, "So.\nP.P.S. Write", "inside another", 1, 0),
    ("postscript", PPS, "So.\nP.P.S Write", "its own form", 1, 1),
    ("postscript", PPS, "So.\nP.S. Write", "another", 0, 0),
    ("postscript", {"postscript_marker": "Nb:"}, "x\nNB: y", "another word", 1, 1),
    ("number_bullet_lists", {"num_bullets": 2}, "* a\n  - b\nc", "two", 1, 1),
    ("number_bullet_lists", {"num_bullets": 2}, "* a\n* b\n* c", "three", 0, 0),
    ("number_bullet_lists", {"num_bullets": 1}, "* a\n---\nb", "a rule", 0, 1),
    ("number_bullet_lists", {"num_bullets": 1}, "*so*\nb", "emphasis", 1, 0),
    ("number_bullet_lists", {"num_bullets": 1}, "**so** b", "bold", 0, 0),
    ("constrained_response", {}, "Well: My answer is no.", "in a text", 1, 1),
    ("constrained_response", {}, "my answer is no", "case and stop", 0, 0),
    ("constrained_response", {}, "My answer is no. My answer is yes.", "two", 1, 0),
    ("number_highlighted_sections", {"num_highlights": 2}, "*a* **b c**", "both", 1, 1),
    ("number_highlighted_sections", {"num_highlights": 1}, "** ** a * b", "none", 0, 0),
    ("number_highlighted_sections", {"num_highlights": 1}, "* a *b", "a bullet", 1, 0),
    ("number_highlighted_sections", {"num_highlights": 1}, "*a\nb*", "a break", 0, 0),
    ("multiple_sections", SECTIONS, "SECTION 1\na\nSECTION 2\nb", "two", 1, 1),
    ("multiple_sections", SECTIONS, "SECTION 1 SECTION 2 SECTION 3", "more", 1, 1),
    ("multiple_sections", SECTIONS, "Section 1\nSection 2", "case", 0, 0),
    ("json_format", {}, '{"a": [1, "é"]}', "an object", 1, 1),
    ("json_format", {}, '```json\n{"a": 1}\n```', "in a fence", 1, 1),
    ("json_format", {}, 'Here: {"a": 1}', "words before", 0, 0),
    ("json_format", {}, "{'a': 1}", "Python's quotes", 0, 0),
    ("json_format", {}, "[" * 100_000, "nested too deep", 0, 0),
    ("title", {}, "A poem\n<<Über uns>>", "anywhere", 1, 1),
    ("title", {}, "<< >> <title>", "nothing inside", 0, 0),
    ("two_responses", {}, "One.\n******\nTwo.", "two", 1, 1),
    ("two_responses", {}, "******\nOne.\n******\nTwo.\n******", "marks at the ends", 1, 1),
    ("two_responses", {}, "One.\n******\n One.", "the same", 0, 0),
    ("two_responses", {}, "One.\n***\nTwo.", "three asterisks", 0, 0),
    ("repeat_prompt", {"prompt_to_repeat": "Say hi. "}, "\nSAY HI. Hi.", "case", 1, 1),
    ("repeat_prompt", {"prompt_to_repeat": "Say hi."}, "Sure: Say hi.", "words before", 0, 0),
    ("end_checker", {"end_phrase": "Any more?"}, 'Yes. "ANY MORE?" \n', "quoted, case", 1, 1),
    ("end_checker", {"end_phrase": "Any more?"}, "Any more? No.", "words behind", 0, 0),
    ("quotation", {}, ' "So it is."\n', "wrapped", 1, 1),
    ("quotation", {}, '"', "one mark", 0, 0),
    ("quotation", {}, "“So it is.”", "curly marks", 0, 1),
    ("quotation", {}, "'So it is.'", "single marks", 0, 0),
    ("capital_word_frequency", CAPITAL, "NASA and the U.S. won", "two", 1, 1),
    ("capital_word_frequency", CAPITAL, "X-RAY 42 iPhone", "one", 0, 0),
    ("english_capital", {}, "HELLO there", "a small letter", 0, 0),
    ("english_lowercase", {}, "hello There", "a capital", 0, 0),
    ("no_comma", {}, "One; two.", "none", 1, 1),
    ("no_comma", {}, "One, two.", "one", 0, 0),
    ("no_comma", {}, "一，二、三", "commas of another script", 1, 0),
]  # fmt: skip
SPOKEN = [
    ("response_language", {"language": "en"}, ENGLISH, "English", 1, 1),
    ("response_language", {"language": "de"}, ENGLISH, "not German", 0, 0),
    ("response_language", {"language": "ko"}, "오늘은 날씨가 아주 좋습니다.", "Korean", 1, 1),
    ("response_language", {"language": "hi"}, "42 ... 17!", "no language", 1, 0),
    ("english_capital", {}, ENGLISH.upper(), "all capitals", 1, 1),
    ("english_lowercase", {}, ENGLISH.lower(), "no capital", 1, 1),
    ("english_lowercase", {}, "das wetter im norden ist kalt und nass.", "German", 0, 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "text", "why", "authors", "mended"), CASES)
def test_a_text_follows_or_does_not(name, arguments, text, why, authors, mended):
    assert holds(name, text, **arguments) == authors, why
    assert holds(name, text, mended=True, **arguments) == mended, why


@needs_langdetect
@pytest.mark.parametrize(("name", "arguments", "text", "why", "authors", "mended"), SPOKEN)
def test_a_text_is_in_the_language_or_not(name, arguments, text, why, authors, mended):
    assert holds(name, text, **arguments) == authors, why
    assert holds(name, text, mended=True, **arguments) == mended, why


def test_every_rule_has_texts_that_follow_and_texts_that_do_not():
    for place in (4, 5):
        found = {(case[0], bool(case[place])) for case in (*CASES, *SPOKEN)}
        assert found == {(name, good) for name in NAMED for good in (True, False)}


def test_an_empty_text_follows_nothing():
    """Not even the instructions that it does not break."""
    for name, arguments, *_ in CASES:
        for text in ("", " \n\t"):
            assert not holds(name, text, **arguments)
            assert not holds(name, text, mended=True, **arguments)


@pytest.mark.parametrize(
    ("text", "authors", "mended"),
    [
        ("", 0, 0),
        ("No stop", 1, 1),
        ("One. two? Three!", 3, 3),
        ("What?! No.", 2, 2),
        ("Well... so it is. Yes…", 2, 2),
        ("A line\nand another\n\nA paragraph.", 1, 1),
        ('He said "Go." Then he went.', 2, 2),
        ("It is 3.5 km, e.g. by Mr. J. Smith of the U.S. army.", 1, 1),
        ("1. One.\n2. Two.", 4, 2),
        ("**One.** Two.\n***", 3, 2),
        ("раз. два.", 2, 2),
    ],
)
def test_sentences(text, authors, mended):
    assert (sentences(text, False), sentences(text, True)) == (authors, mended)


def test_a_text_that_never_ends_takes_no_time():
    """Answers may run on with one sign, and rules are asked eight times a text."""
    began = time.process_time()
    for name, arguments in {case[0]: case[1] for case in CASES if "english" not in case[0]}.items():
        for sign in ("a", "A", ".", "!)", "*", "* ", "[", "<", "<<", "P.S.", "\n", "'", "1.", ", "):
            for mended in (False, True):
                holds(name, (sign * 8000)[:8000] + "x", mended=mended, **arguments)
    holds("number_placeholders", "[" * 100_000, mended=True, num_placeholders=1)
    assert time.process_time() - began < 4


def test_words_in_capitals():
    assert capitals('I SAID: "GO!" **NOW**--OK (USA), A4; ÄRGER Ok 42 ok') == 8
    assert occurrences("a", "a A ba a1", whole=True) == 2


# -- the scorer ------------------------------------------------------------------------------------

TWO = gold(("punctuation:no_comma", {}), ("detectable_format:title", {}))


def scored(text, of=TWO, **settings):
    score = Instructions(**settings)(Example("1", "p", of), text)
    return score.value, score.parsed


@pytest.mark.parametrize(
    ("text", "value", "parsed"),
    [
        ("<<T>> so", 1, "2 of 2"),
        ("so", 0, "1 of 2, not detectable_format:title"),
        ("a, b", 0, "0 of 2, not punctuation:no_comma, detectable_format:title"),
        ("<think>Well, a title.</think><<T>> so", 1, "2 of 2"),
        ("<think>Well, a title", 0, None),
        ("", 0, None),
        ("  \n", 0, None),
        ("<<T>> so\nQuestion: and now, what?", 0, "1 of 2, not punctuation:no_comma"),
    ],
)
def test_right_is_what_follows_all(text, value, parsed):
    assert scored(text) == (value, parsed)


def test_loose_looks_past_the_first_and_last_line_and_asterisks():
    quoted = gold(("startend:quotation", {}))
    for text in ('Sure:\n"So."', '"So."\nBye', 'Sure:\n"So."\nBye', '**"So."**'):
        assert scored(text, quoted)[0] == 0
        assert scored(text, quoted, loose=True) == (1, "1 of 1")
    assert scored('"So', quoted, loose=True) == (0, "0 of 1, not startend:quotation")
    # Each instruction may hold in another form.
    each = gold(("startend:quotation", {}), ("detectable_format:title", {}))
    assert scored('<<T>>\n"So."', each, loose=True)[0] == 1


def test_forms_of_a_text():
    assert loosened("a\n*b*\nc") == (
        "a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b",
    )  # fmt: skip
    assert loosened("a")[1:4] == ("", "", "")


def test_mended_is_a_setting():
    words = gold(("keywords:existence", {"keywords": ["war"]}))
    assert scored("warm", words) == (1, "1 of 1")
    assert scored("warm", words, mended=True)[0] == 0


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.sampled_from(CASES), st.booleans())
def test_no_text_surprises_a_rule(text, case, mended):
    strict = Instructions(mended=mended)
    name, arguments, own, *_ = case
    right = gold((NAMED[name], arguments))
    for odd in (text, own + text, text + own, "\ud83d" + own):
        if "english" in name and not LANGUAGES:
            continue
        (kept,) = strict.followed(right, odd, loose=False)
        (loosely,) = strict.followed(right, odd, loose=True)
        assert loosely >= kept
        assert kept == strict(Example("1", "p", right), odd).value


@pytest.mark.parametrize(
    ("right", "message"),
    [
        ("yes", "is not a JSON list of instructions"),
        ("[]", "is not a JSON list"),
        ("[" * 50_000, "is not a JSON list"),
        ("[1]", "is not a JSON list"),
        ('[{"a": 1}]', "there is no instruction None; known: keywords:existence"),
        ('[{"instruction": "punctuation:comma"}]', "there is no instruction 'punctuation:comma'"),
        (gold(("punctuation:no_comma", {"n": 1})), "no_comma takes no arguments, not n"),
        (gold(("keywords:existence", {})), "existence takes keywords, not none"),
        (gold(("keywords:existence", {"keywords": "war"})), "needs Sequence[str] as keywords"),
        (gold(("keywords:existence", {"keywords": ["a", 1]})), "needs texts in keywords"),
        (gold(("keywords:existence", {"keywords": []})), "has nothing as keywords"),
        (gold(("startend:end_checker", {"end_phrase": ""})), "has nothing as end_phrase"),
        (gold(("startend:end_checker", {"end_phrase": " "})), "has nothing as end_phrase"),
        (gold(("keywords:existence", {"keywords": [" "]})), "needs texts in keywords"),
        (gold(("length_constraints:number_words", WORDS | {"num_words": -1})), "at least 0 as num"),
        (
            gold(("length_constraints:nth_paragraph_first_word",
                  {"num_paragraphs": 2, "nth_paragraph": 0, "first_word": "a"})),
            "at least 1 as nth_paragraph, not 0",
        ),
        (
            gold(("language:response_language", {"language": "klingon"})),
            "knows no language 'klingon'; known: af,",
        ),
        (gold(("length_constraints:number_words", WORDS | {"num_words": 3.5})), "needs int as num"),
        (gold(("length_constraints:number_words", WORDS | {"num_words": True})), "needs int as n"),
        (
            gold(("length_constraints:number_words", WORDS | {"relation": "more than"})),
            "knows at least and less than as relation, not 'more than'",
        ),
    ],
)  # fmt: skip
def test_a_right_answer_that_is_none_is_one_line(right, message):
    for ask in (Instructions().check, lambda given: scored("x", given)):
        with pytest.raises(DataError) as caught:
            ask(right)
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_settings_and_what_is_missing_are_refused_in_a_line(monkeypatch):
    for name in ("loose", "mended"):
        with pytest.raises(ConfigError, match=rf"task.scorer.{name}=1 must be true or false"):
            Instructions(**{name: 1})
    monkeypatch.setattr(instructions, "tells_languages", lambda: False)
    with pytest.raises(ConfigError, match=r"needs langdetect.*pip install 'corrsteer\[ifeval\]'"):
        Instructions()


def test_arguments_have_kinds_that_are_checked():
    for rule in RULES.values():
        for parameter in inspect.signature(rule).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                assert parameter.annotation in instructions.KINDS


@needs_langdetect
def test_languages_are_told_alike_each_time():
    """langdetect draws samples; on a mixed text its draws would differ."""
    mixed = "das ist so and that is it et voilà c'est tout"
    found = set()
    for _ in range(5):
        instruction_rules.language_of.cache_clear()
        found.add(instruction_rules.language_of(mixed))
    assert len(found) == 1
