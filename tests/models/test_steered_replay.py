"""Steered replay and divergence beyond what the parity tests compare with plain hooks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from corrsteer.errors import ConfigError, DataError, ModelError
from corrsteer.records import Divergence
from corrsteer.steering.plan import Plan
from tests.models.test_local import PROMPTS, copy_with, load, plan_of
from tests.operators import Minus

TEXTS = [*PROMPTS, "The cat saw the other cat there, and then it went away."]


@pytest.fixture(scope="module", params=["llama", "gemma2", "gpt2", "qwen3_5", "qwen3_moe"])
def model(request, tiny_model):
    return load(tiny_model(request.param))


@pytest.fixture(scope="module")
def llama(tiny_llama):
    return load(tiny_llama)


# -- replay under a plan -------------------------------------------------------------------


@torch.no_grad()
def test_special_tokens_are_steered_where_they_are_generation_positions(llama):
    """The first token of the answer is </s>, whose residual at layer 1 later tokens attend to."""
    plan, seen = plan_of([0, 1]), []
    ids = [*llama._tokenizer("d")["input_ids"], 2, 50, 51]

    def hook(vector):
        def change(module, args, output):
            output[0, 1:-1] += torch.from_numpy(vector)  # neither BOS nor the last token
            seen.append(output[0].clone())

        return change

    blocks = llama._module.model.layers
    handles = [blocks[n].register_forward_hook(hook(v)) for n, v in plan.vectors().items()]
    llama._module(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    found = llama.replay(["d"], [ids[2:]], [0, 1], "all", intervention=plan)
    assert found.position.tolist() == [1, 3, 4]
    for layer in (0, 1):
        torch.testing.assert_close(found.layers[layer], seen[layer][[1, 3, 4]])


def test_where_is_steered_does_not_depend_on_what_is_read(model):
    plan = plan_of()
    answers = [a.tokens for a in model.generate(PROMPTS, [plan], max_new_tokens=4)[0]]
    everything = model.replay(PROMPTS, answers, [1, 2], "all", intervention=plan)
    places = list(zip(everything.sample.tolist(), everything.position.tolist(), strict=True))
    for source in ("generated", "last_prompt", "prompt"):
        some = model.replay(PROMPTS, answers, [1, 2], source, intervention=plan)
        read = zip(some.sample.tolist(), some.position.tolist(), strict=True)
        mine = [places.index(place) for place in read]
        for layer in (1, 2):
            assert torch.equal(some.layers[layer], everything.layers[layer][mine])


def test_a_plans_layers_above_the_highest_read_are_left_out(llama):
    asked = PROMPTS, [[50, 51]] * 5, [-1, 1], "all"
    whole = llama.replay(*asked, intervention=plan_of((0, 1, 2)))
    below = llama.replay(*asked, intervention=Plan(plan_of((0, 1, 2)).entries[:2]))
    for layer in (-1, 1):
        assert torch.equal(whole.layers[layer], below.layers[layer])
    first = llama.replay(PROMPTS, [[50]] * 5, [-1], "all", intervention=plan_of((0,)))
    assert torch.equal(first.layers[-1], llama.replay(PROMPTS, [[50]] * 5, [-1], "all").layers[-1])


def test_steered_replay_in_a_batch_equals_replay_alone(model):
    linear = any("linear" in name for name, _ in model._module.named_modules())
    close = 1e-3 if linear else 1e-5  # linear attention sums in chunks
    plan = plan_of(coef=2.0)
    answers = [a.tokens for a in model.generate(PROMPTS, [plan], max_new_tokens=5)[0]]
    together = model.replay(PROMPTS, answers, range(3), "all", intervention=plan)
    for i, prompt in enumerate(PROMPTS):
        alone = model.replay([prompt], [answers[i]], range(3), "all", intervention=plan)
        mine = together.sample == i
        for layer in range(3):
            torch.testing.assert_close(
                together.layers[layer][mine], alone.layers[layer], atol=close, rtol=close
            )


def test_replay_uses_the_strategy(llama):
    asked = PROMPTS, [[50, 51]] * 5, [2], "generated"
    minus = llama.replay(*asked, intervention=replace(plan_of(), operator=Minus()))
    negative = llama.replay(*asked, intervention=plan_of(coef=-1.0))
    plus = llama.replay(*asked, intervention=plan_of())
    assert torch.equal(minus.layers[2], negative.layers[2])
    assert not torch.allclose(minus.layers[2], plus.layers[2], atol=0.1)


# -- divergence ----------------------------------------------------------------------------


def test_plans_that_move_nothing_diverge_by_exactly_nothing(model):
    passes = []
    handle = model._module.register_forward_hook(lambda *a: passes.append(1))
    found = model.divergence(TEXTS, [None, Plan(()), plan_of(coef=0.0)])
    handle.remove()
    assert not passes
    bos = model._tokenizer("x")["input_ids"][0] == 1
    counts = [len(model._tokenizer(text)["input_ids"]) - bos for text in TEXTS]
    assert found == [[Divergence(0.0, 0, n) for n in counts]] * 3


def test_a_vector_too_small_to_matter_diverges_by_rounding_alone(model):
    """The steered half of the batch is computed beside the other one."""
    (found,) = model.divergence(TEXTS, [plan_of(coef=1e-12)])
    assert all(abs(d.kl) / d.positions < 1e-5 and d.top1_changed == 0 for d in found)


def test_a_batch_diverges_as_its_texts_alone_and_in_input_order(model):
    plans = [plan_of(), plan_of([1], seed=1, coef=0.5)]
    together = model.divergence(TEXTS, plans)
    assert len({d.kl for d in together[0]}) == len(TEXTS)
    for i, text in enumerate(TEXTS):
        for plan, row in zip(plans, together, strict=True):
            ((alone,),) = model.divergence([text], [plan])
            assert row[i].kl == pytest.approx(alone.kl, rel=1e-3, abs=1e-4)
            assert row[i].top1_changed == alone.top1_changed
            assert row[i].positions == alone.positions


def test_the_logits_of_a_batch_stay_below_their_limit(llama, monkeypatch):
    plan, shapes = plan_of(), []
    expected = llama.divergence(TEXTS, [plan])
    positions = 4 * llama.n_tokens(PROMPTS[3])  # two texts of 26 tokens, twice
    limit = positions * llama._vocabulary * 4
    monkeypatch.setattr("corrsteer.models.weighing.LOGITS_BYTES", limit)
    monkeypatch.setattr("corrsteer.models.tracing._CHUNK", 7)
    handle = llama._module.register_forward_hook(
        lambda m, a, output: shapes.append(output.logits.shape)
    )
    found = llama.divergence(TEXTS, [plan])
    handle.remove()
    # Of six texts, sorted by length. One alone may take more than the limit.
    assert [rows // 2 for rows, *_ in shapes] == [2, 2, 1, 1]
    assert all(shape.numel() * 4 <= limit or shape[0] == 2 for shape in shapes)
    assert any(shape.numel() * 4 > limit for shape in shapes)
    for one, other in zip(found[0], expected[0], strict=True):
        assert one.kl == pytest.approx(other.kl, rel=1e-4)
        assert (one.top1_changed, one.positions) == (other.top1_changed, other.positions)


def test_twice_the_texts_are_no_more_rows_than_a_batch(tiny_llama):
    small, rows = load(tiny_llama, batch_size=4), []
    handle = small._module.register_forward_hook(lambda m, a, out: rows.append(len(out.logits)))
    small.divergence(TEXTS, [plan_of()])
    handle.remove()
    assert rows == [4, 4, 4]


def test_divergence_uses_the_strategy(llama):
    (minus,) = llama.divergence(TEXTS, [replace(plan_of(), operator=Minus())])
    negative, plus = llama.divergence(TEXTS, [plan_of(coef=-1.0), plan_of()])
    assert minus == negative != plus


def test_texts_are_read_without_the_chat_template(tiny_llama, llama, tmp_path):
    template = "<s>user: {{ messages[0]['content'] }}"
    copy = copy_with(tiny_llama, tmp_path / "m", "tokenizer_config.json", chat_template=template)
    chat = load(copy, chat_template=True)
    assert chat.divergence(TEXTS, [plan_of()]) == llama.divergence(TEXTS, [plan_of()])


def test_texts_that_cannot_be_read_are_refused(tiny_llama, llama, tiny_gpt2):
    with pytest.raises(DataError, match=r"1 of 2 texts have more than 256 tokens .* 301") as error:
        llama.divergence(["a", "b" * 300], [None])
    assert str(error.value).endswith("choose a model with more than 256 positions.")
    assert len(llama.divergence(["b" * 255], [plan_of()])) == 1
    short = load(tiny_llama, max_prompt_tokens=10)
    with pytest.raises(DataError, match="shorten the texts, or raise model.max_prompt_tokens"):
        short.divergence(["b" * 10], [None])
    with pytest.raises(DataError, match="1 of 2 texts have no tokens"):
        load(tiny_gpt2).divergence(["", "a"], [None])
    assert llama.divergence([], [None, plan_of()]) == [[], []]
    assert llama.divergence([""], [plan_of()]) == [[Divergence(0.0, 0, 0)]]  # BOS alone


# -- errors --------------------------------------------------------------------------------


def test_a_plan_that_does_not_fire_is_an_error(llama, monkeypatch):
    for name in ("_residuals", "_diverged"):
        method = getattr(type(llama), name)

        def forgetful(*args, method=method):
            *found, fired = method(llama, *args)
            return *found, fired - 1

        monkeypatch.setattr(llama, name, forgetful)
    with pytest.raises(ModelError, match="the plan fired at 0 of 2"):
        llama.replay(PROMPTS, [[50, 51]] * 5, [1], "all", intervention=plan_of())
    with pytest.raises(ModelError, match="the plan fired at 0 of"):
        llama.divergence(TEXTS, [plan_of()])


def test_plans_for_another_model_are_refused(llama):
    for plan, kind in ((plan_of([3]), ConfigError), (plan_of([0], width=16), ModelError)):
        with pytest.raises(kind):
            llama.replay(PROMPTS, [[50]] * 5, [0], "all", intervention=plan)
        with pytest.raises(kind):
            llama.divergence(TEXTS, [plan])
