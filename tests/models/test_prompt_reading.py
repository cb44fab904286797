"""What a model folder's small files may say, and its weights: read as they are meant, or refused in
one line. Each case is a copy of the bundled model with one file changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from corrsteer import config
from corrsteer.errors import ConfigError, DataError, ModelError
from corrsteer.models import reading
from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from corrsteer.steering.plan import Plan, PlanEntry
from tests.conftest import byte_tokenizer

pytestmark = pytest.mark.long

BUNDLED = Path(config.bundled("model"))
QUESTIONS = [
    "Question: Tom has 3 apples and buys 4. How many has he?\nAnswer:",
    "Question: Ann has 9 pears and eats 2. How many are left?\nAnswer:",
]
CHATML = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture
def copied(tmp_path):
    """``copied()``: a copy of the bundled model; ``copied("x.json", key=value)`` with keys changed,
    None takes one away."""

    def copy(name: str | None = None, **changes) -> Path:
        folder = tmp_path / f"model_{len(list(tmp_path.iterdir()))}"
        shutil.copytree(BUNDLED, folder)
        if name:
            file = folder / name
            values = json.loads(file.read_text()) | changes
            file.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
        return folder

    return copy


@pytest.fixture
def with_chat(copied):
    """A copy with a chat template, and an added token that may end turns."""

    def made(template: str, *, ending: bool = False) -> Path:
        folder = copied()
        if ending:
            file = folder / "tokenizer.json"
            words = json.loads(file.read_text())
            token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            token |= {"id": 4, "content": "<|im_end|>", "special": True}
            old = next(text for text, n in words["model"]["vocab"].items() if n == 4)
            del words["model"]["vocab"][old]
            words["model"]["vocab"]["<|im_end|>"] = 4
            words["added_tokens"].append(token)
            file.write_text(json.dumps(words))
        (folder / "chat_template.jinja").write_text(template)
        return folder

    return made


def spec(folder: Path, **settings) -> Model:
    return Model("m", str(folder), dtype="float32", **settings)


def load(folder: Path, **settings):
    return Local("cpu").load(spec(folder, **settings))


def answers(folder: Path) -> list[str]:
    (found,) = load(folder).generate(QUESTIONS, [None], max_new_tokens=24)
    return [a.text for a in found]


def refused(folder: Path, **settings) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def unchanged() -> list[str]:
    return answers(BUNDLED)


# -- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("generation_config.json", {"eos_token_id": None}),
        ("generation_config.json", {"eos_token_id": [5]}),
        ("config.json", {"eos_token_id": None}),
        ("tokenizer_config.json", {"eos_token": None}),
    ],
)
def test_an_end_that_one_file_lacks_is_taken_from_the_others(copied, unchanged, name, changes):
    folder = copied(name, **changes)
    assert set(reading.ends(spec(folder))) == {2, *(changes.get("eos_token_id") or ())}
    assert answers(folder) == unchanged


def test_what_files_without_an_end_leave_is_the_architectures(copied):
    folder = copied("tokenizer_config.json", eos_token=None)
    for name in ("config.json", "generation_config.json"):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({k: v for k, v in values.items() if "eos" not in k}))
    assert reading.ends(spec(folder)) == (2,)  # a LlamaConfig's


def test_a_model_without_any_end_is_told_of(copied, caplog):
    folder = copied("tokenizer_config.json", eos_token=None)
    for name in ("config.json", "generation_config.json"):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | {"eos_token_id": None}))
    load(BUNDLED)
    assert "task.max_new_tokens" not in caplog.text
    load(folder)
    assert "answers run to task.max_new_tokens" in caplog.text


def test_a_chat_ends_where_its_template_ends_a_turn(with_chat):
    folder = with_chat(CHATML, ending=True)
    assert reading.ends(spec(folder, chat_template=True)) == (2, 4)
    assert reading.ends(spec(folder)) == (2,)  # no chat, no turns
    model = load(folder, chat_template=True)
    assert model._module.generation_config.eos_token_id == [2, 4]
    plain = with_chat("{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    assert reading.ends(spec(plain, chat_template=True)) == (2,)


def test_files_that_agree_leave_the_key_alone(copied):
    assert reading.key(spec(BUNDLED)) == {"chat_template": False}
    folder = copied("generation_config.json", eos_token_id=None)
    assert reading.key(spec(folder)) == {"chat_template": False, "ends": [2]}


def test_a_file_of_ends_that_cannot_be_read_is_one_line(copied):
    folder = copied()
    (folder / "generation_config.json").write_text('{"eos_token_id": 2')
    assert "generation_config.json of model" in refused(folder)


# -- prompts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["</s>", "<unk>"])
def test_what_a_tokenizer_puts_behind_a_text_is_left_out(copied, unchanged, token):
    folder = copied()
    file = folder / "tokenizer.json"
    words = json.loads(file.read_text())
    process = words["post_processor"]
    process["single"].append({"SpecialToken": {"id": token, "type_id": 0}})
    ids = [t["id"] for t in words["added_tokens"] if t["content"] == token]
    process["special_tokens"][token] = {"id": token, "ids": ids, "tokens": [token]}
    file.write_text(json.dumps(words))
    assert answers(folder) == unchanged
    model, plain = load(folder), load(BUNDLED)
    assert model._tokenizer("a")["input_ids"][-1] == ids[0]
    assert model._encode(QUESTIONS) == plain._encode(QUESTIONS)
    assert model._encode_plain(QUESTIONS) == plain._encode_plain(QUESTIONS)
    assert model._encode([""]) == [[1]]
    asked = QUESTIONS, [None], [("7", "8"), ("7", "11 pears")]
    assert model.choose(*asked) == plain.choose(*asked)
    assert reading.key(spec(folder)) == {"chat_template": False, "appended": 1}


def test_a_prompt_that_spells_an_end_is_refused(copied, with_chat):
    with pytest.raises(DataError, match="1 of 2 prompts end in an end of text"):
        load(BUNDLED).check_prompts([QUESTIONS[0], "Over.</s>"], 4)
    ended = with_chat("{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}")
    with pytest.raises(DataError, match="2 of 2 prompts end in an end of text"):
        load(ended, chat_template=True).check_prompts(QUESTIONS, 4)


@pytest.mark.parametrize("behind", ["</s>\n", "</s>{{ '\n' if add_generation_prompt }}"])
def test_an_end_before_white_space_is_an_end(with_chat, behind):
    template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}BEHIND{% endfor %}"
    folder = with_chat(template.replace("BEHIND", behind))
    with pytest.raises(DataError, match="2 of 2 prompts end .*model.chat_template.*add_gener"):
        load(folder, chat_template=True).check_prompts(QUESTIONS, 4)
    with pytest.raises(DataError, match="1 of 1 prompts end in an end of text"):
        load(BUNDLED).check_prompts(["Over.</s> \n"], 4)


def test_an_end_may_begin_the_turn_for_an_answer(with_chat):
    """As <|assistant|> does for Phi 3, whose generation_config.json names it as an end too."""
    folder = with_chat(CHATML.replace("assistant:", "</s>\n"), ending=True)
    load(folder, chat_template=True).check_prompts(QUESTIONS, 4)


@pytest.mark.parametrize(("start", "told"), [("", True), ("{{ bos_token }}", False)])
def test_a_template_without_bos_is_told_of_once(with_chat, caplog, start, told):
    folder = with_chat(start + "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    model = load(folder, chat_template=True)
    for _ in range(2):
        model.check_prompts(QUESTIONS, 4)
    assert caplog.text.count("writes no <s>") == told


def test_an_empty_prompt_begins_with_bos_or_else_an_end(tiny_gpt2, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(tiny_gpt2, folder)
    for bos, start in (("<s>", 1), (None, 2)):
        tokenizer = byte_tokenizer(bos=False)
        tokenizer.bos_token = bos
        tokenizer.save_pretrained(folder)
        reading.tokenizer.cache_clear()
        model = Local("cpu").load(Model(f"m{start}", str(folder)))
        assert model._encode(["", "a"])[0] == [start]
        (found,) = model.choose(["", ""], [None], [("the sea", "a hill"), ("so", "the sea")])
        sea = model._tokenizer("the sea")["input_ids"]
        with torch.no_grad():
            logs = model._module(torch.tensor([[start, *sea]])).logits[0].log_softmax(-1)
        expected = sum(float(logs[n, token]) for n, token in enumerate(sea))
        for weighed in (found[0].options[0], found[1].options[1]):
            assert weighed.log == pytest.approx(expected, abs=1e-4)
            assert weighed[1:] == (len("the sea"), len(sea))


def test_an_empty_prompt_has_no_turn_in_a_chat(with_chat):
    """What follows begins the text, as it does without the template; and the key says so."""
    folder = with_chat(CHATML)
    chat, plain = (load(folder, chat_template=on) for on in (True, False))
    options = [("the sea", "a hill, and another"), ("so", "the sea")]
    assert chat._encode(["", "a"])[0] == plain._encode(["", "a"])[0]
    assert chat.choose(["", ""], [None], options) == plain.choose(["", ""], [None], options)
    found, expected = (m.choose(["", ""], [None], options)[0] for m in (chat, plain))
    for one, other in zip(found, expected, strict=True):
        assert [w.log for w in one.options] == pytest.approx([w.log for w in other.options])
    assert reading.seen(spec(folder, chat_template=True), ["", "a"])[0] == ""


# -- chat templates ------------------------------------------------------------------------------


def test_a_template_gets_the_system_prompt_and_its_values(with_chat):
    folder = with_chat(
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
        "{% if not enable_thinking | default(true) %}<no think>{% endif %}"
    )
    plain = spec(folder, chat_template=True)
    assert reading.seen(plain, ["Why?"]) == ["[user] Why?\n"]
    asked = spec(
        folder,
        chat_template=True,
        system_prompt="Be brief.",
        chat_template_kwargs={"enable_thinking": False},
    )
    assert reading.seen(asked, ["Why?"]) == ["[system] Be brief.\n[user] Why?\n<no think>"]
    key = reading.key(asked)
    assert key["system_prompt"] == "Be brief."
    assert key["chat_template_kwargs"] == {"enable_thinking": False}
    hash(asked)  # a model is loaded once for equal ones


@pytest.mark.parametrize(
    ("template", "settings", "message"),
    [
        ('{{ raise_exception("System message needed") }}', {}, "model.chat_template: .*needed"),
        ("{% for m in messages %}", {}, "model.chat_template: .*cannot write a prompt"),
        ("{{ messages[1]['content'] + 1 }}", {}, "model.chat_template: .*cannot write a prompt"),
        (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}x",
            {"system_prompt": "Be brief."},
            "model.system_prompt: .*no system turn",
        ),
        (
            "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}",
            {"system_prompt": "Be brief."},
            "model.system_prompt: .*leaves it out",
        ),
        ("{{ messages }}", {"chat_template_kwargs": {"thinking": 1}}, "reads no 'thinking'"),
        ("{{ bos_token }}Hello", {}, "model.chat_template: .*leaves out the prompt"),
        ("{{ messages[0]['content'][:2] }}", {}, "model.chat_template: .*leaves out the prompt"),
        (None, {}, "has no chat template"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(with_chat, template, settings, message):
    folder = with_chat(template or "")
    if template is None:
        (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=message) as caught:
        reading.seen(spec(folder, chat_template=True, **settings), ["Why?"])
    assert "\n" not in str(caught.value)


def test_a_template_may_strip_a_prompt_but_must_write_all_of_it(with_chat):
    prompt = "  Q:\tWhy?  \n\n Because. \nAnswer: "
    stripped = "{{ messages[0]['content'].split('\n') | map('trim') | join('\n') }}"
    assert reading.seen(spec(with_chat(stripped), chat_template=True), [prompt])
    first = spec(with_chat("{{ messages[0]['content'].split('\n')[0] }}"), chat_template=True)
    with pytest.raises(ModelError, match="leaves out"):
        reading.seen(first, [prompt])


@pytest.mark.parametrize(
    "settings",
    [
        {"system_prompt": "Be brief."},  # without a template
        {"chat_template_kwargs": {"a": 1}},
        {"system_prompt": " ", "chat_template": True},
        {"chat_template_kwargs": "enable_thinking", "chat_template": True},
        {"chat_template_kwargs": {"no name": 1}, "chat_template": True},
    ],
)
def test_settings_of_the_chat_are_checked_when_built(settings):
    with pytest.raises(ConfigError, match=r"model\.(system_prompt|chat_template_kwargs)"):
        Model("m", "org/m", **settings)


# -- weights -------------------------------------------------------------------------------------

DOWN = "model.layers.3.mlp.down_proj.weight"


def reweighed(folder: Path, **changes) -> Path:
    """Tensors changed; None takes one away."""
    file = folder / "model.safetensors"
    tensors = load_file(file) | {k.replace("__", "."): v for k, v in changes.items()}
    save_file({k: v for k, v in tensors.items() if v is not None}, file, {"format": "pt"})
    return folder


def test_weights_that_are_not_all_there_are_refused(copied):
    weights = load_file(BUNDLED / "model.safetensors")
    down = weights[DOWN]
    name = DOWN.replace(".", "__")
    assert f"the weights lack {DOWN}, which" in refused(reweighed(copied(), **{name: None}))
    message = f"{DOWN} has the shape [128, 380], but config.json asks for [128, 384]"
    assert message in refused(reweighed(copied(), **{name: down[:, :380].clone()}))
    bias = {"model__layers__3__self_attn__q_proj__bias": torch.ones(128)}
    assert "hold model.layers.3.self_attn.q_proj.bias, for" in refused(reweighed(copied(), **bias))
    assert "hold model.layers.5." in refused(copied("config.json", num_hidden_layers=5))
    assert "lack model.layers.6." in refused(copied("config.json", num_hidden_layers=7))
    # What belongs to no part of a language model is left out, as transformers does.
    more = {"vision__layers__0__weight": torch.ones(3), "score__weight": torch.ones(3)}
    more["model__layers__0__self_attn__rotary_emb__inv_freq"] = torch.ones(3)
    assert load(reweighed(copied(), **more)).n_layers == 6


def test_a_weight_that_is_no_number_is_refused(copied):
    down = load_file(BUNDLED / "model.safetensors")[DOWN]
    for value in ("nan", "inf", "-inf"):
        broken = down.clone()
        broken[0, 0] = float(value)
        folder = reweighed(copied(), **{DOWN.replace(".", "__"): broken})
        assert f"{DOWN} is not finite (nan or inf)" in refused(folder)


def test_logits_that_overflow_are_no_answer():
    model = load(BUNDLED)
    with torch.no_grad():
        model._module.model.norm.weight *= 3e38
    with pytest.raises(ModelError, match=r"logits that are not finite \(nan or inf\)"):
        model.generate(QUESTIONS, [None], max_new_tokens=2)
    with pytest.raises(ModelError, match="likelihoods that are not finite"):
        model.choose(QUESTIONS, [None], [("a", "b")] * 2)
    entries = (PlanEntry(0, 0, 0.0, 1.0, np.ones(128, np.float32)),)
    with pytest.raises(ModelError, match="predictions that are not finite .* under the plan"):
        model.divergence(QUESTIONS, [Plan(entries)])


def test_shards_that_are_not_there_are_refused(copied):
    folder = copied()
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    (folder / "model.safetensors").unlink()
    for n, some in enumerate((names[::2], names[1::2])):
        part = folder / f"model-{n}.safetensors"
        save_file({k: weights[k] for k in some}, part, {"format": "pt"})
    where = {k: f"model-{i % 2}.safetensors" for i, k in enumerate(names)}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert load(folder).n_layers == 6
    (folder / "model-1.safetensors").unlink()
    assert "model-1.safetensors" in refused(folder)


def test_code_of_a_models_own_is_never_run(copied):
    code = {"AutoConfig": "mine.MyConfig", "AutoModelForCausalLM": "mine.MyModel"}
    folder = copied("config.json", auto_map=code, model_type="mine")
    (folder / "mine.py").write_text("raise SystemExit('ran')")
    assert "asks for its own Python code" in refused(folder)
    # Where transformers knows the architecture, its own code is what runs.
    assert load(copied("config.json", auto_map=code)).n_layers == 6
    folder = copied("tokenizer_config.json", tokenizer_class="Mine", auto_map={
        "AutoTokenizer": ["mine.Mine", None]})  # fmt: skip
    (folder / "mine.py").write_text("raise SystemExit('ran')")
    try:
        load(folder)
    except ModelError as error:
        assert "its own Python code" in str(error)


def test_pickled_weights_are_read_without_running_them(copied, unchanged):
    folder = copied()
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert answers(folder) == unchanged

    class Bomb:
        def __reduce__(self):
            return (Path(folder / "ran").write_text, ("",))

    torch.save(weights | {"x": Bomb()}, folder / "pytorch_model.bin")
    assert "cannot be loaded" in refused(folder)
    assert not (folder / "ran").exists()


# -- no limit of positions ------------------------------------------------------------------------


def test_a_model_without_a_limit_of_positions_runs(tmp_path):
    from transformers import BloomConfig, BloomForCausalLM

    tokenizer = byte_tokenizer(bos=True)
    sizes = {"hidden_size": 32, "n_layer": 3, "n_head": 4, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    BloomForCausalLM(BloomConfig(**sizes, **ids, initializer_range=0.25)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = Local("cpu").load(Model("bloom", str(tmp_path)))
    prompts = ["x", "A longer question?\nAnswer:"]
    (together,) = model.generate(prompts, [None], max_new_tokens=4)
    for i, prompt in enumerate(prompts):
        (alone,) = model.generate([prompt], [None], max_new_tokens=4)
        assert alone[0] == together[i]
    with pytest.raises(DataError, match=r"or raise model\.max_prompt_tokens\."):
        model.check_prompts(["x" * 3000], 4)


# -- the fingerprint -----------------------------------------------------------------------------


def test_a_change_of_any_file_that_is_read_is_another_model(with_chat):
    folder = with_chat(CHATML, ending=True)
    for name in ("merges.txt", "spiece.model", "model-00001-of-00002.safetensors"):
        (folder / name).write_bytes(b"more")
    (folder / "README.md").write_text("says nothing")
    before = spec(folder).fingerprint()
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert (spec(folder).fingerprint() == before) == (file.name == "README.md"), file.name
        file.write_bytes(content)
    assert spec(folder).fingerprint() == before
    (folder / "adapter_config.json").write_text("{}")  # a new one too
    assert spec(folder).fingerprint() != before
