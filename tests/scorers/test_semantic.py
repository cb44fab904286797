"""Similarity of meaning with tiny random encoders, against plain forward passes of torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from corrsteer.errors import ConfigError, ModelError
from corrsteer.records import Example, Score
from corrsteer.scorers import semantic
from corrsteer.scorers.semantic import Semantic
from tests.scorers.hostile import EMPTY, HOSTILE

WIDTH, OUT = 32, 16
TEXTS = ["Paris", "the capital of France", "x", "It is Paris, I think. " * 3, "No!"]
GOLDS = ["Paris.", "a city", "42", "Berlin", "no"]
EXAMPLES = [Example(str(i), "p", gold) for i, gold in enumerate(GOLDS)]


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_llama) -> Path:
    """Folders: base (no head), bi, cross (as saved by the library), classifier (by transformers),
    nli (3 labels). BERT of 2 layers and width 32, byte-level tokens, dropout on in training."""
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
    from transformers import (
        AutoTokenizer,
        BertConfig,
        BertForSequenceClassification,
        BertModel,
    )

    root = tmp_path_factory.mktemp("semantic")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    BertModel(BertConfig(**sizes)).save_pretrained(root / "base")
    for name, labels in (("classifier", 1), ("nli", 3)):
        config = BertConfig(**sizes, num_labels=labels)
        BertForSequenceClassification(config).save_pretrained(root / name)
    for name in ("base", "classifier", "nli"):
        tokenizer.save_pretrained(root / name)
    modules = [Transformer(str(root / "base")), Pooling(WIDTH, "mean"), Dense(WIDTH, OUT)]
    SentenceTransformer(modules=modules, device="cpu").save(str(root / "bi"))
    CrossEncoder(str(root / "classifier"), device="cpu").save(str(root / "cross"))
    return root


def bi(models: Path, **more) -> Semantic:
    return Semantic(str(models / "bi"), **more)


def cross(models: Path, name: str = "cross", **more) -> Semantic:
    return Semantic(str(models / name), kind="cross_encoder", **more)


def similarities(scorer: Semantic, golds=GOLDS, texts=TEXTS) -> list[float]:
    return scorer._similarities(list(zip(golds, texts, strict=True)))


def forward_bi(models: Path, text: str) -> torch.Tensor:
    """Mean of the last hidden states over the tokens, a dense layer with tanh, length 1."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, BertModel

    inputs = AutoTokenizer.from_pretrained(models / "base")([text], return_tensors="pt")
    model = BertModel.from_pretrained(models / "base").eval()
    dense = load_file(models / "bi" / "2_Dense" / "model.safetensors")
    with torch.no_grad():
        hidden = model(inputs["input_ids"]).last_hidden_state[0].mean(0)
        out = torch.tanh(dense["linear.weight"] @ hidden + dense["linear.bias"])
    return out / out.norm()


def forward_cross(models: Path, gold: str, text: str) -> float:
    from transformers import AutoTokenizer, BertForSequenceClassification

    inputs = AutoTokenizer.from_pretrained(models / "base")(gold, text, return_tensors="pt")
    model = BertForSequenceClassification.from_pretrained(models / "classifier").eval()
    with torch.no_grad():
        logit = model(inputs["input_ids"]).logits
    return torch.sigmoid(logit).item()


# -- the similarity -------------------------------------------------------------------------------


def test_a_bi_encoder_gives_the_cosine(models):
    expected = [
        float(forward_bi(models, gold) @ forward_bi(models, text))
        for gold, text in zip(GOLDS, TEXTS, strict=True)
    ]
    np.testing.assert_allclose(similarities(bi(models)), expected, atol=1e-5)
    assert max(expected) - min(expected) > 0.1
    assert similarities(bi(models), ["Paris"], ["Paris"])[0] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["cross", "classifier"])
def test_a_cross_encoder_gives_the_sigmoid_of_the_pair(name, models):
    expected = [forward_cross(models, gold, text) for gold, text in zip(GOLDS, TEXTS, strict=True)]
    np.testing.assert_allclose(similarities(cross(models, name)), expected, atol=1e-5)
    assert max(expected) - min(expected) > 0.1
    turned = similarities(cross(models, name), TEXTS, GOLDS)
    assert not np.allclose(turned, expected, atol=1e-3)  # the right answer comes first


def test_the_sigmoid_does_not_depend_on_the_models_own_activation(models, tmp_path):
    copy = shutil.copytree(models / "cross", tmp_path / "raw")
    file = copy / "config_sentence_transformers.json"
    about = json.loads(file.read_text())
    about["activation_fn"] = "torch.nn.modules.linear.Identity"
    file.write_text(json.dumps(about))
    raw = Semantic(str(copy), kind="cross_encoder")
    np.testing.assert_allclose(similarities(raw), similarities(cross(models)), atol=1e-6)


@pytest.mark.parametrize(("text", "why", "kind"), HOSTILE, ids=[why for _, why, _ in HOSTILE])
def test_case_table(text, why, kind, models):
    """Loops and noise are read here: they are unlike any right answer, and counted elsewhere."""
    example = Example("1", "p", "Paris")
    plain = text.partition("Question:")[0].encode(errors="replace").decode()
    for make in (bi, cross):
        score = make(models, threshold=0.5)(example, text)
        if kind == EMPTY:
            assert score == Score(0.0, None)
            continue
        if make is bi:
            expected = float(forward_bi(models, "Paris") @ forward_bi(models, plain))
        else:
            expected = forward_cross(models, "Paris", plain)
        assert score.parsed is not None
        assert float(score.parsed) == pytest.approx(expected, abs=0.0051)
        assert score.value == float(expected >= 0.5)


@pytest.mark.parametrize("make", [bi, cross])
def test_order_and_batches_change_nothing(make, models):
    alone = [similarities(make(models), [g], [t])[0] for g, t in zip(GOLDS, TEXTS, strict=True)]
    for batch_size in (1, 2, 32):
        scorer = make(models, batch_size=batch_size)
        np.testing.assert_allclose(similarities(scorer), alone, atol=1e-5)
        backwards = similarities(scorer, GOLDS[::-1], TEXTS[::-1])
        np.testing.assert_allclose(backwards[::-1], alone, atol=1e-5)
    assert not make(models)._model().training


# -- the score ------------------------------------------------------------------------------------


def test_right_from_the_threshold_on(models):
    (found,) = similarities(bi(models), GOLDS[:1], TEXTS[:1])
    for threshold, value in ((found, 1.0), (np.nextafter(found, 2), 0.0), (-1, 1.0)):
        score = bi(models, threshold=float(threshold))(EXAMPLES[0], TEXTS[0])
        assert score == Score(value, f"{found:.2f}")


@pytest.mark.parametrize("make", [bi, cross])
def test_the_best_of_the_right_answer_and_its_aliases_counts(make, models):
    scorer = make(models)
    aliases = ("It is Paris, I think.", "zzz", "the town")
    each = similarities(scorer, ["zzz!", *aliases], ["No!"] * 4)
    example = Example("1", "p", "zzz!", aliases=aliases)
    assert max(each) > each[0]
    assert scorer(example, "No!").parsed == f"{max(each):.2f}"
    other = Example("2", "p", aliases[0])  # another example's aliases do not count
    (first, second) = scorer.many([example, other], ["No!", "No!"])
    assert (first.parsed, second.parsed) == (f"{max(each):.2f}", f"{each[1]:.2f}")


@pytest.mark.parametrize("make", [bi, cross])
def test_an_empty_answer_is_invalid(make, models):
    scores = make(models, threshold=-1).many(EXAMPLES[:4], ["", " \n\t", "x", "\u3000"])
    assert [s.invalid for s in scores] == [True, True, False, True]
    assert [s.value for s in scores] == [0, 0, 1, 0]
    assert make(models).many([], []) == []


@pytest.mark.parametrize("make", [bi, cross])
@given(text=st.one_of(st.text(), st.sampled_from(["\0", "\ud83d", "😀", "a" * 5000, "é" * 999])))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_text_surprises_it(make, text, models):
    score = make(models)(Example("1", "p", "right", aliases=(text,)), text)
    assert score.invalid == (not text.strip())
    assert score.value in (0.0, 1.0)
    if not score.invalid and make is bi:
        assert score == Score(1.0, "1.00")


# -- loading --------------------------------------------------------------------------------------


def refusal(scorer: Semantic) -> str:
    semantic._load.cache_clear()
    with pytest.raises(ModelError) as caught:
        scorer.prepare()
    assert "\n" not in str(caught.value)
    assert str(scorer.model) in str(caught.value)
    return str(caught.value)


def test_it_is_loaded_once_per_process(models):
    semantic._load.cache_clear()
    scorers = [bi(models), bi(models, threshold=0.1, batch_size=1), bi(models)]
    for scorer in scorers:
        scorer.prepare()
    assert semantic._load.cache_info().misses == 1
    assert scorers[0]._model() is scorers[1]._model()


def test_the_fingerprint_covers_every_module(models, tmp_path):
    copy = shutil.copytree(models / "bi", tmp_path / "bi")
    original = bi(models).fingerprint()
    assert Semantic(str(copy)).fingerprint() == original
    with (copy / "2_Dense" / "model.safetensors").open("ab") as file:
        file.write(b" ")
    assert Semantic(str(copy)).fingerprint() != original


def test_the_kind_has_to_fit(models):
    assert "it is a SentenceTransformer: use task.scorer.kind=bi_encoder" in refusal(
        cross(models, "bi")
    )
    message = refusal(Semantic(str(models / "cross")))
    assert "it is a CrossEncoder: use task.scorer.kind=cross_encoder" in message
    assert "it has no modules.json" in refusal(Semantic(str(models / "base")))
    assert "BertModel, so it has no head to score pairs" in refusal(cross(models, "base"))
    assert "it gives 3 values for a pair" in refusal(cross(models, "nli"))


def test_code_of_a_model_is_never_run(models, tmp_path):
    copy = shutil.copytree(models / "bi", tmp_path / "bi")
    modules = json.loads((copy / "modules.json").read_text())
    modules[1]["type"] = "own.Pooling"
    (copy / "modules.json").write_text(json.dumps(modules))
    (copy / "own.py").write_text("raise SystemExit('it ran')")
    assert "its module own.Pooling is custom code, which is never run" in refusal(
        Semantic(str(copy))
    )
    for wrong in ('{"a": 1}', '["x"]', "not json"):
        (copy / "modules.json").write_text(wrong)
        assert "modules.json" in refusal(Semantic(str(copy)))


@pytest.mark.parametrize("part", ["", "2_Dense"])
def test_nothing_is_unpickled(part, models, tmp_path):
    copy = shutil.copytree(models / "bi", tmp_path / "bi")
    (copy / part / "model.safetensors").unlink()
    (copy / part / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit'\ntR.")
    message = refusal(Semantic(str(copy)))
    assert "pytorch_model.bin has to be unpickled, which can run code" in message


def test_a_model_that_is_not_there(models, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal(Semantic("./none"))
    assert message.startswith("task.scorer.model='./none': no such folder; give a folder with")
    assert "sentence-transformers/all-MiniLM-L6-v2" in message
    message = refusal(Semantic("org/encoder", revision="v1"))
    assert "HF_HUB_OFFLINE=1" in message and "hf download org/encoder --revision v1" in message
    copy = shutil.copytree(models / "bi", tmp_path / "bi")
    (copy / "1_Pooling" / "config.json").unlink()
    refusal(Semantic(str(copy)))
    refusal(bi(models, device="nowhere"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": ""}, "task.scorer.model"),
        ({"device": ""}, "task.scorer.device"),
        ({"kind": "encoder"}, "use bi_encoder or cross_encoder"),
        ({"threshold": float("nan")}, r"must lie in \[-1, 1\]"),
        ({"threshold": float("inf")}, "task.scorer.threshold=inf"),
        ({"threshold": -1.1}, "task.scorer.threshold=-1.1"),
        ({"batch_size": 0}, "task.scorer.batch_size=0"),
    ],
)
def test_settings_are_checked_when_built(wrong, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Semantic(**{"model": "org/m"} | wrong)
    assert "\n" not in str(caught.value)


def test_the_yaml_has_every_setting():
    file = Path(__file__).parents[2] / "conf" / "scorer" / "semantic.yaml"
    settings = OmegaConf.to_container(OmegaConf.load(file))
    assert settings.pop("_target_") == "corrsteer.scorers.semantic.Semantic"
    assert settings.keys() == Semantic.__dataclass_fields__.keys()
    assert Semantic(**settings).kind == "bi_encoder"
