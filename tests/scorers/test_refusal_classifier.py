"""Refusals by tiny random classifiers, against plain forward passes of torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from corrsteer.errors import ConfigError, ModelError
from corrsteer.records import Example, Score
from corrsteer.scorers import refusal_classifier
from corrsteer.scorers.refusal_classifier import RefusalClassifier
from tests.scorers.hostile import HOSTILE, READ

TEXTS = [
    "I'm sorry, but I can't help with that.",
    "Sure! First, take two eggs and a cup of flour.",
    "No.",
    "It depends on where you live, what you want to do and how much time there is.",
    "Я не могу помочь.",
]
REFUSE, COMPLY = Example("1", "p", "refuse"), Example("2", "p", "comply")
POSITIONS = 64
# name -> (model, settings of its config)
HEADS = {
    "two": ("Bert", {"id2label": {0: "NORMAL", 1: "REJECTION"}}),
    "three": ("Bert", {"id2label": {0: "other", 1: "REJECTION", 2: "unsure"}}),
    "many": (
        "Bert",
        {
            "id2label": {0: "NORMAL", 1: "REJECTION"},
            "problem_type": "multi_label_classification",
        },
    ),
    "one": ("Bert", {"id2label": {0: "REJECTION"}}),
    "roberta": (
        "Roberta",
        {
            "id2label": {0: "NORMAL", 1: "REJECTION"},
            "max_position_embeddings": POSITIONS + 1,
            "type_vocab_size": 1,
        },
    ),
    "distilbert": ("DistilBert", {"id2label": {0: "NORMAL", 1: "REJECTION"}}),
    "llama": ("Llama", {"id2label": {0: "NORMAL", 1: "REJECTION"}}),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_llama) -> Callable[[str], Path]:
    """``saved(name)``: the folder of a random classifier of one of ``HEADS``: 2 layers, width 32,
    byte-level tokens. "base" has no head."""
    import transformers

    root = tmp_path_factory.mktemp("classifiers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.3,
        "pad_token_id": 0,
    }

    def folder(name: str) -> Path:
        if not (root / name).exists():
            torch.manual_seed(3)
            kind, own = HEADS.get(name, ("Bert", {}))
            config = getattr(transformers, f"{kind}Config")(**sizes | own)
            made = "Model" if name == "base" else "ForSequenceClassification"
            getattr(transformers, kind + made)(config).save_pretrained(root / name)
            tokenizer.save_pretrained(root / name)
        return root / name

    return folder


def classifier(folder: Path, **more) -> RefusalClassifier:
    return RefusalClassifier(**{"model": str(folder), "refusal_label": "REJECTION"} | more)


def forward(folder: Path, text: str, limit: int = POSITIONS) -> float:
    """The probability of REJECTION by one unpadded forward pass."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"][:limit]
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32").eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    at = list(model.config.id2label.values()).index("REJECTION")
    if folder.name in ("one", "many"):
        return (1 / (1 + torch.exp(-logits[at]))).item()
    return (torch.exp(logits[at]) / torch.exp(logits).sum()).item()


# -- the probability ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_it_is_that_of_a_plain_forward_pass(name, saved):
    folder = saved(name)
    expected = [forward(folder, text) for text in TEXTS]
    assert max(expected) - min(expected) > 0.02
    np.testing.assert_allclose(classifier(folder)._probabilities(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["two", "roberta", "llama"])
def test_order_and_batches_change_nothing(name, saved):
    folder = saved(name)
    alone = [classifier(folder)._probabilities([text])[0] for text in TEXTS]
    for batch_size in (1, 2, 32):
        scorer = classifier(folder, batch_size=batch_size)
        np.testing.assert_allclose(scorer._probabilities(TEXTS), alone, atol=1e-5)
        np.testing.assert_allclose(scorer._probabilities(TEXTS[::-1]), alone[::-1], atol=1e-5)
    assert not scorer._classifier()[1].training


def test_the_beginning_is_read(saved):
    folder = saved("two")
    long = TEXTS[0] + " " + TEXTS[3] * 20
    cut = classifier(folder, max_tokens=20)._probabilities([long])[0]
    assert cut == pytest.approx(forward(folder, long, 20), abs=1e-5)
    assert cut != pytest.approx(forward(folder, long), abs=1e-3)
    # never more than the model has positions for, whatever max_tokens says
    for name, limit in (("two", POSITIONS), ("roberta", POSITIONS), ("distilbert", POSITIONS)):
        (found,) = classifier(saved(name))._probabilities([long])
        assert found == pytest.approx(forward(saved(name), long, limit), abs=1e-5)


# -- the score ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["two", "one"])
def test_a_refusal_from_the_threshold_on(name, saved):
    folder = saved(name)
    (found,) = classifier(folder)._probabilities(TEXTS[:1])
    for threshold, parsed in ((found, "refuse"), (np.nextafter(found, 2), "comply")):
        scorer = classifier(folder, threshold=float(threshold))
        for example in (REFUSE, COMPLY):
            score = scorer(example, TEXTS[0])
            assert score == Score(float(parsed == example.gold), parsed)


def test_the_other_label_turns_it_round(saved):
    folder = saved("two")
    other = classifier(folder, refusal_label="NORMAL")._probabilities(TEXTS)
    np.testing.assert_allclose(np.add(classifier(folder)._probabilities(TEXTS), other), 1)


def test_empty_and_degenerate_replies_are_invalid(saved):
    texts = [TEXTS[0], "", " \n", "sorry " * 30, "xq zvv ##$% kjq", TEXTS[1]]
    scores = classifier(saved("two")).many([REFUSE, COMPLY] * 3, texts)
    assert [score.invalid for score in scores] == [False, True, True, True, True, False]
    assert all(score.value == 0 for score in scores if score.invalid)
    alone = [classifier(saved("two"))(COMPLY, text) for text in (TEXTS[0], TEXTS[1])]
    assert [scores[0].parsed, scores[5].parsed] == [score.parsed for score in alone]
    assert classifier(saved("two")).many([], []) == []
    assert [s.parsed for s in classifier(saved("two")).many([REFUSE], [""])] == [None]


@pytest.mark.parametrize(("text", "why", "kind"), HOSTILE, ids=[why for _, why, _ in HOSTILE])
def test_case_table(text, why, kind, saved):
    score = classifier(saved("two"))(REFUSE, text)
    if kind != READ:
        assert score == Score(0.0, None)
        return
    plain = text.encode(errors="replace").decode()
    parsed = "refuse" if forward(saved("two"), plain) >= 0.5 else "comply"
    assert score == Score(float(parsed == "refuse"), parsed)


@given(st.one_of(st.text(), st.sampled_from(["\0 a", "\ud83d", "😀", "a b c. " * 2000, "é" * 9])))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_text_surprises_it(saved, text):
    for example in (REFUSE, COMPLY):
        score = classifier(saved("two"))(example, text)
        assert score.parsed in ("refuse", "comply", None)
        assert score.value == float(score.parsed == example.gold)


# -- loading --------------------------------------------------------------------------------------


def refusal(scorer: RefusalClassifier) -> str:
    refusal_classifier._load.cache_clear()
    with pytest.raises(ModelError) as caught:
        scorer.prepare()
    assert "\n" not in str(caught.value)
    assert scorer.model in str(caught.value)
    return str(caught.value)


def test_the_label_has_to_be_one_of_the_models(saved):
    message = refusal(classifier(saved("three"), refusal_label="REFUSAL"))
    assert "task.scorer.refusal_label='REFUSAL' is not a label" in message
    assert "use one of other, REJECTION, unsure" in message


def test_it_is_loaded_once_per_process(saved):
    refusal_classifier._load.cache_clear()
    for scorer in (classifier(saved("two")), classifier(saved("two"), threshold=0.9)):
        scorer.prepare()
    assert refusal_classifier._load.cache_info().misses == 1


def test_the_fingerprint_follows_the_files(saved, tmp_path):
    copy = shutil.copytree(saved("two"), tmp_path / "copy")
    assert classifier(copy).fingerprint() == classifier(saved("two")).fingerprint()
    assert classifier(copy).fingerprint() != classifier(saved("three")).fingerprint()


def test_a_model_without_a_head_is_refused(saved):
    assert "it has no weights for classifier.bias" in refusal(classifier(saved("base")))


def test_nothing_is_unpickled(saved, tmp_path):
    copy = shutil.copytree(saved("two"), tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    assert "model.safetensors" in refusal(classifier(copy))
    (copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit'\ntR.")
    message = refusal(classifier(copy))
    assert "pytorch_model.bin has to be unpickled, which can run code" in message


def test_a_model_that_is_not_there(saved, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal(RefusalClassifier("./none", "REJECTION"))
    assert message.startswith("task.scorer.model='./none': no such folder; give a folder with")
    message = refusal(RefusalClassifier("org/judge", "REJECTION"))
    assert "HF_HUB_OFFLINE=1" in message and "hf download org/judge" in message
    refusal(classifier(saved("two"), device="nowhere"))
    copy = shutil.copytree(saved("two"), tmp_path / "copy")
    (copy / "config.json").write_text("{")
    refusal(classifier(copy))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": ""}, "must not be empty"),
        ({"refusal_label": ""}, "task.scorer.refusal_label"),
        ({"device": ""}, "task.scorer.device"),
        ({"threshold": float("nan")}, r"must lie in \(0, 1\]"),
        ({"threshold": 0}, "task.scorer.threshold=0"),
        ({"threshold": 1.5}, "task.scorer.threshold=1.5"),
        ({"batch_size": 0}, "task.scorer.batch_size=0 must be at least 1"),
        ({"max_tokens": 2}, "task.scorer.max_tokens=2 must be at least 8"),
    ],
)
def test_settings_are_checked_when_built(wrong, message):
    with pytest.raises(ConfigError, match=message) as caught:
        RefusalClassifier(**{"model": "org/m", "refusal_label": "R"} | wrong)
    assert "\n" not in str(caught.value)


def test_the_yaml_has_every_setting():
    file = Path(__file__).parents[2] / "conf" / "scorer" / "refusal_classifier.yaml"
    settings = OmegaConf.to_container(OmegaConf.load(file))
    target = settings.pop("_target_")
    assert target == "corrsteer.scorers.refusal_classifier.RefusalClassifier"
    assert settings.keys() == RefusalClassifier.__dataclass_fields__.keys()
    assert RefusalClassifier(**settings).refusal_label == "REJECTION"
