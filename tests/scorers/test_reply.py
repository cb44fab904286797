"""What of a text is its answer, and that every scorer reads that and no more."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrsteer.records import Example
from corrsteer.scorers import refusal_classifier, semantic
from corrsteer.scorers.choice import Choice
from corrsteer.scorers.contains import Contains
from corrsteer.scorers.exact import Exact
from corrsteer.scorers.numeric import Numeric
from corrsteer.scorers.refusal import Refusal
from corrsteer.scorers.regex import Regex
from corrsteer.scorers.reply import reply, spoken
from corrsteer.scorers.token_f1 import TokenF1
from corrsteer.scorers.words import Words

BIG = 100_000

SPOKEN = [
    ("B", "B", "nothing thought"),
    ("<think>It could be A.</think>\n\nB", "\n\nB", "a block before the answer"),
    ("<think>\n</think>B", "B", "an empty block"),
    ("It could be A.</think>\n\nB", "\n\nB", "a block that the prompt opened"),
    ("<think>It could be A", "", "a block that was cut off"),
    ("<think>A</think>B<think>C", "", "a second block that was cut off"),
    ("<think>A</think>B<think>C</think>D", "BD", "two blocks"),
    ("B <think>or A?</think>", "B ", "a block behind the answer"),
    ("<think>the tag <think> is odd</think>B", "B", "a block that speaks of its tag"),
    ("<thinking>A</thinking>B", "B", "another name"),
    ("<reasoning>A</reasoning>B", "B", "a third one"),
    ("<THINK>A</Think>B", "B", "in capitals"),
    ("[THINK]A[/THINK]B", "B", "in square brackets"),
    ("[Thinking] aloud: B", "[Thinking] aloud: B", "a word in brackets is no tag"),
    ("I <i>think</i> B", "I <i>think</i> B", "other markup"),
    ("<|channel|>analysis<|message|>A<|end|><|channel|>final<|message|>B", "B", "two channels"),
    ("<|channel|>analysis<|message|>A, or", "", "the first channel cut off"),
    ("<think>A</think><answer>B</answer>", "B", "a marked answer"),
    ("<answer>A</answer> no, <answer>B", "B", "the last one, cut off behind it"),
    ("", "", "nothing"),
]
RUN_ON = [
    (" 18\nQuestion: Tom has 5 apples.", " 18\n", "a question on the next line"),
    (" 18 Question: Tom has 5 apples.", " 18 ", "on the same line"),
    ("18.\n\nQ: Tom has 5 apples.\nA: 5", "18.\n\n", "in short"),
    ("18\nProblem: Tom has 5.", "18\n", "a problem"),
    ("18\nProblem 2. Tom has 5.", "18\n", "a numbered one"),
    ("18\n**Question:** Tom has 5.", "18\n", "in bold"),
    ("18\n### Instruction:\nAdd 5.", "18\n", "an instruction"),
    ("18\nUser: and 5?", "18\n", "another turn"),
    ("18\nQuestion 2: and 5?", "18\n", "a number before the colon"),
    (" 18\nquestion: Tom has 5", " 18\n", "in lower case"),
    (" 18\nQUESTION: Tom has 5", " 18\n", "in capitals"),
    (" 18\n\nQuestion 2\nTom has 5", " 18\n\n", "a number alone on its line"),
    (" 18\nQuestion - Tom has 5", " 18\n", "a dash"),
    (" 18\n### Question\nTom has 5", " 18\n", "a heading"),
    (" 18\nInput: Tom has 5", " 18\n", "an input"),
    (" 18\nPrompt: Tom has 5", " 18\n", "a prompt"),
    (" 18<|im_end|>\n<|im_start|>user\nTom has 5", " 18", "the end of a turn"),
    (" 18\n<|im_start|>user\nTom has 5", " 18\n", "the user's turn"),
    (" 18\n<|user|>\nTom has 5", " 18\n", "the user's turn in short"),
    (" 18\n[INST] Tom has 5 [/INST]", " 18\n", "an instruction in brackets"),
    (" 18\n</s>\nTom 5", " 18\n", "the end of a sequence"),
    ("<|im_start|>assistant\n18", "<|im_start|>assistant\n18", "the model's own turn"),
    ("It is <s>5</s> 18", "It is <s>5</s> 18", "what is struck out"),
    ("Input: 5\nOutput: 18", "Input: 5\nOutput: 18", "its own input first"),
    ("[INST] 18", "[INST] 18", "a token that opens it"),
    ("It is\nQuestionable: 18", "It is\nQuestionable: 18", "a longer word"),
    ("It is\nQuestion time at 18", "It is\nQuestion time at 18", "a sentence of it"),
    ("Question: 9 + 9?\nAnswer: 18", "Question: 9 + 9?\nAnswer: 18", "its own question first"),
    ("\nQ: 9?\nA: 18\nQ: 5?", "\nQ: 9?\nA: 18\n", "and the next one behind it"),
    ("The question: is it 18?", "The question: is it 18?", "in a sentence"),
    ("Sales:\nQ1: 5\nQ2: 13\nSo 18", "Sales:\nQ1: 5\nQ2: 13\nSo 18", "quarters of a year"),
    ("No problem. It is 18", "No problem. It is 18", "a word of it"),
    ("<think>A\nQuestion: x</think>18\nQ: 5", "18\n", "after thinking"),
]


@pytest.mark.parametrize(("text", "said", "why"), SPOKEN, ids=[why for *_, why in SPOKEN])
def test_what_is_thought_is_not_said(text, said, why):
    assert spoken(text) == said


@pytest.mark.parametrize(("text", "said", "why"), RUN_ON, ids=[why for *_, why in RUN_ON])
def test_the_next_question_is_no_part_of_the_reply(text, said, why):
    assert reply(text) == said


class Alike:
    """Stands in for a scorer's model: a text's score says what the model was shown."""

    @staticmethod
    def semantic(self, pairs):
        return [float(right == text.strip()) for right, text in pairs]

    @staticmethod
    def classifier(self, texts):
        return [float("cannot" in text) for text in texts]


FREE = [
    (Choice(), Example("1", "p", "B", ("red", "blue")), "B", "A"),
    (Choice(reasoning=True), Example("1", "p", "B", ("red", "blue")), "The answer is B.", "A"),
    (Numeric(), Example("1", "p", "18"), "18", "7"),
    (Exact(), Example("1", "p", "Lund"), "Lund", "Rome"),
    (TokenF1(), Example("1", "p", "Lund"), "Lund", "Rome"),
    (Contains(), Example("1", "p", "Lund"), "It is Lund.", "Rome"),
    (Words(["glad"], ["sad"]), Example("1", "p", "wanted"), "He was glad.", "She was sad."),
    (Regex(r"(\d+)"), Example("1", "p", "18"), "18", "7"),
    (Refusal(), Example("1", "p", "comply"), "Sure, here it is.", "I cannot help with that."),
    (semantic.Semantic("m"), Example("1", "p", "Lund"), "Lund", "Rome"),
    (
        refusal_classifier.RefusalClassifier("m", "NO"),
        Example("1", "p", "comply"),
        "Sure, here it is.",
        "I cannot help with that.",
    ),
]
NAMES = [type(scorer).__name__ for scorer, *_ in FREE]


@pytest.fixture(autouse=True)
def models(monkeypatch):
    monkeypatch.setattr(semantic.Semantic, "_similarities", Alike.semantic)
    monkeypatch.setattr(refusal_classifier.RefusalClassifier, "_probabilities", Alike.classifier)


@pytest.mark.parametrize(("scorer", "example", "right", "wrong"), FREE, ids=NAMES)
def test_every_scorer_reads_the_reply_alone(scorer, example, right, wrong):
    plain = scorer(example, right)
    assert plain.value == 1
    for tag in ("think", "thinking", "reasoning"):
        assert scorer(example, f"<{tag}>\n{wrong}\n</{tag}>\n\n{right}") == plain
        cut_off = scorer(example, f"<{tag}>\n{right} {wrong}")
        assert (cut_off.value, cut_off.parsed) == (0, None)
    assert scorer(example, f"{wrong}\n</think>\n{right}") == plain
    if not isinstance(scorer, Regex):  # a pattern of one's own says itself where it ends
        assert scorer(example, f"{right}\n\nQuestion: who?\nAnswer: {wrong}").value == 1
        assert scorer(example, f"{right}\nQ: who?\nA: {wrong}").value == 1


PIECES = st.sampled_from(
    ["<think>", "</think>", "[THINK]", "<answer>", "</answer>", "<|channel|>final", "\n", " ",
     "Question:", "\nQ:", "B", "18", "Problem 2.", "<", "/"]
)  # fmt: skip
TEXT = st.one_of(st.text(), st.lists(PIECES).map("".join))


@given(TEXT)
def test_a_reply_is_part_of_the_text_and_has_no_tags(text):
    said = reply(text)
    assert len(said) <= len(text)
    assert "</think>" not in said and "[THINK]" not in said
    assert spoken(text).startswith(said)
    assert reply(said) == said or "<" in said  # a tag may be left where one stood within another


@given(TEXT, st.text(alphabet="ab 1\n"))
def test_what_was_thought_changes_nothing(thought, said):
    if not any(tag in thought.lower() for tag in ("<|channel|>", "</", "[/")):
        assert reply(f"<think>{thought}</think>{said}") == reply(f"x</think>{said}")


@pytest.mark.parametrize(
    "text",
    ["<think>" * BIG, "</think>" * BIG, "<think>x</think>" * BIG, "\nQ:" * BIG, "\nProblem 1" * BIG,
     "<answer>" * BIG, "<|channel|>a" * BIG, "\n" + " " * BIG, "Question " * BIG],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_a_long_text_takes_no_time(text):
    began = time.process_time()
    reply(text)
    assert time.process_time() - began < 3
