from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from corrsteer.errors import ConfigError, DataError, ModelError
from corrsteer.models import beside
from corrsteer.models.listening import Listener
from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from corrsteer.steering.plan import Plan, PlanEntry
from tests.conftest import FAMILIES, byte_tokenizer
from tests.operators import Clamp, Minus, Side

PROMPTS = [
    "A long question about the weather there, and then some more?\nAnswer:",
    "x",
    "Is it A or B?\nAnswer:",
    "Who was the other?\nAnswer:",
    "yes\nAnswer:",
]


def load(folder, batch_size=128, **settings):
    return Local("cpu", batch_size).load(Model("tiny", str(folder), **settings))


@pytest.fixture(scope="module")
def llama(tiny_llama):
    return load(tiny_llama)


@pytest.fixture(scope="module", params=["llama", "gemma2", "gpt2", "qwen3_5"])
def model(request, tiny_model):
    return load(tiny_model(request.param))


@pytest.fixture(scope="module")
def stories(shared):
    return load(shared / "models" / "stories260K")


def plan_of(layers=(0, 1, 2), seed=0, coef=1.0, width=32) -> Plan:
    rng = np.random.default_rng(seed)
    vectors = [rng.normal(size=width).astype(np.float32) for _ in layers]
    entries = [PlanEntry(n, 0, 0.0, 1.0, v) for n, v in zip(layers, vectors, strict=True)]
    return Plan(tuple(entries), coef)


def copy_with(folder, target, name, **changes):
    """A copy of a model folder with some keys of one of its json files changed."""
    shutil.copytree(folder, target)
    file = target / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return target


# -- generating --------------------------------------------------------------------------


def test_coef_zero_is_the_baseline_token_for_token(model):
    base, zero, one = model.generate(
        PROMPTS, [None, plan_of(coef=0.0), plan_of()], max_new_tokens=8
    )
    assert [(a.text, a.tokens) for a in zero] == [(a.text, a.tokens) for a in base]
    assert [a.tokens for a in one] != [a.tokens for a in base]
    assert [a.steered for a in base] == [0] * 5
    assert [a.steered for a in zero] == [len(a.tokens) for a in zero]


def test_a_plan_without_entries_is_the_baseline(llama):
    base, empty = llama.generate(PROMPTS, [None, Plan(())], max_new_tokens=4)
    assert empty == base


def test_a_batch_answers_as_its_samples_alone(model):
    plans = [None, plan_of()]
    together = model.generate(PROMPTS, plans, max_new_tokens=8)
    for i, prompt in enumerate(PROMPTS):
        alone = model.generate([prompt], plans, max_new_tokens=8)
        assert [answers[i] for answers in together] == [answers[0] for answers in alone]


def test_several_plans_at_once_answer_as_each_alone(model):
    plans = [plan_of(), None, plan_of([1], seed=1), plan_of(coef=2.0), None]
    together = model.generate(PROMPTS, plans, max_new_tokens=6)
    for plan, answers in zip(plans, together, strict=True):
        assert model.generate(PROMPTS, [plan], max_new_tokens=6) == [answers]


def test_the_shared_prompt_cache_changes_nothing(model, monkeypatch):
    plans = [plan_of(), None, plan_of(seed=1)]
    cached = model.generate(PROMPTS, plans, max_new_tokens=8)
    monkeypatch.setattr(model, "_prompt_cache", lambda inputs, left, room: None)
    assert model.generate(PROMPTS, plans, max_new_tokens=8) == cached


def test_a_token_without_steering_takes_one_pass_unless_rounding_could_choose_it(
    model, monkeypatch
):
    together, _ = model.generate(PROMPTS, [None, plan_of()], max_new_tokens=1)
    passes, told = [], []
    counting = model._module.register_forward_hook(lambda *_: passes.append(1))
    listener = Listener([0, 2], lambda *heard: told.append(heard))
    for n in (1, 3):
        for ears in (None, listener):
            passes.clear()
            assert model.generate(PROMPTS, [None], max_new_tokens=1, listener=ears) == [together]
            assert len(passes) == n
        rows, written, found = told.pop()
        read = model.replay([PROMPTS[i] for i in rows], written, [0, 2], "generated")
        for layer, x in found.layers.items():
            torch.testing.assert_close(x, read.layers[layer], rtol=1e-4, atol=1e-5)
        monkeypatch.setattr(beside, "tolerance", lambda logits: float("inf"))
    counting.remove()


def test_the_order_of_a_plans_entries_does_not_matter(llama):
    plan = plan_of()
    turned = Plan(plan.entries[::-1])
    one, other = llama.generate(PROMPTS, [plan, turned], max_new_tokens=6)
    assert one == other


def test_answers_come_in_input_order_whatever_the_batches(tiny_llama, llama):
    small = load(tiny_llama, batch_size=2)
    plans = [None, plan_of()]
    answers = small.generate(PROMPTS, plans, max_new_tokens=4)
    assert answers == llama.generate(PROMPTS, plans, max_new_tokens=4)


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("rows", [2, 5], ids=["some rows end early", "all rows end early"])
def test_rows_end_at_their_first_eos_and_count_their_own_steps(tiny_model, tmp_path, rows, family):
    def ending_at(eos):
        target = tmp_path / str(eos)
        return load(
            copy_with(tiny_model(family), target, "generation_config.json", eos_token_id=eos)
        )

    plans = [None, plan_of(), plan_of([2], seed=1)]
    endless = ending_at(None)
    endless._eos, endless._module.generation_config.eos_token_id = [], None
    full = endless.generate(PROMPTS, plans, max_new_tokens=8)
    assert {len(a.tokens) for answers in full for a in answers} == {8}
    eos = sorted({a.tokens[i % 3 + 1] for answers in full for i, a in enumerate(answers[:rows])})
    ended = ending_at(eos).generate(PROMPTS, plans, max_new_tokens=8)
    lengths = set()
    for answers, longer, plan in zip(ended, full, plans, strict=True):
        for short, long in zip(answers, longer, strict=True):
            stops = [n for n, token in enumerate(long.tokens, 1) if token in (*eos, 2)]
            n = min(stops, default=8)
            assert short.tokens == long.tokens[:n]
            assert short.steered == (0 if plan is None else n)
            lengths.add(n)
    assert len(lengths) > 1
    assert rows == 2 or max(lengths) < 8


def test_text_is_decoded_without_special_tokens(llama):
    answers = llama.generate(PROMPTS, [None], max_new_tokens=6)[0]
    for answer in answers:
        plain = [t for t in answer.tokens if t > 2]
        assert answer.text == llama._tokenizer.decode(plain)


def test_an_operator_decides_how_the_vector_is_used(llama):
    (minus,) = llama.generate(PROMPTS, [replace(plan_of(), operator=Minus())], max_new_tokens=5)
    (negative,) = llama.generate(PROMPTS, [plan_of(coef=-1.0)], max_new_tokens=5)
    (plus,) = llama.generate(PROMPTS, [plan_of()], max_new_tokens=5)
    assert minus == negative != plus


@torch.no_grad()
def by_hooks(model, prompt, plan, new_tokens, change):
    """Greedy tokens, the whole sequence anew at every step; ``change(x, layer)`` of the stream from
    the last prompt token on."""
    ids = model._tokenizer(prompt)["input_ids"]
    start = len(ids) - 1
    blocks = [b._module for b in model._blocks]

    def hook(layer):
        def act(module, args, output):
            hidden = output[0] if isinstance(output, tuple) else output
            hidden[:, start:] = change(hidden[:, start:], layer)

        return act

    handles = [blocks[e.layer].register_forward_hook(hook(e.layer)) for e in plan.entries]
    for _ in range(new_tokens):
        ids.append(int(model._module(torch.tensor([ids])).logits[0, -1].argmax()))
    for handle in handles:
        handle.remove()
    return ids[start + 1 :]


def test_a_clamp_and_a_gate_are_what_their_equations_say(model):
    plain = plan_of(coef=1.5)
    clamped = replace(plain, operator=Clamp(2.0))
    gated = replace(plain, gate=Side(3))
    found = model.generate(PROMPTS, [clamped, gated, plain, None], max_new_tokens=4)
    vectors = {e.layer: torch.tensor(e.vector) for e in plain.entries}
    normals = {e.layer: torch.tensor(Side(3).parts(e)["normal"]) for e in plain.entries}

    def clamp(x, layer):
        unit = vectors[layer] / vectors[layer].norm()
        return x - (x @ unit)[..., None] * unit + 3.0 * unit  # level 2, dial 1.5

    def gate(x, layer):
        is_open = (x @ normals[layer] > 0)[..., None]
        return torch.where(is_open, x + 1.5 * vectors[layer], x)

    for answers, change in zip(found, (clamp, gate), strict=False):
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            assert list(answer.tokens) == by_hooks(model, prompt, plain, 4, change)
    tokens = [[a.tokens for a in answers] for answers in found]
    assert all(tokens[i] != tokens[j] for i in range(4) for j in range(i))


def test_dial_0_is_the_baseline_for_any_operator(llama):
    base, off = llama.generate(
        PROMPTS, [None, replace(plan_of(coef=0.0), operator=Clamp(5.0))], max_new_tokens=4
    )
    assert off == base


def test_what_a_backend_cannot_do_is_refused_in_one_line(llama):
    class Adapter:
        changes_prompt, needs = True, frozenset({"weights"})

        def key(self):
            return {}

    with pytest.raises(ConfigError, match="cannot apply a Adapter that needs weights"):
        llama.generate(PROMPTS, [Adapter()], max_new_tokens=1)


def test_a_plan_that_misses_a_position_is_an_error(llama, monkeypatch):
    def forgetful(*args):
        tokens, fired = type(llama)._continue(llama, *args)
        return tokens, [*fired[:-1], fired[-1] - 1]

    monkeypatch.setattr(llama, "_continue", forgetful)
    with pytest.raises(ModelError, match="the plan fired at 3 of 4 positions"):
        llama.generate(PROMPTS[:1], [plan_of()], max_new_tokens=4)


@pytest.mark.parametrize("plan", [None, plan_of()], ids=["unsteered", "steered"])
def test_constrained_decoding_takes_the_best_allowed_token(model, plan):
    allowed = [" A", " B", " C"]
    prompts = [p for p in PROMPTS if p.endswith("Answer:")]
    (answers,) = model.generate(prompts, [plan], max_new_tokens=9, allowed=allowed)
    (free,) = model.generate(prompts, [plan], max_new_tokens=1)
    ids = [model._tokenizer.convert_tokens_to_ids("\u0120" + letter) for letter in "ABC"]
    assert [a.tokens for a in answers] != [a.tokens for a in free]
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.text in allowed
        assert len(answer.tokens) == 1
        if plan is None:
            with torch.no_grad():
                logits = model._module(**model._tokenizer(prompt, return_tensors="pt")).logits
            assert answer.tokens[0] == ids[int(logits[0, -1, ids].argmax())]


def test_an_allowed_text_of_several_tokens_is_refused(llama):
    for text in (" AB", "", " yes"):
        with pytest.raises(ConfigError, match="is not one token"):
            llama.generate(PROMPTS, [None], max_new_tokens=1, allowed=[" A", text])


def test_a_checkpoints_sampling_settings_are_ignored(tiny_llama, llama, tmp_path):
    settings = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0}
    copy = copy_with(tiny_llama, tmp_path / "m", "generation_config.json", **settings)
    copied = load(copy)
    assert copied.generate(PROMPTS, [None], max_new_tokens=8) == llama.generate(
        PROMPTS, [None], max_new_tokens=8
    )


# -- tokens ------------------------------------------------------------------------------


def test_shapes_and_batches(model):
    assert (model.n_layers, model.d_model) == (3, 32)
    lengths = [model.n_tokens(p) for p in PROMPTS]
    order = [i for batch in model.batches(PROMPTS, 2) for i in batch]
    assert [len(batch) for batch in model.batches(PROMPTS, 2)] == [2, 2, 1]
    assert sorted(order) == list(range(5))
    assert [lengths[i] for i in order] == sorted(lengths)
    assert model.batches(["bb", "aa", "cc"]) == [[0, 1, 2]]
    assert model.batches([]) == []


def test_prompts_that_were_put_into_batches_are_not_read_again(model, monkeypatch):
    plain = model.generate(PROMPTS[:3], [None], max_new_tokens=2)
    read: list = []
    real = model._ids
    monkeypatch.setattr(model, "_ids", lambda *some, **how: read.append(some) or real(*some, **how))
    model.batches([*PROMPTS, "more"])
    assert model.generate(PROMPTS[:3], [None], max_new_tokens=2) == plain
    assert len(read) == 1
    model.generate(["others"], [None], max_new_tokens=2)
    assert len(read) == 2


@pytest.mark.long
def test_the_blocks_of_a_model_that_also_sees_are_those_of_its_text_part(tmp_path):
    """Gemma-3 from 4B on. Here the image encoder has as many blocks as the text part."""
    import transformers

    tokenizer = byte_tokenizer(bos=True)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.25,
        "max_position_embeddings": 256,
    }
    image = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(text_config=text, vision_config=image)
    torch.manual_seed(0)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load(tmp_path)
    assert [b.path.split("model.", 1)[1] for b in model._blocks] == [
        f"model.language_model.layers.{n}" for n in range(3)
    ]
    assert Model("t", str(tmp_path)).shape() == (3, 32)
    base, steered = model.generate(PROMPTS, [None, plan_of()], max_new_tokens=4)
    assert [a.tokens for a in base] != [a.tokens for a in steered]
    assert model.replay(PROMPTS[:1], [[50]], [2], "all").layers[2].shape[1] == 32


def test_bos_is_added_where_the_tokenizer_adds_it(llama, tiny_gpt2):
    assert llama.n_tokens("xyz") == 4
    assert load(tiny_gpt2).n_tokens("xyz") == 3


def test_token_texts_are_readable(llama):
    ids = llama._tokenizer(" A\u00e9<pad>")["input_ids"]
    assert llama.token_texts(ids) == ["<s>", " A", "\u00c3", "\u00a9", "<pad>"]
    assert llama.token_texts([50_000]) == ["<50000>"]  # models pad their embeddings
    assert llama._tokenizer.decode([50_000]) == ""


def test_too_long_prompts_are_one_clear_line(tiny_llama, llama):
    with pytest.raises(DataError, match=r"1 of 2 prompts have more than 248 tokens.*301"):
        llama.generate(["a", "b" * 300], [None], max_new_tokens=8)
    short = load(tiny_llama, max_prompt_tokens=10)
    with pytest.raises(DataError, match=r"2 of 2 prompts have more than 10 .*max_prompt_tokens"):
        short.generate(["b" * 10, "c" * 30], [None], max_new_tokens=8)
    assert short.generate(["b" * 9], [None], max_new_tokens=8)
    assert llama.generate(["b" * 247], [plan_of()], max_new_tokens=8)[0][0].steered > 0


def test_empty_prompts_without_any_token_to_begin_with_are_refused(tiny_gpt2):
    model = load(tiny_gpt2)
    model._start = None
    with pytest.raises(DataError, match="1 of 2 prompts have no tokens"):
        model.generate(["", "a"], [None], max_new_tokens=1)


def test_the_chat_template_is_used_and_writes_its_own_bos(tiny_llama, llama, tmp_path):
    template = (
        "<s>user: {{ messages[0]['content'] }}"
        "{% if add_generation_prompt %}{{ '\nbot:' }}{% endif %}"
    )
    copy = copy_with(tiny_llama, tmp_path / "m", "tokenizer_config.json", chat_template=template)
    chat = load(copy, chat_template=True)
    plain = [f"user: {p}\nbot:" for p in PROMPTS]
    assert chat.n_tokens(PROMPTS[0]) == llama.n_tokens(plain[0])
    plans = [None, plan_of()]
    assert chat.generate(PROMPTS, plans, max_new_tokens=4) == llama.generate(
        plain, plans, max_new_tokens=4
    )
    with pytest.raises(ModelError, match="no chat template"):
        load(tiny_llama, chat_template=True).n_tokens("x")


# -- replay ------------------------------------------------------------------------------


def test_token_sources_count_the_right_positions(llama):
    prompts, answers = ["ab</s>c", "d"], [[50, 51, 52], [60, 2]]
    # <s> a b </s> c | 50 51 52 and <s> d | 60 </s>: specials never count
    expected = {
        "generated": [(0, 4), (0, 5), (0, 6), (1, 1), (1, 2)],
        "last_prompt": [(0, 4), (1, 1)],
        "prompt": [(0, 1), (0, 2), (0, 4), (1, 1)],
        "all": [(0, 1), (0, 2), (0, 4), (0, 5), (0, 6), (0, 7), (1, 1), (1, 2)],
    }
    ids = [llama._tokenizer(p)["input_ids"] + a for p, a in zip(prompts, answers, strict=True)]
    for source, places in expected.items():
        found = llama.replay(prompts, answers, [1], source)
        assert list(zip(found.sample.tolist(), found.position.tolist(), strict=True)) == places
        assert found.token.tolist() == [ids[s][p] for s, p in places]
        assert found.layers[1].shape == (len(places), 32)


def test_replay_in_a_batch_equals_replay_alone(model):
    linear = any("linear" in name for name, _ in model._module.named_modules())
    close = 1e-3 if linear else 1e-5  # linear attention sums in chunks
    answers = [a.tokens for a in model.generate(PROMPTS, [None], max_new_tokens=5)[0]]
    together = model.replay(PROMPTS, answers, range(3), "all")
    for i, prompt in enumerate(PROMPTS):
        alone = model.replay([prompt], [answers[i]], range(3), "all")
        mine = together.sample == i
        assert torch.equal(together.token[mine], alone.token)
        for layer in range(3):
            torch.testing.assert_close(
                together.layers[layer][mine], alone.layers[layer], atol=close, rtol=close
            )


def test_layer_minus_one_is_what_the_first_block_reads(llama):
    found = llama.replay(PROMPTS[:1], [[50]], [-1, 0], "all")
    ids = torch.tensor(llama._tokenizer(PROMPTS[0])["input_ids"] + [50])
    assert torch.equal(found.layers[-1], llama._module.model.embed_tokens(ids[1:]))  # no BOS
    assert not torch.equal(found.layers[-1], found.layers[0])
    assert torch.equal(found.layers[0], llama.replay(PROMPTS[:1], [[50]], [0], "all").layers[0])


def test_blocks_that_return_a_tuple_are_read_and_steered_alike(tiny_llama, llama, monkeypatch):
    """Most architectures did so in earlier versions of transformers, and some still may."""
    block = type(llama._module.model.layers[0])
    norm = type(llama._module.model.norm)

    def unpacked(forward):
        return lambda self, x, *a, **k: forward(self, x[0] if isinstance(x, tuple) else x, *a, **k)

    whole = unpacked(block.forward)
    monkeypatch.setattr(block, "forward", lambda *a, **k: (whole(*a, **k), "more"))
    monkeypatch.setattr(norm, "forward", unpacked(norm.forward))
    tupled = load(tiny_llama)
    outputs = []
    handle = tupled._module.model.layers[1].register_forward_hook(
        lambda m, a, output: outputs.append(type(output))
    )
    plans = [None, plan_of()]
    steered = tupled.generate(PROMPTS, plans, max_new_tokens=6)
    replayed = PROMPTS, [[50, 51]] * len(PROMPTS), [0, 2], "all"
    found = [tupled.replay(*replayed, intervention=plan) for plan in plans]
    moved = tupled.divergence(PROMPTS, plans)
    directions = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
    promoted = tupled.promoted(directions, 3)
    handle.remove()
    assert set(outputs) == {tuple}
    monkeypatch.undo()
    assert steered == llama.generate(PROMPTS, plans, max_new_tokens=6)
    for plan, one in zip(plans, found, strict=True):
        plain = llama.replay(*replayed, intervention=plan)
        assert all(torch.equal(one.layers[n], plain.layers[n]) for n in (0, 2))
    assert moved == llama.divergence(PROMPTS, plans)
    assert promoted == llama.promoted(directions, 3)


def test_replay_runs_no_block_above_the_highest_layer(llama):
    ran = []
    blocks = llama._module.model.layers
    handles = [
        block.register_forward_pre_hook(lambda m, a, n=n: ran.append(n))
        for n, block in enumerate(blocks)
    ]
    llama.replay(PROMPTS[:1], [[50]], [1], "all")
    llama.replay(PROMPTS[:1], [[50]], [1], "all", intervention=plan_of([0, 2]))
    for handle in handles:
        handle.remove()
    assert ran == [0, 1, 0, 1]


def test_unknown_source_is_refused(llama):
    with pytest.raises(ConfigError, match="generated, last_prompt, prompt, all"):
        llama.replay(PROMPTS[:1], [[50]], [0], "answer")


# -- errors ------------------------------------------------------------------------------


def test_plans_that_do_not_fit_are_refused(llama):
    with pytest.raises(ConfigError, match="layers 0 to 2"):
        llama.generate(PROMPTS, [plan_of([3])], max_new_tokens=1)
    with pytest.raises(ModelError, match=r"has 16 numbers, but .* width 32"):
        llama.generate(PROMPTS, [plan_of([0], width=16)], max_new_tokens=1)


def test_a_device_map_changes_no_answer(tiny_llama, llama):
    spread = Local(device_map="auto").load(Model("tiny", str(tiny_llama), dtype="float32"))
    plans = [None, plan_of()]
    assert spread.generate(PROMPTS, plans, max_new_tokens=4) == llama.generate(
        PROMPTS, plans, max_new_tokens=4
    )


def test_dtype_auto_is_float32_without_a_gpu_that_has_bfloat16(tiny_llama, monkeypatch):
    auto = Model("tiny", str(tiny_llama))
    assert Local("cpu").dtype(auto) == "float32"
    assert Local("cpu").dtype(Model("tiny", str(tiny_llama), dtype="bfloat16")) == "bfloat16"
    assert Local("cpu").key(auto)["dtype"] == "float32"
    for name, there in (("is_available", True), ("is_bf16_supported", True)):
        monkeypatch.setattr(torch.cuda, name, lambda *_, there=there: there)
    assert Local("cpu").dtype(auto) == "float32"
    for backend in (Local("auto"), Local("cuda:1"), Local(device_map="auto")):
        assert backend.dtype(auto) == "bfloat16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: False)
    assert Local("auto").dtype(auto) == "float32"


def test_models_that_cannot_be_loaded_are_one_clear_line(tiny_llama, tmp_path):
    for missing in ("model.safetensors", "tokenizer.json"):
        copy = shutil.copytree(tiny_llama, tmp_path / missing)
        (copy / missing).unlink()
        with pytest.raises(ModelError, match="give a folder with") as caught:
            load(copy)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="hf download nobody/no-such-model") as caught:
        load("nobody/no-such-model")
    assert "\n" not in str(caught.value)


def test_settings_are_checked_when_built():
    both = {"device": "cpu", "device_map": "auto"}
    for bad in ({"device": "tpu"}, {"batch_size": 0}, {"device_map": "some"}, both):
        with pytest.raises(ConfigError):
            Local(**bad)
    assert dataclasses.is_dataclass(Local())


# -- a real trained model ----------------------------------------------------------------


@pytest.mark.long
def test_stories_are_sensible_and_the_same_every_time(stories):
    prompts = ["Once upon a time", "Lily and Tom went to the park"]
    plans = [None, plan_of(range(5), width=64, coef=0.0)]
    first, zero = stories.generate(prompts, plans, max_new_tokens=40)
    assert first[0].text.startswith(", there was a little girl named Lily. She loved to play")
    assert [a.tokens for a in zero] == [a.tokens for a in first]
    assert [a.steered for a in zero] == [40, 40]
    assert stories.generate(prompts, [None], max_new_tokens=40) == [first]


@pytest.mark.long
def test_a_story_stops_at_an_eos_of_its_generation_config(stories):
    ((answer,),) = stories.generate(["Once upon a time"], [None], max_new_tokens=400)
    assert len(answer.tokens) < 400
    assert answer.tokens[-1] == 1  # BOS, which is listed as an end beside EOS
    assert 1 not in answer.tokens[:-1]
    assert "<s>" not in answer.text


@pytest.mark.long
@torch.no_grad()
def test_stories_replay_equals_hooks(stories):
    prompts = ["Once upon a time", "The dog ran"]
    answers = [a.tokens for a in stories.generate(prompts, [None], max_new_tokens=12)[0]]
    found = stories.replay(prompts, answers, range(5), "generated")
    module, seen = stories._module, {}
    for row, prompt in enumerate(prompts):
        ids = stories._tokenizer(prompt)["input_ids"]
        handles = [
            block.register_forward_hook(lambda m, a, out, n=n: seen.update({n: out[0]}))
            for n, block in enumerate(module.model.layers)
        ]
        module(torch.tensor([ids + list(answers[row][:-1])]), use_cache=False)
        for handle in handles:
            handle.remove()
        for layer in range(5):
            theirs = seen[layer][len(ids) - 1 :]
            mine = found.layers[layer][found.sample == row]
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_prompts_are_tokenised_some_at_a_time(tiny_llama, monkeypatch):
    prompts = [f"{n} or {'x' * n}?" for n in range(9)]
    at_once = load(tiny_llama).batches(prompts), load(tiny_llama)._encode(prompts)
    monkeypatch.setattr("corrsteer.models.text._AT_ONCE", 2)
    model, sizes = load(tiny_llama), []
    tokenizer = model._tokenizer

    def counted(texts, **settings):
        sizes.append(len(texts))
        return tokenizer(texts, **settings)

    monkeypatch.setattr(model, "_tokenizer", counted)
    assert model._ids(prompts, special=True) == at_once[1]
    assert sizes == [2, 2, 2, 2, 1]
    assert load(tiny_llama).batches(prompts) == at_once[0]
