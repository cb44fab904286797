"""The right answers of real benchmark rows are right: what a case table does not think of."""

import collections
import csv
import gzip
import json

import pytest

from corrsteer.records import LETTERS, Example
from corrsteer.scorers.choice import Choice
from corrsteer.scorers.exact import Exact
from corrsteer.scorers.numeric import Numeric
from corrsteer.scorers.token_f1 import TokenF1

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", ["test.jsonl", "train.jsonl.gz"])
def test_every_worked_sum_of_gsm8k_is_read_right(shared, name):
    raw = (shared / "data" / "gsm8k" / name).read_bytes()
    text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode()
    answers = [json.loads(line)["answer"] for line in text.splitlines()]
    assert len(answers) > 1000
    for answer in answers:
        gold = answer.rsplit("####", 1)[1].strip()
        texts = [gold, answer]
        if name == "test.jsonl":
            texts += [f"The answer is {gold}.", f"\\boxed{{{gold}}}", f"so ${gold}"]
        for text in texts:
            score = Numeric()(Example("1", "p", gold), text)
            assert score.value == 1, (text, score)
            assert score.parsed == gold.replace(",", ""), answer


def test_every_answer_of_simpleqa_is_itself(shared):
    file = shared / "data" / "simpleqa" / "simple_qa_test_set.csv"
    with file.open(encoding="utf-8", newline="") as lines:
        answers = [row["true_answer"] for row in csv.DictReader(lines)]
    assert len(answers) > 3000
    wrong = [
        answer
        for answer in answers
        for scorer in (Exact(), TokenF1())
        if scorer(Example("1", "p", answer), answer).value != 1
    ]
    assert wrong == []


def mmlu(shared):
    for file in sorted((shared / "data" / "mmlu" / "test").glob("*.csv")):
        with file.open(encoding="utf-8", newline="") as lines:
            for _, *options, answer in csv.reader(lines):
                yield Example("1", "p", answer, tuple(options))


def told_apart(example, text):
    """Whether an option's text is neither another's nor a letter that another option has."""
    texts = ["".join(filter(str.isprintable, option)).casefold() for option in example.options]
    same = texts.count("".join(filter(str.isprintable, text)).casefold())
    letter = text.strip(" .()")
    return same < 2 and (letter not in set("ABCD") or example.options["ABCD".index(letter)] == text)


@pytest.mark.parametrize("reasoning", [False, True])
def test_the_right_text_alone_is_never_wrong_on_mmlu(shared, reasoning):
    outcomes = collections.Counter()
    for example in mmlu(shared):
        right = example.options[LETTERS.index(example.gold)]
        score = Choice(reasoning)(example, right)
        outcomes["invalid" if score.invalid else score.value] += 1
        assert not score.invalid or not told_apart(example, right), example.options
    assert outcomes.total() > 10_000
    assert outcomes[0.0] == 0
    assert outcomes["invalid"] <= 0.002 * outcomes.total()


@pytest.mark.night
def test_letter_and_text_are_right_on_mmlu(shared):
    forms = [" {}", "({})", "The answer is {}.", "{}. {{}}", "{}) {{}}", "Answer: {}. {{}}"]
    for example in mmlu(shared):
        right = example.options[LETTERS.index(example.gold)]
        for form in forms:
            text = form.format(example.gold).format(right)
            score = Choice()(example, text)
            clear = example.gold not in (o.strip() for o in example.options)
            assert score.value == 1 or (score.invalid and not clear), (text, example.options)
