"""Loops and noise: a case table with reasons, what must not be flagged, and its cost."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
import string
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corrsteer.scorers.degenerate import degenerate

LOOP, NOISE = "repetition", "gibberish"
REFUSAL = "I'm sorry, but I can't help with that. "
SENTENCE = "The old man took the box from the shelf and put it on the table. "

CASES = [
    ("the the the the", LOOP, "one word"),
    ("The, the THE the.", LOOP, "case and marks do not count"),
    ("take " * 24, LOOP, "one word up to the token limit"),
    ("He said that he would be " + "there " * 12, LOOP, "a loop after a good start"),
    ("is it is it is it is it", LOOP, "two words"),
    (SENTENCE * 3, LOOP, "one sentence three times"),
    (SENTENCE + "So it is. " * 8, LOOP, "a short sentence to the end"),
    ("I do not know.\n" * 5, LOOP, "a line"),
    (REFUSAL * 4, LOOP, "a refusal that does not stop"),
    ("y y y y y y but but but but but but", LOOP, "two loops together"),
    ("too too to too to to too to too too too to " * 3, LOOP, "two words in any order"),
    ("hahahahahahahaha", LOOP, "within a word"),
    ("Aaaaaaaaaaaaaaaaaaaaaaa", LOOP, "one letter"),
    ("bells" + "C" * 30 + " do" + "C" * 30, LOOP, "runs of one letter"),
    ("." * 24, LOOP, "one sign"),
    ("!?" * 12, LOOP, "two signs"),
    ("2" * 64, LOOP, "one digit"),
    ("4 " * 24, LOOP, "one number"),
    ("我" * 20, LOOP, "one character of a script without spaces"),
    ("我不知道。" * 8, LOOP, "a sentence of such a script"),
    ("ไม่รู้" * 10, LOOP, "in Thai"),
    ("да " * 10, LOOP, "a word in another script"),
    ("😀" * 20, LOOP, "one sign, a picture"),
    ("\ufffd" * 20, LOOP, "bytes that are no text"),
    ("xq zvv ##$% kjq", NOISE, "letters and signs thrown together"),
    ("wqkj zxcv bvnq qpwx jkzx", NOISE, "letters alone"),
    ("a#K@;q%z~Q&x!#b@Z;;%&#kq", NOISE, "characters without spaces"),
    ("fJ2k%Qz #vB;xK &pLq ~Zw@j", NOISE, "characters with spaces"),
    (
        "\ufffdta\ufffd\x0bng\ufffd or\ufffdl\x07 c\ufffd",
        NOISE,
        "broken characters between letters",
    ),
    ("wordслово мирpeace домhouseкот pяbюc", NOISE, "scripts mixed within words"),
    ("", None, "nothing at all"),
    (" \n\t ", None, "spaces alone are no loop"),
    ("B", None, "a letter"),
    ("42", None, "a number"),
    ("####", None, "a marker of an answer"),
    ("#### 42", None, "and the answer"),
    ("-3/4", None, "a fraction"),
    ("no no", None, "said twice"),
    ("No, no, no!", None, "said three times"),
    (REFUSAL, None, "a refusal"),
    (REFUSAL * 2, None, "a refusal said twice"),
    (REFUSAL * 3, None, "and three times"),
    ("It was a very, very, very big dog.", None, "emphasis"),
    ("Ha ha ha! That is funny.", None, "laughter"),
    ("Aaargh!", None, "a cry"),
    ("10000000000000000000000", None, "a large number"),
    ("1,000,000,000,000,000,000", None, "with commas"),
    ("0.333333333333333333", None, "a long decimal"),
    ("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12", None, "a list of numbers"),
    ("3, 3, 3, 3, 5, 3", None, "a list of one number"),
    ("[[1, 0, 0], [0, 1, 0], [0, 0, 1]]", None, "a matrix"),
    ("0110100110010110", None, "binary digits"),
    ("2 * 2 * 2 * 2 * 2 * 2 = 64", None, "a product"),
    ("3x^2 + 2xy - y^2 = (3x - y)(x + y)", None, "algebra"),
    (r"$\frac{1}{2}\mathrm{~J} \mathrm{~K}^{-1} \mathrm{~mol}^{-1}$", None, "LaTeX"),
    ("~(S & T) > (~C v ~D)", None, "logic"),
    ("(∀x)[(Hx • Bx) ⊃ Mx]", None, "logic in other signs"),
    ("HCl(aq) + NaOH(aq) → NaCl(aq) + H2O(l)", None, "chemistry"),
    ("km, kg, mm, cm, dl, kHz, MHz, mW, kWh", None, "units"),
    ("NATO, UNESCO, BBC, CNN, PhD, TV, SQL", None, "abbreviations"),
    ("He has 3 bags of 4: 3 * 4 = <<3*4=12>>12. So 12.\n#### 12", None, "a worked sum"),
    ("| a | b |\n|---|---|\n| 1 | 2 |", None, "a table"),
    ("Answer\n============\nIt is 42.", None, "a heading"),
    ("1. Yes\n2. Yes\n3. Yes\n4. Yes\n5. No", None, "numbered answers"),
    ("A. ropes\nB. ropes\nC. ropes\nE. ropes", None, "lettered ones"),
    ("if (a && b || !c) { return x ? y : z; }", None, "code"),
    ("let getElementById = (fooBar, bazQux) => fooBar?.bazQux ?? null;", None, "camel case"),
    ("def f(x):\n    return [i % 2 for i in x if i != 0]", None, "Python"),
    ("Use `A`, `B`, `C` or `D`, not `E` or `F`.", None, "code in Markdown"),
    ("https://example.org/a/b-c?x=1&y=%20z#top", None, "an address"),
    ("jane.doe@example.org", None, "an e-mail address"),
    ("3f2a9c1e-7b4d-4e0f-9a6b-1c2d3e4f5a6b", None, "a hexadecimal id"),
    ("Zbigniew Brzeziński, Krzysztof Szczęsny", None, "Polish names"),
    ("Čtvrtek: strč prst skrz krk.", None, "Czech without vowels"),
    ("Rechtsschutzversicherungsgesellschaften", None, "a long German word"),
    ("Llanfairpwllgwyngyll", None, "Welsh"),
    ("Xhosa: ixhwele liyagqweta ngcwaba", None, "Xhosa"),
    ("Qin Shi Huang, Xi Jinping, Zhuang Zhou", None, "pinyin"),
    ("北京是中华人民共和国的首都，位于华北平原北部。", None, "Chinese"),
    ("使用Python编写代码，使用GPU训练模型。", None, "Chinese with Latin words"),
    ("القاهرة هي عاصمة جمهورية مصر العربية", None, "Arabic"),
    ("दिल्ली भारत की राजधानी और एक महानगर है।", None, "Hindi"),
    ("東京は日本の首都であり、世界最大の都市の一つです。", None, "Japanese"),
    ("Москва — столица России, город на реке.", None, "Russian"),
    ("Hello, Привет, 你好, مرحبا, नमस्ते, שלום", None, "a word in many languages"),
    ("Δx = 3 μm, πr², αβ", None, "Greek letters in formulas"),
    (
        "Row, row, row your boat,\nGently down the stream.\nMerrily, merrily, merrily, merrily,\n"
        "Life is but a dream.",
        None,
        "a song",
    ),
    (
        "The wind is low, the night is long,\nO come away with me.\nThe moon is up, I hear a song,"
        "\nO come away with me.\nThe boat is tied, the tide is strong,\nO come away with me.",
        None,
        "a refrain",
    ),
    ("Colourless green ideas sleep furiously on the roof.", None, "wrong: fluent nonsense"),
    ("roof gave wine the until Corve stood llama keep", None, "wrong: a salad of words"),
    (
        "One cat sat down. Two cats sat down. Three cats sat. Four cats sat down.",
        None,
        "a loop that varies",
    ),
    ("['Hi!', 'Hi!', 'Hi!', 'Hi!']", LOOP, "wrong: a list of one word"),
    ("VGhpcyBpcyBub3QgdGV4dCBidXQgYmFzZTY0", NOISE, "wrong: an encoded string"),
    ("pApGpCpGpGpUpGpOH, pCpGpApUpGpU", None, "capitals within names"),
]


@pytest.mark.parametrize(("text", "kind", "why"), CASES, ids=[why for *_, why in CASES])
def test_degenerate(text, kind, why):
    assert degenerate(text) == kind


def test_the_table_has_enough_of_each_kind():
    kinds = [kind for _, kind, _ in CASES]
    assert min(kinds.count(LOOP), kinds.count(NOISE), kinds.count(None)) >= 6
    assert len({text for text, *_ in CASES}) == len(CASES) >= 40


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_no_text_surprises_it(text):
    assert degenerate(text) in (None, LOOP, NOISE)
    assert degenerate(text * 50) in (None, LOOP, NOISE)


@given(
    st.lists(st.sampled_from(SENTENCE.split()), min_size=1, max_size=20),
    st.integers(64, 128),
)
@settings(max_examples=100, deadline=None)
def test_a_unit_of_words_repeated_to_the_end_is_found(unit, length):
    copies = -(-length // len(unit))
    assert degenerate(" ".join(unit * max(copies, 4))) == LOOP


def test_random_characters_are_found():
    rng = random.Random(0)
    printable = [c for c in string.printable if c.isprintable()]
    for alphabet, least in ((printable, 0.9), (string.ascii_lowercase, 0.95)):
        texts = ["".join(rng.choices(alphabet, k=100)) for _ in range(200)]
        assert sum(degenerate(text) is not None for text in texts) >= least * len(texts)


@pytest.mark.parametrize(
    "text",
    [
        "a b " * 250_000,
        "x" * 1_000_000,
        "我" * 1_000_000,
        "\0" * 1_000_000,
        " ".join(random.Random(0).choices("abc", k=500_000)),
        "".join(map(chr, random.Random(0).choices(range(0x20, 0x3000), k=1_000_000))),
        ("abcdefghijklmnopqrstuvwxyz0123456789ABC" * 4 + "!") * 6_000,
    ],
    ids=["two words", "x", "chinese", "null", "three words", "any", "just too few copies"],
)
def test_a_megabyte_takes_no_longer_than_its_end(text):
    start = time.perf_counter()
    kind = degenerate(text)
    assert time.perf_counter() - start < 5  # 0.4 s here: generous, the machine is shared
    assert kind == degenerate(text[-20_000:])


# -- real text: nothing of it may be flagged ------------------------------------------------------


def words_of(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\S+", text)]


def real_texts(data: Path) -> Iterator[tuple[str, list[str]]]:
    novels = sorted((data / "corpus" / "english_novels").glob("*.gz"))[::4]
    for name, files in (("novels", novels), ("gsm8k", [data / "gsm8k" / "train.jsonl.gz"])):
        texts = [gzip.decompress(file.read_bytes()).decode() for file in files]
        if name == "gsm8k":
            rows = [json.loads(line) for line in texts[0].splitlines()]
            texts = [row[key] for row in rows for key in ("question", "answer")]
        else:
            texts = [text[at : at + 1500] for text in texts for at in range(0, len(text), 10_000)]
        yield name, texts
    yield "stories", json.loads((data / "corpus/tinystories/tinystories_1000.json").read_text())
    for name, file, column in (
        ("simpleqa", "simpleqa/simple_qa_test_set.csv", "true_answer"),
        ("harmbench", "harmbench/harmbench_behaviors_text_all.csv", "Behavior"),
        ("xstest", "xstest/xstest_prompts.csv", "prompt"),
    ):
        with (data / file).open(encoding="utf-8", newline="") as lines:
            yield name, [row[column] for row in csv.DictReader(lines)]
    mmlu = []
    for file in sorted((data / "mmlu").glob("*/*.csv*")):
        raw = file.read_bytes()  # type: ignore[attr-defined]
        text = (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode()  # type: ignore[attr-defined]
        mmlu += [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    yield "mmlu", mmlu


@pytest.mark.night
@pytest.mark.long
def test_real_text_is_hardly_ever_flagged(shared):
    """Under 0.1 % of whole texts and of pieces of 5 to 200 words, of each source."""
    rng = random.Random(0)
    for name, texts in real_texts(shared / "data"):
        picked = [str(text) for text in rng.sample(texts, min(len(texts), 400))]
        pieces = list(picked)
        for text in picked:
            spans = words_of(text)
            length = rng.choice([5, 10, 20, 50, 100, 200])
            if spans:
                at = rng.randrange(max(1, len(spans) - length + 1))
                pieces.append(text[spans[at][0] : spans[min(at + length, len(spans)) - 1][1]])
        flagged = [piece for piece in pieces if degenerate(piece)]
        assert len(pieces) > 300, name
        assert len(flagged) <= len(pieces) / 1000, (name, flagged[:5])
