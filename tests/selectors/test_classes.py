"""The rule on made-up contexts, each with the reason it is what it is; the file; the filter."""

from __future__ import annotations

import re

import pytest

from corrsteer.errors import DataError
from corrsteer.records import CLASSES, RankedFeature
from corrsteer.selectors.classes import (
    Hand,
    Shared,
    Verdict,
    classify,
    counts,
    named,
    of_classes,
    overruled,
    read_classes,
    shared,
)

QUIET = Shared[str]((), (" we", " saw"))
TEMPLATE = Shared[str]((("\n", "Question"), ("Answer", ":"), (" question", " carefully")), ())


def context(text: str, **more: float) -> dict:
    """Tokens are divided by ``|``. ``*`` marks the strongest, with activation 10; one that is
    named gets the activation of its name: ``context("*the|mill", mill=4)``."""
    tokens = text.split("|")
    peak = next(i for i, t in enumerate(tokens) if "*" in t)
    tokens = [t.replace("*", "") for t in tokens]
    acts = [more.get(t.strip(), 0.0) for t in tokens]
    acts[peak] = more.get("peak", 10.0)
    within = [True] * len(tokens)
    return {"tokens": tokens, "activations": acts, "within": within, "peak": peak}


def each(*texts: str, n: int = 8, **more: float) -> list[dict]:
    """``n`` contexts, the texts in turn."""
    return [context(texts[i % len(texts)], **more) for i in range(n)]


def on(*tokens: str, n: int = 8) -> list[dict]:
    return each(*(f" we| saw|*{token}| then" for token in tokens), n=n)


PLACES = ("mill", "ferry", "harbour", "bridge", "market", "tower", "garden", "chapel")

CASES = [
    # (contexts, what the texts share, class, words of the reason, why it should be so)
    (each(" it|\n|Answer|*:| A"), TEMPLATE, "structural", "':' in a fixed place", "template"),
    (each(" it|\n|Answer|*:| A"), QUIET, "structural", "':' 100 %", "punctuation anyway"),
    (each(" it|\n|*Answer|:| A"), TEMPLATE, "structural", "in a fixed place", "a word, but of it"),
    (each(" it|\n|*Answer|:| A"), QUIET, "semantic", "answer", "a word where nothing is shared"),
    (each(".|\n|*Question|:| who"), TEMPLATE, "structural", "fixed", "recognised by its left"),
    (on("\n"), QUIET, "structural", r"'\n' 100 %", "line breaks"),
    (on("\n\n", "  ", "\t"), QUIET, "structural", r"'\n\n'", "white space of all kinds"),
    (on(".", ",", ";", "!?", "…", "“", "—"), QUIET, "structural", "on form", "punctuation"),
    (on(" +", " =", "$", "|", "```"), QUIET, "structural", "on form", "signs"),
    (each(" :|*| A|\n"), QUIET, "structural", "on form", "an empty token"),
    (on(" B"), QUIET, "structural", "' B' 100 %", "an option letter"),
    (on(" A", " B", " C", " D"), QUIET, "structural", "' A' 25 %", "option letters"),
    (on(" ß", " é", " Ж"), QUIET, "structural", "on form", "letters of other alphabets"),
    (on(" 1", " 2", " 1984", " 07"), QUIET, "structural", "on form", "digits"),
    (on("<s>", "<|im_end|>", "</s>", "[INST]", "<0xCC>"), QUIET, "structural", "<s>", "special"),
    (each(" in| 2|*0|24|."), QUIET, "structural", "'0'", "part of a number"),
    (on(" carefully"), QUIET, "semantic", "carefully 100 %", "one word"),
    (
        each(" the| question|* carefully| and"),
        TEMPLATE,
        "structural",
        "' carefully' in a fixed place",
        "a word of the instruction in every prompt",
    ),
    (on(" careful", " carefully", " careless"), QUIET, "semantic", "careful", "related words"),
    (on(" Knife", " knife", " KNIVES"), QUIET, "semantic", "knife", "case does not matter"),
    (on(" dog", " dogs"), QUIET, "semantic", "dog", "nor does a plural"),
    (each(" be| care|*fully| now", " with| *care|fully| so"), QUIET, "semantic", "carefully 100 %",
     "pieces of a word"),
    (each(" the| *H|ollow|fen| folk"), QUIET, "semantic", "hollowfen", "its first letter is none"),
    (on(" mill", " ferry", " bridge"), QUIET, "semantic", "mill 38 %", "three words"),
    (on(*3 * [" mill"], " ferry", " bridge", " tower", " market", " garden"), QUIET, "unclear",
     "different ones", "no word holds half, and three of them less than 80 %"),
    (on(" mill", " mill", " ferry", " mill", " tower", " mill", " market", " mill"), QUIET,
     "semantic", "mill", "five of eight are one word"),
    (on(*(f" {p}" for p in PLACES)), QUIET, "unclear", "different ones", "many words"),
    (each(*(f" near| the| river|,| the|* {p}|." for p in PLACES)), QUIET, "semantic",
     "soon after 'river'", "many words in one kind of place"),
    (each(*(f" near| the| river|,| the|* {p}|." for p in PLACES)), Shared((), (" river",)),
     "unclear", "different ones", "the word before is in many texts anyway"),
    (each(*(f"\n|Question| of|* {p}|." for p in PLACES)), TEMPLATE, "unclear", "different ones",
     "the word before is of the template"),
    (each(*(f" river|{'| so' * 9}|* {p}" for p in PLACES)), QUIET, "unclear", "different ones",
     "the word before is too far away"),
    (on(" the"), QUIET, "unclear", "function words (the", "an article is neither"),
    (on(" not"), QUIET, "semantic", "not", "a negation means something"),
    (on(" she"), QUIET, "semantic", "she", "so does a pronoun"),
    (each("*:|mill|ferry", mill=9, ferry=9), QUIET, "unclear", "on form", "a third form"),
    (each("*:| mill", mill=4.9), QUIET, "structural", "':' 100 %", "weak activations do not count"),
    (each("*:| mill", mill=6), QUIET, "unclear", "62 % on form", "10 of 16 is no dominant share"),
    (each(*4 * [" a|*:| b"], " so|* mill", n=5), QUIET, "structural", "80 % on form", "4 of 5"),
    (each(*4 * [" a|*:| b"], " so|* mill", n=5)[::-1][:4] * 2, QUIET, "unclear", "75 %", "3 of 4"),
    (each(" we|*.", peak=30.0, n=4) + on(" mill", n=4), QUIET, "unclear", "75 % on form",
     "a context weighs as much as its peak"),
    (each(" we|*.", peak=90.0, n=4) + on(" mill", n=4), QUIET, "structural", "90 % on form",
     "the strong ones decide"),
    (each(" a|*.|.|.|.|.|.", **{".": 10.0}, n=4) + on(" mill", n=4), QUIET, "unclear", "50 % on",
     "six places in a context count as one"),
    (on(" 狗"), QUIET, "semantic", "狗", "one sign can be a word"),
    (each("我|看|*狗|了", "他|有|*狗|吗"), QUIET, "semantic", "狗 100 %", "no spaces, but tokens"),
    (on(" carefully", n=4), QUIET, "unclear", "only 4 samples", "too few"),
    ([], QUIET, "unclear", "only 0 samples", "none"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("contexts", "texts", "kind", "why", "reason"), CASES, ids=[f"{c[2]}: {c[4]}" for c in CASES]
)
def test_the_rule(contexts, texts, kind, why, reason):
    found = classify(contexts, texts)
    assert found.kind == kind, found
    assert why in found.why
    assert "\n" not in found.why


def test_only_what_was_pooled_decides_the_class():
    """The first word of a prompt is stronger than the answer, and says nothing of the feature."""
    first, *rest = "*What| is| it| like|?| no|thing"[1:].split("|")
    seen = {"tokens": [first, *rest], "activations": [631.0, 0, 0, 0, 0, 13.0, 12.0]}
    answer = {**seen, "within": [False] * 5 + [True] * 2, "peak": 5}
    whole = {**seen, "within": [True] * 7, "peak": 0}
    places = Shared((("What", " is"),), ())
    assert classify([answer] * 8, places) == ("semantic", "100 % on content words: nothing 100 %")
    assert classify([whole] * 8, places).kind == "structural"


def test_there_are_cases_of_all_classes():
    assert len(CASES) >= 25
    assert {kind for _, _, kind, _, _ in CASES} == set(CLASSES)


def test_the_template_is_what_nearly_all_texts_share():
    texts = [
        ["\n", "Question", ":", f" word{i}", " river", "\n", "Answer", ":", f" {'AB'[i % 2]}"]
        for i in range(18)
    ]
    texts += [[" nothing", ":", " of", " it"], ["Answer", " is"]]
    found = shared(texts)
    assert found.places == {
        ("\n", "Question"), ("Question", ":"), (" river", "\n"), ("\n", "Answer"), ("Answer", ":"),
    }  # fmt: skip
    assert found.common == {"\n", "Question", ":", " river", "Answer", " A", " B"}
    assert shared([]) == Shared(frozenset(), frozenset())
    ids = [[ord(t[0]) for t in text] for text in texts]  # any kind of token will do
    assert (ord("A"), ord(":")) in shared(ids).places


def test_a_token_is_listed_once():
    tokens, texts = ["\n", "Answer", ":", " (", ":"], Shared[str]((("Answer", ":"),), ())
    context = {"tokens": tokens, "activations": [0, 0, 3, 0, 2], "within": [True] * 5, "peak": 2}
    found = classify([context] * 20, texts)
    assert found.why == "100 % on form: ':' in a fixed place 100 %"


# -- by hand -----------------------------------------------------------------------------------

GOOD = (
    "sae,layer,feature,class,by,why\n"
    "s/0,0,505,structural,rule,\"on form: ':' 90 %, '\\n'\"\n"
    "s/0,0,7, semantic ,hand,\n"
    "\n"
    "t/1,1,505,unclear,rule,x\n"
)


def test_a_file_of_a_run_can_be_read_again(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("\ufeff" + GOOD, encoding="utf-8")
    assert read_classes(str(file)) == {
        ("s/0", 505): Hand("structural", ""),
        ("s/0", 7): Hand("semantic", ""),
        ("t/1", 505): Hand("unclear", ""),
    }
    file.write_text("note,class,feature,sae\r\nabout knives,semantic,12,s/0\r\n" * 1)
    assert read_classes(str(file)) == {("s/0", 12): Hand("semantic", "about knives")}


def test_only_the_default_file_may_be_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_classes(None) == {} == read_classes("classes.csv")
    (tmp_path / "classes.csv").write_text("sae,feature,class\ns/0,1,unclear\n")
    assert list(read_classes("classes.csv")) == [("s/0", 1)]
    assert read_classes(None) == {}
    for path in ("./classes.csv.old", str(tmp_path)):
        with pytest.raises(DataError, match=r"no such file; .* type classes=null"):
            read_classes(path)
    (tmp_path / "classes.csv").unlink()
    (tmp_path / "classes.csv").mkdir()
    with pytest.raises(DataError, match="no such file"):
        read_classes("classes.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column sae, feature, class"),
        ("sae;feature;class\ns;1;unclear\n", "line 1: no column .*separated by commas"),
        ("sae,feature,kind\ns,1,unclear\n", "line 1: no column class"),
        ("sae,feature,class\ns,1,semantik\n", r"line 2: class 'semantik' .*did you mean semantic"),
        ("sae,feature,class\ns,1,\n", "line 2: class '' .*use structural, semantic, unclear"),
        ("sae,feature,class\ns,1,Semantic\n", "did you mean semantic"),
        (
            "sae,feature,class\ns,one,unclear\n",
            "line 2: the feature must be a whole number such as 505, not 'one'",
        ),
        (
            "sae,feature,class\ns,-1,unclear\n",
            "line 2: the feature must be a whole number such as 505, not '-1'",
        ),
        (
            "sae,feature,class\ns,1.0,unclear\n",
            "line 2: the feature must be a whole number such as 505, not '1.0'",
        ),
        ("sae,feature,class\n,1,unclear\n", "line 2: the column sae is empty"),
        ("sae,feature,class\ns,1\n", "line 2: 2 cells under 3 columns"),
        ("sae,feature,class,note\ns,1,unclear,a, b\n", "line 2: 5 cells under 4 columns"),
        ("sae,feature,class\n\ns,1,unclear\ns,1,semantic\n", "line 4: .* unclear in line 3"),
        ('sae,feature,class\ns,1,"unclear\n', "is not a CSV file"),
        (b"sae,feature,class\n\xff\xfe,1,unclear\n", "is not a CSV file.*UTF-8"),
    ],
)
def test_a_wrong_file_is_one_line_that_says_where(tmp_path, text, message):
    file = tmp_path / "classes.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as caught:
        read_classes(str(file))
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_the_same_row_twice_is_no_contradiction(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("sae,feature,class\n" + 2 * "s,1,unclear\n")
    assert len(read_classes(str(file))) == 1


def test_a_class_by_hand_overrules_the_rule():
    rule = Verdict("structural", "on form")
    assert overruled(rule, None) == {
        "class": "structural", "class_by": "rule", "class_why": "on form",
    }  # fmt: skip
    found = overruled(rule, Hand("semantic", "about thieves"))
    assert (found["class"], found["class_by"]) == ("semantic", "hand")
    assert re.fullmatch(r"about thieves \(the rule: structural, on form\)", found["class_why"])


# -- as a filter -------------------------------------------------------------------------------


def feature(layer: int, rank: int, kind: str) -> RankedFeature:
    number = 100 * layer + rank
    return RankedFeature(  # type: ignore[call-arg]
        layer, rank, number, 0.5, 0.1, *8 * [1.0], 0.01, stability=rank / 10, kind=kind
    )


RANKED = [
    feature(0, 1, "structural"),
    feature(0, 2, "semantic"),
    feature(0, 3, "unclear"),
    feature(0, 4, "semantic"),
    feature(2, 1, "structural"),
    feature(3, 1, "semantic"),
]


def test_other_classes_are_left_out_and_ranks_start_again():
    kept = of_classes(RANKED, ["semantic"])
    assert [(f.layer, f.rank, f.feature) for f in kept] == [(0, 1, 2), (0, 2, 4), (3, 1, 301)]
    assert [f.stability for f in kept] == [0.2, 0.4, 0.1]  # as the selector computed it
    kept = of_classes(RANKED, ["unclear", "structural"])
    assert [(f.layer, f.rank, f.feature) for f in kept] == [(0, 1, 1), (0, 2, 3), (2, 1, 201)]
    assert of_classes(RANKED, CLASSES) == tuple(RANKED)


def test_nothing_left_says_what_there_is_and_what_to_type():
    some = [f for f in RANKED if f.kind != "semantic"]
    with pytest.raises(DataError) as caught:
        of_classes(some, ["semantic"])
    assert str(caught.value) == (
        "selector.classes=[semantic]: none of the 3 ranked features is left (2 structural, 1"
        " unclear); type selector.classes=[structural,unclear], a larger selector.top_k, or your"
        " own classes in classes.csv"
    )


def test_features_are_named_by_their_cards():
    plain = [feature(0, 1, ""), feature(1, 1, "")]
    found = named(plain, [{"layer": 1, "feature": 101, "class": "unclear"}])
    assert [f.kind for f in found] == ["", "unclear"]
    assert counts(RANKED) == "2 structural, 3 semantic, 1 unclear"
