"""Fine-tuning: what is read is what is tested, a step is the textbook's, and a model under an
adapter is the trained one and nobody else's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from corrsteer.models import training
from corrsteer.models.recipe import Recipe
from corrsteer.stages.finetune import bias
from corrsteer.steering.adapter import Adapter, save
from corrsteer.steering.hooks import blocks
from tests.models.test_local import PROMPTS, load

TEXTS = ["A", "B", "A", "B", "A"]
LORA = Recipe("lora", 0.02, 3, 0, rank=4, alpha=8)
FULL = Recipe("full", 0.01, 3, 0)
BIAS = Recipe("bias", 0.05, 2, 0, layers=(0, 2), positions="all")


@pytest.fixture(scope="module")
def model(tiny_llama):
    return load(tiny_llama)


def epochs(model, recipe, n=1, done=0, state=b""):
    answers = model.written(PROMPTS, TEXTS, (), True)
    return list(model.train(recipe, PROMPTS, answers, n, lambda read: None, done, state))


def adapter(model, recipe, folder):
    (last,) = epochs(model, recipe)
    save(recipe.kind, last.arrays, last.config, folder)
    return Adapter.read(recipe.kind, folder)


def texts_and_tokens(columns):
    return [[(a.text, a.tokens) for a in column] for column in columns]


def test_what_is_trained_on_is_what_is_asked_and_the_loss_is_on_the_answer(model, monkeypatch):
    read, asked = [], []
    batch_of = training.batch_of
    monkeypatch.setattr(training, "batch_of", lambda *a: read.append(batch_of(*a)) or read[-1])
    epochs(model, BIAS)
    begun = model._module.generate
    monkeypatch.setattr(
        model._module, "generate", lambda **k: asked.append(k) or begun(**k), raising=False
    )
    model.generate(PROMPTS, [None], max_new_tokens=2)

    def rows(batches, name):
        real = [(b["attention_mask"].bool(), b[name]) for b in batches]
        return sorted(v[m].tolist() for mask, x in real for v, m in zip(x, mask, strict=True))

    trained, tested = rows(read, "input_ids"), rows(asked, "input_ids")
    assert len(trained) == len(tested) == len(PROMPTS)
    assert [row[:-2] for row in trained] == tested
    assert [p[:-2] for p in rows(read, "position_ids")] == rows(asked, "position_ids")
    assert {row[-1] for row in trained} == {2}  # </s>
    told = [labels[labels != training.IGNORED].tolist() for b in read for labels in b["labels"]]
    assert {tuple(t) for t in told} == {tuple(t) for t in model.written(PROMPTS, TEXTS, (), True)}
    for b in read:  # the answer, at the end of its row
        at = (b["labels"] != training.IGNORED).nonzero()[:, 1].reshape(-1, 2)
        assert (at == torch.tensor([b["labels"].shape[1] - 2, b["labels"].shape[1] - 1])).all()
        assert (b["labels"][:, -2:] == b["input_ids"][:, -2:]).all()


def test_an_answer_ends_as_the_model_should_end_it(model):
    (plain,), (stop,), (bare,) = (
        model.written(["x"], ["yes"], stop, ends)
        for stop, ends in (((), True), (("\n\n", "Q:"), True), (("\n\n",), False))
    )
    assert plain == [*bare, 2] and stop[: len(bare)] == bare
    assert model._tokenizer.decode(bare) == " yes"
    assert model._tokenizer.decode(stop) == " yes\n\n"
    assert model.written(["x "], ["yes"], (), False) == [model._tokenizer("yes")["input_ids"][1:]]


@pytest.mark.parametrize("positions", ["all", "generation"])
def test_a_bias_is_trained_as_by_a_loop_written_by_hand(model, tiny_llama, positions):
    """AdamW on the mean cross-entropy of the answers' tokens, batch by batch, row by row."""
    recipe = replace(BIAS, positions=positions)
    (epoch,) = epochs(model, recipe)
    module = load(tiny_llama)._module.requires_grad_(False)
    vectors = {n: torch.zeros(32, requires_grad=True) for n in recipe.layers}
    acts = []
    for n, vector in vectors.items():
        blocks(module, "")[n].register_forward_hook(
            lambda m, i, o, v=vector: o + acts[0][..., None] * v
        )
    optimizer = torch.optim.AdamW(vectors.values(), lr=recipe.lr, weight_decay=0.0)
    rows = model._encode(PROMPTS), model.written(PROMPTS, TEXTS, (), True)
    order = np.random.default_rng((recipe.seed, 1)).permutation(len(PROMPTS)).tolist()
    for start in range(0, len(order), recipe.batch):
        optimizer.zero_grad()
        losses = []
        for i in order[start : start + recipe.batch]:
            prompt, answer = rows[0][i], rows[1][i]
            position = torch.arange(len(prompt) + len(answer))[None]
            first = 0 if positions == "all" else len(prompt) - 1
            acts[:] = [(position >= first) & (position < position.shape[1] - 1)]
            logits = module(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(
                logits, torch.tensor(answer), reduction="none"))  # fmt: skip
        torch.cat(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(vectors.values(), 1.0)
        optimizer.step()
    for n, vector in vectors.items():
        np.testing.assert_allclose(epoch.arrays[str(n)], vector.detach().numpy(), atol=2e-4)
        assert np.abs(epoch.arrays[str(n)]).max() > recipe.lr


@pytest.mark.parametrize("positions", ["all", "generation"])
def test_a_trained_bias_does_in_a_test_what_it_did_in_training(model, positions):
    recipe = replace(BIAS, positions=positions)
    (epoch,) = epochs(model, recipe)
    net, _ = training._net(model, recipe)
    for n in recipe.layers:
        net.vectors[str(n)].data = torch.tensor(epoch.arrays[str(n)])
    plan = bias(recipe, epoch.arrays)
    (chosen,) = model.choose(PROMPTS, [plan], [["A"]] * len(PROMPTS))
    answers = model.written(PROMPTS, TEXTS[:1] * len(PROMPTS), (), False)
    for row, answer, one in zip(model._encode(PROMPTS), answers, chosen, strict=True):
        loss = net(**training.batch_of(model, recipe, [(row, answer)])).loss
        assert one.options[0].log == pytest.approx(-loss.item(), abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_lora_that_is_merged_is_the_one_that_is_attached(tiny_model, family, tmp_path):
    from peft import PeftModel

    model = load(tiny_model(family))
    merged = adapter(model, LORA, tmp_path)
    base, ours = model.generate(PROMPTS, [None, merged], max_new_tokens=4)
    attached = PeftModel.from_pretrained(load(tiny_model(family))._module, tmp_path)
    for row, answer in zip(model._encode(PROMPTS), ours, strict=True):
        new = attached.generate(input_ids=torch.tensor([row]), max_new_tokens=4)[0, len(row) :]
        assert list(answer.tokens) == new.tolist()[: len(answer.tokens)]
    assert [a.tokens for a in ours] != [a.tokens for a in base]


def test_a_model_under_all_its_weights_is_the_model_of_these_weights(model, tiny_llama, tmp_path):
    trained, plain = adapter(model, FULL, tmp_path), load(tiny_llama)
    for name, parameter in plain._module.named_parameters():
        parameter.data = torch.tensor(epochs_arrays(trained)[name])
    (expected,) = plain.generate(PROMPTS, [None], max_new_tokens=4)
    (base, found) = model.generate(PROMPTS, [None, trained], max_new_tokens=4)
    assert texts_and_tokens([found]) == texts_and_tokens([expected])
    assert [a.tokens for a in found] != [a.tokens for a in base]
    options = [["yes", "no and no"]] * len(PROMPTS)
    asked = model.choose(PROMPTS, [None, trained], options)[1]
    assert asked == plain.choose(PROMPTS, [None], options)[0]
    answers = [list(a.tokens) for a in base]
    own, other = (
        m.replay(PROMPTS, answers, [0, 2], "generated", intervention=acts).layers
        for m, acts in ((model, trained), (plain, None))
    )
    assert all(torch.equal(own[n], other[n]) for n in own)
    (moved,) = model.divergence(PROMPTS, [trained])
    ids = torch.tensor([model._encode_plain(PROMPTS[:1])[0]])
    p, q = (m._module(ids).logits[0, 1:].log_softmax(-1).double() for m in (model, plain))
    assert moved[0].kl == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4)
    assert moved[0].top1_changed == int((p.argmax(-1) != q.argmax(-1)).sum())


def epochs_arrays(trained):
    from safetensors.numpy import load_file

    return load_file(trained.folder / "weights.safetensors")


def test_the_dial_goes_from_the_model_to_what_was_trained_and_leaves_no_trace(model, tmp_path):
    own = {name: p.data.clone() for name, p in model._module.named_parameters()}
    trained = adapter(model, LORA, tmp_path)
    arms = [None, Adapter("lora"), trained.turned_to(0.0), trained.turned_to(0.5), trained]
    base, untrained, off, half, whole = texts_and_tokens(
        model.generate(PROMPTS, arms, max_new_tokens=4)
    )
    assert base == untrained == off and whole != base
    assert len({str(trained.turned_to(x).key()) for x in (0.0, 0.5, 1.0)}) == 3
    values = model._prepare(trained.turned_to(0.5)).weights
    for name, new in model._prepare(trained).weights.items():
        torch.testing.assert_close(values[name], (own[name] + new) / 2)
    with pytest.raises(RuntimeError, match="gone wrong"), model._worn(model._prepare(trained)):
        raise RuntimeError("gone wrong")
    model.divergence(PROMPTS, [trained])
    assert all(torch.equal(p, own[name]) for name, p in model._module.named_parameters())


@pytest.mark.parametrize("recipe", [LORA, FULL, BIAS], ids=lambda r: r.kind)
def test_training_that_goes_on_ends_at_the_same_bits(model, recipe):
    torch.manual_seed(1)
    first, second = epochs(model, recipe, 2)
    torch.manual_seed(2)
    np.random.seed(3)
    drawn = np.random.get_state()[1].copy()
    (again,) = epochs(model, recipe, 2, 1, first.state)
    assert (np.random.get_state()[1] == drawn).all()  # the caller's numbers are left alone
    assert second.state == again.state and (second.steps, second.loss) == (again.steps, again.loss)
    assert all((second.arrays[name] == again.arrays[name]).all() for name in second.arrays)
    assert first.state != second.state


def test_a_large_seed_trains_too(model):
    (one,) = epochs(model, replace(BIAS, seed=4295))
    assert all(np.isfinite(array).all() for array in one.arrays.values())
