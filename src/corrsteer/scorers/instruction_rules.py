"""The 25 instructions of IFEval (Zhou et al. 2023) that a program can check, a rule each.

A rule is a function of a text, ``mended`` and the instruction's own arguments, named as in the
data. With ``mended`` false it counts as the authors' script does, so that numbers compare with
published ones. Some of that is not what the instruction says; with ``mended`` true it goes by the
instruction:

- keywords (existence, frequency): the authors find them inside other words; mended: whole words.
- first word of the n-th paragraph: they count the paragraphs with text, but take the n-th of all,
  and compare the word with its markdown; mended: the n-th with text, letters and digits only.
- postscript: they find the marker anywhere, P.S. also in P.P.S.; mended: a line begins with it.
- bullets: a line that begins with ``-`` or one ``*``, so ``---`` and ``*so*`` count; mended: a
  blank and text follow the mark.
- highlights: also from the mark of a bullet to the next ``*``; mended: marks touch their text.
- constrained response: they accept several of the three answers; mended: just one.
- languages: a text for which none is found follows; mended: it does not.
- sentences: "1." before an item and marks left over, ``**``, are one each; mended: none.
- quotation: straight marks; mended: curly ones, too.
- commas: the ASCII one; mended: those of other scripts, too.

How it is counted: *words* are runs of letters, digits and underscores, so "don't" is two. *Words in
capitals* are parted by blanks, dashes and most marks, and hold a cased letter and no small one
("I", "A4", "U.S.", "X-RAY"). *Sentences* end at ``.``, ``!`` and ``?`` before a blank, but for the
stop of an abbreviation or an initial and dots before a small letter; a line break ends none, and
what is left at the end counts as one. The authors take the last two from nltk, whose models would
have to be downloaded: its abbreviations are others, and "can't" in capitals is two words there, so
counts may differ by one or two in long texts. A letter to count that is none, such as ``!``, counts
here; the authors draw a letter in its place.

Languages are told by langdetect, as the authors do, here with a fixed seed (it draws samples).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence

CHOICES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def followed(count: int, relation: str, wanted: int) -> bool:
    return count < wanted if relation == "less than" else count >= wanted


def occurrences(word: str, text: str, *, whole: bool) -> int:
    """In any case; whole: with no letter, digit or underscore before or behind it."""
    pattern = re.escape(word)
    return len(re.findall(rf"(?<!\w){pattern}(?!\w)" if whole else pattern, text, re.IGNORECASE))


@functools.lru_cache(maxsize=4096)
def language_of(text: str) -> str | None:
    """A code such as en or zh-cn; None where there is nothing to tell by."""
    from langdetect import DetectorFactory, LangDetectException, detect

    DetectorFactory.seed = 0
    try:
        return str(detect(text))
    except LangDetectException:
        return None


def is_in(language: str, text: str, mended: bool) -> bool:
    found = language_of(text)
    return not mended if found is None else found == language


# -- sentences and words -------------------------------------------------------------------------

# Marks that may end a sentence, and what closes behind them.
_SENTENCE_END = re.compile(r"(?<![.!?…])([.!?…]++)[\"'”’)\]}]*+(?=\s|\Z|[*_:;@({\[])")
_ABBREVIATIONS = {
    "mr", "mrs", "ms", "dr", "prof", "st", "mt", "sr", "jr", "rev", "gen", "col", "lt", "sgt",
    "capt", "hon", "gov", "sen", "rep", "vs", "no", "vol", "pp", "fig", "dept", "inc", "ltd", "co",
    "corp", "est", "approx", "e.g", "i.e", "etc", "al", "cf", "ca", "u.s", "u.k", "a.m", "p.m",
    "ph.d",
}  # fmt: skip
_INITIAL = re.compile(r"[A-Za-z]")
_ITEM = re.compile(r"[0-9]{1,3}")  # "1." begins an item of a list


def sentences(text: str, mended: bool) -> int:
    count, start, whole = 0, 0, text.rstrip()
    for match in _SENTENCE_END.finditer(whole):
        before = whole[max(start, match.start() - 24) : match.start()]
        word, marks = re.split(r"\s", before)[-1].lstrip("\"'“‘([*_-").lower(), match[1]
        if match.end() == len(whole):
            ends = True
        elif marks in ("...", "…"):
            ends = not re.match(r"\s+[a-z]", whole[match.end() : match.end() + 9])
        elif marks == ".":
            item = mended and _ITEM.fullmatch(word)
            ends = not (word in _ABBREVIATIONS or _INITIAL.fullmatch(word) or item)
        else:
            ends = True
        if ends:
            count += _is_sentence(whole[start : match.end()], mended)
            start = match.end()
    return count + _is_sentence(whole[start:], mended)


def _is_sentence(text: str, mended: bool) -> bool:
    return bool(re.search(r"\w", text) if mended else text.strip())


def capitals(text: str) -> int:
    words = re.split(r"[\s,;:!?()\[\]{}<>\"“”*#|…]+|--+|[–—]", text)
    return sum(word.isupper() for word in words)


# -- the rules -----------------------------------------------------------------------------------


def existence(text: str, mended: bool, *, keywords: Sequence[str]) -> bool:
    return all(occurrences(word, text, whole=mended) for word in keywords)


def frequency(text: str, mended: bool, *, keyword: str, frequency: int, relation: str) -> bool:
    return followed(occurrences(keyword, text, whole=mended), relation, frequency)


def forbidden_words(text: str, mended: bool, *, forbidden_words: Sequence[str]) -> bool:
    return not any(occurrences(word, text, whole=True) for word in forbidden_words)


def letter_frequency(
    text: str, mended: bool, *, letter: str, let_frequency: int, let_relation: str
) -> bool:
    return followed(text.lower().count(letter.lower()), let_relation, let_frequency)


def response_language(text: str, mended: bool, *, language: str) -> bool:
    return is_in(language, text, mended)


def number_sentences(text: str, mended: bool, *, num_sentences: int, relation: str) -> bool:
    return followed(sentences(text, mended), relation, num_sentences)


def number_words(text: str, mended: bool, *, num_words: int, relation: str) -> bool:
    return followed(len(re.findall(r"\w+", text)), relation, num_words)


def number_paragraphs(text: str, mended: bool, *, num_paragraphs: int) -> bool:
    """Parted by ``***``; empty ones are passed over at both ends and wrong between."""
    parts = text.split("***")
    filled = [bool(part.strip()) for part in parts]
    return all(filled[1:-1]) and sum(filled) == num_paragraphs


def nth_paragraph_first_word(
    text: str, mended: bool, *, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    """Parted by two line breaks. The authors' word ends at the first of ``.,?!'"``."""
    parts = text.split("\n\n")
    filled = [part for part in parts if part.strip()]
    if len(filled) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    chosen = (filled if mended else parts)[nth_paragraph - 1]
    if mended:
        found = re.search(r"\w+(?:['’-]\w+)*", chosen)
        return found is not None and found[0].lower() == first_word.lower()
    words = chosen.split()
    word = words[0].lstrip("'").lstrip('"') if words else ""
    return re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower() != ""


def number_placeholders(text: str, mended: bool, *, num_placeholders: int) -> bool:
    # Each bracket is read to its end or that of its line, so that many open ones take no time.
    found = re.findall(r"\[[^\n\]]*+(\]?)", text)
    return sum(map(bool, found)) >= num_placeholders


def postscript(text: str, mended: bool, *, postscript_marker: str) -> bool:
    """The markers of the data are P.S. and P.P.S; blanks may stand between their letters."""
    letters = [letter for letter in postscript_marker.lower() if letter not in ". "]
    if set(letters) != {"p", "s"}:
        pattern = re.escape(postscript_marker.lower())
    else:  # P.S. is written with its last stop, P.P.S may be without
        pattern = r"\.\s?".join(letters) + (r"\." if len(letters) == 2 else "")
    if mended:
        pattern = rf"^[^\w\n]*{pattern}\W*\w"
    return re.search(pattern, text.lower(), re.MULTILINE) is not None


def number_bullet_lists(text: str, mended: bool, *, num_bullets: int) -> bool:
    if mended:
        return len(re.findall(r"^[ \t]*[*-][ \t]+[^\s*-]", text, re.MULTILINE)) == num_bullets
    lines = [line.strip() for line in text.splitlines()]
    return sum(line[:1] == "-" or bool(re.match(r"\*[^*]", line)) for line in lines) == num_bullets


def constrained_response(text: str, mended: bool) -> bool:
    found = sum(choice in text for choice in CHOICES)
    return found == 1 if mended else found > 0


def number_highlighted_sections(text: str, mended: bool, *, num_highlights: int) -> bool:
    if mended:
        marked = re.findall(r"(?<![*\\])(\*{1,3})(?=[^\s*])[^*\n]*(?<=[^\s*])\1(?!\*)", text)
        return len(marked) >= num_highlights
    once = re.findall(r"\*([^*\n]*)\*", text)
    twice = re.findall(r"\*\*([^*\n]*)\*\*", text)
    return sum(bool(inside.strip()) for inside in once + twice) >= num_highlights


def multiple_sections(text: str, mended: bool, *, section_spliter: str, num_sections: int) -> bool:
    """The heading and a number, anywhere: "Section 1". More of them are right, too."""
    return len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", text)) >= num_sections


def json_format(text: str, mended: bool) -> bool:
    """Any JSON value, alone or in a fence."""
    inside = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        inside = inside.removeprefix(fence)
    try:
        json.loads(inside.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str, mended: bool) -> bool:
    """From the first ``<<`` of a line to its last ``>>``."""
    inside = (line.partition("<<")[2].rpartition(">>")[0] for line in text.split("\n"))
    return any(some.lstrip("<").rstrip(">").strip() for some in inside)


def two_responses(text: str, mended: bool) -> bool:
    """Two that differ, parted by six asterisks; nothing may be empty but before and behind."""
    parts = [part.strip() for part in text.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def repeat_prompt(text: str, mended: bool, *, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, mended: bool, *, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str, mended: bool) -> bool:
    inside = text.strip()
    pairs = ('""', "“”") if mended else ('""',)
    return len(inside) > 1 and inside[0] + inside[-1] in pairs


def english_capital(text: str, mended: bool) -> bool:
    return text.isupper() and is_in("en", text, mended)


def english_lowercase(text: str, mended: bool) -> bool:
    return text.islower() and is_in("en", text, mended)


def capital_word_frequency(
    text: str, mended: bool, *, capital_frequency: int, capital_relation: str
) -> bool:
    return followed(capitals(text), capital_relation, capital_frequency)


def no_comma(text: str, mended: bool) -> bool:
    return not any(comma in text for comma in (",，、،" if mended else ","))


RULES: dict[str, Callable[..., bool]] = {
    "keywords:existence": existence,
    "keywords:frequency": frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
}
