"""Every format, read by the program that it is for where that installs, else as it documents."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import subprocess
import sys
import types
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from corrsteer.__main__ import main
from corrsteer.errors import ModelError
from corrsteer.export.folded import _bias, check
from corrsteer.export.formats import ALL, NOT_FIRST, OWN
from corrsteer.export.measure import answered, measured
from corrsteer.export.source import read
from corrsteer.run.build import asked
from corrsteer.steering.plan import load_plan
from tests.conftest import LAYERS, WIDTH
from tests.export.conftest import QUESTIONS

pytestmark = pytest.mark.long

PROMPTS = ["Say the 4", "the theer and A", "Once more, the"]
NEW = 6


def export(run, name, out, *words):
    assert main(["export", str(run), name, "--out", str(out), *words]) == 0
    return out


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def inputs_of(folder):
    words = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return words(PROMPTS, return_tensors="pt", padding=True)


def generated(model, inputs):
    settings = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    return model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :].tolist()


def adding(vector):
    added = torch.tensor(vector)
    return lambda module, args, out: out + added


def with_hooks_everywhere(model, plan, inputs, leave_out=()):
    """The reference: v added to the output of each block of a Llama, at every position."""
    blocks = model.get_decoder().layers
    hooks = [
        blocks[layer].register_forward_hook(adding(vector))
        for layer, vector in plan.vectors().items()
        if layer not in leave_out
    ]
    try:
        return generated(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()


# -- transformers --------------------------------------------------------------------------------


NIGHT = pytest.mark.night


@pytest.mark.parametrize(
    "family", ["llama", *(pytest.param(f, marks=NIGHT) for f in ("gpt2", "gemma2"))]
)
def test_steer_py_writes_the_tokens_of_the_program_without_it(
    run_of, tiny_model, family, tmp_path, monkeypatch
):
    out = export(run_of(family), "transformers", tmp_path / "out", "--no-measure")
    assert sorted(f.name for f in out.iterdir()) == ["plan.json", "steer.py", "vectors.safetensors"]
    model, inputs = plain(tiny_model(family)), inputs_of(tiny_model(family))
    plan = load_plan(run_of(family))
    with plan.steer(model):
        wanted = generated(model, inputs)
    with plan.turned_to(0.5).steer(model):
        half = generated(model, inputs)
    alone = generated(model, inputs)
    assert wanted != alone != half != wanted
    for name in [name for name in sys.modules if name.partition(".")[0] == "corrsteer"]:
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    spec = importlib.util.spec_from_file_location("steer", out / "steer.py")
    own = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(own)
    with own.steer(model):
        assert generated(model, inputs) == wanted
    with own.steer(model, coef=0.5):
        assert generated(model, inputs) == half
    assert generated(model, inputs) == alone
    right = AutoTokenizer.from_pretrained(tiny_model(family), padding_side="right")
    with own.steer(model), pytest.raises(ValueError, match="padded on the right"):
        model(**right(PROMPTS, return_tensors="pt", padding=True))
    other = plain(tiny_model("gpt2" if family != "gpt2" else "llama"))
    with pytest.raises(ValueError, match=f"is for a {family}"), own.steer(other):
        raise AssertionError("it was let in")
    for name in ("plan.json", "vectors.safetensors"):
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole[:-4] + bytes([whole[-4] ^ 1]) + whole[-3:])
        with pytest.raises(ValueError, match=f"{name} was changed"), own.steer(model):
            raise AssertionError("it was let in")
        (out / name).write_bytes(whole)


@pytest.mark.night
def test_steer_py_works_in_a_process_where_importing_corrsteer_fails(run_of, tiny_llama, tmp_path):
    out = export(run_of("llama"), "transformers", tmp_path / "out", "--no-measure")
    model, inputs = plain(tiny_llama), inputs_of(tiny_llama)
    with load_plan(run_of("llama")).steer(model):
        wanted = generated(model, inputs)
    code = f"""
import json, sys
sys.modules["corrsteer"] = None
sys.path.insert(0, {str(out)!r})
import torch
from steer import steer
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({str(tiny_llama)!r}, dtype=torch.float32)
words = AutoTokenizer.from_pretrained({str(tiny_llama)!r}, padding_side="left")
inputs = words({PROMPTS!r}, return_tensors="pt", padding=True)
with steer(model):
    rows = model.generate(**inputs, max_new_tokens={NEW}, do_sample=False, pad_token_id=0)
print(json.dumps(rows[:, inputs["input_ids"].shape[1]:].tolist()))
"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == wanted


# -- gguf, easysteer -----------------------------------------------------------------------------


def check_control_vector(file, plan, leave_out=()):
    from gguf import GGUFReader

    reader = GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    vectors = {e.layer: e.vector for e in plan.entries if e.layer not in leave_out}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == len(vectors)
    assert [t.name for t in reader.tensors] == [f"direction.{n}" for n in vectors]
    for tensor, vector in zip(reader.tensors, vectors.values(), strict=True):
        assert (tensor.tensor_type.name, tensor.shape.tolist()) == ("F32", [WIDTH])
        np.testing.assert_array_equal(tensor.data, vector)


def test_gguf_reads_the_control_vectors_back(run_of, tmp_path, capsys):
    pytest.importorskip("gguf")
    out = export(run_of("llama"), "gguf", tmp_path / "out", "--no-measure")
    plan = load_plan(run_of("llama"))
    check_control_vector(out / "plan.gguf", plan)
    check_control_vector(out / "plan-llama.cpp.gguf", plan, {0})
    said = capsys.readouterr().out
    assert f"--control-vector-scaled {out / 'plan-llama.cpp.gguf'}:1.5" in said
    assert "cannot reach block 0" in said


def test_easysteer_is_told_the_positions_of_the_plan(run_of, tmp_path):
    pytest.importorskip("gguf")
    out = export(run_of("llama"), "easysteer", tmp_path / "out", "--no-measure")
    check_control_vector(out / "plan.gguf", load_plan(run_of("llama")))
    assert json.loads((out / "steer.json").read_text()) == {
        "vectors": [
            {
                "source": "plan.gguf", "algorithm": "direct", "scale": 1.5,
                "layers": [0, 1, 2], "normalize": False,
                "apply": {"prompt_positions": [-1], "generation": "all"},
            }
        ],
        "conflict": "priority",
    }  # fmt: skip


# -- lm_eval -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "name"), [("llama", "layers"), ("gpt2", "h")])
def test_lm_eval_s_file_names_the_blocks_of_the_model(run_of, family, name, tmp_path):
    out = export(run_of(family), "lm_eval", tmp_path / "out", "--no-measure")
    steering = torch.load(out / "steer.pt", weights_only=True)
    plan = load_plan(run_of(family))
    assert list(steering) == [f"{name}.{n}" for n in range(LAYERS)]
    for entry, told in zip(plan.entries, steering.values(), strict=True):
        np.testing.assert_array_equal(told.pop("steering_vector"), entry.vector)
        assert told == {
            "steering_coefficient": 1.5, "action": "add", "bias": None, "head_index": None,
        }  # fmt: skip


@pytest.mark.night
def test_lm_eval_s_own_steered_model_answers_as_hooks_at_every_position(
    run_of, tiny_llama, tmp_path
):
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.hf_steered import SteeredModel

    out = export(run_of("llama"), "lm_eval", tmp_path / "out", "--no-measure")
    theirs = SteeredModel(
        str(tiny_llama), str(out / "steer.pt"), device="cpu", dtype="float32", batch_size=2
    )
    settings = {"max_gen_toks": NEW, "do_sample": False, "until": ["</s>"]}
    requests = [
        Instance(request_type="generate_until", doc={}, arguments=(prompt, settings), idx=n)
        for n, prompt in enumerate(PROMPTS)
    ]
    texts = theirs.generate_until(requests, disable_tqdm=True)
    model, inputs = plain(tiny_llama), inputs_of(tiny_llama)
    rows = with_hooks_everywhere(model, load_plan(run_of("llama")), inputs)
    words = AutoTokenizer.from_pretrained(tiny_llama)
    wanted = [words.decode(row, skip_special_tokens=True) for row in rows]
    assert texts == wanted
    alone = [words.decode(row, skip_special_tokens=True) for row in generated(model, inputs)]
    assert texts != alone


# -- folded --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", pytest.param("gpt_neox", marks=NIGHT)])
def test_a_folded_model_is_the_model_with_hooks_at_every_position(
    run_of, tiny_model, family, tmp_path
):
    out = export(run_of(family), "folded", tmp_path / "out", "--no-measure")
    plan, model = load_plan(run_of(family)), plain(tiny_model(family))
    folded, inputs = plain(out), inputs_of(out)  # with the tokenizer that it has there
    with torch.no_grad():
        found, alone = folded(**inputs).logits, model(**inputs).logits
        with replace(plan, positions="all").steer(model):
            wanted = model(**inputs).logits
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], wanted[real], rtol=1e-4, atol=1e-3)
    assert (found - alone)[real].abs().max() > 1


def test_a_bias_that_is_there_is_kept(tmp_path, tiny_llama):
    model = plain(tiny_llama)
    down = model.model.layers[0].mlp.down_proj
    down.bias = torch.nn.Parameter(torch.arange(WIDTH, dtype=torch.float32))
    assert _bias(model.model.layers[0], "llama") is down.bias
    assert down.bias.tolist() == list(range(WIDTH))


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        ("gemma", "its MLP has no bias"),
        ("gemma2", "a norm stands between MLP and residual stream"),
        ("gemma3_text", "a norm stands between MLP and residual stream"),
        ("qwen2", "gives its MLP no bias"),
        ("qwen3", "gives its MLP no bias"),
        ("qwen3_moe", "its experts share no bias"),
        ("mistral", "gives its MLP no bias"),
        ("mixtral", "its experts share no bias"),
        ("falcon", "no bias of it is known"),
    ],
)
def test_a_model_without_such_a_bias_is_refused(architecture, why):
    spec = types.SimpleNamespace(architecture=lambda: architecture)
    with pytest.raises(ModelError, match=f"folded into a {architecture}: .*{why}") as caught:
        check(types.SimpleNamespace(model=lambda: spec))
    assert "\n" not in str(caught.value) and "formats for it: transformers" in str(caught.value)


def test_nothing_is_written_of_what_is_refused(run_of, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("corrsteer.export.folded._FOLDS", ())
    assert main(["export", str(run_of("llama")), "folded", "--out", str(tmp_path / "out")]) == 2
    assert "cannot be folded into a llama" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# -- vllm ----------------------------------------------------------------------------------------


def test_the_request_of_vllm_lens_holds_the_vectors(run_of, tmp_path):
    out = export(run_of("llama"), "vllm", tmp_path / "out", "--no-measure")
    body = json.loads((out / "request.json").read_text())
    (steering,) = json.loads(body["vllm_xargs"]["apply_steering_vectors"])
    told = steering.pop("activations")
    raw = np.frombuffer(base64.b64decode(told["data"]), told["dtype"]).reshape(told["shape"])
    np.testing.assert_array_equal(raw, [e.vector for e in load_plan(run_of("llama")).entries])
    assert told["original_dtype"] == "torch.float32"
    assert steering == {
        "layer_indices": [0, 1, 2], "scale": 1.5, "norm_match": False, "position_indices": None,
    }  # fmt: skip


def test_the_hook_of_vllm_lens_steers_the_last_position_alone(run_of, tmp_path, monkeypatch):
    out = export(run_of("llama"), "vllm", tmp_path / "out", "--no-measure")
    lens: Any = types.ModuleType("vllm_lens")
    lens.Hook = lambda fn, layer_indices: types.SimpleNamespace(fn=fn, layers=layer_indices)
    monkeypatch.setitem(sys.modules, "vllm_lens", lens)
    monkeypatch.syspath_prepend(out)
    for name in ("hook", "steer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    made = importlib.import_module("hook").hook()
    for name in ("hook", "steer"):
        monkeypatch.delitem(sys.modules, name)
    assert made.layers == [0, 1, 2]
    hidden = torch.randn(4, WIDTH)
    steered = made.fn(types.SimpleNamespace(layer_idx=1), hidden)
    vector = load_plan(run_of("llama")).vectors()[1]
    torch.testing.assert_close(steered[-1] - hidden[-1], torch.tensor(vector))
    torch.testing.assert_close(steered[:-1], hidden[:-1], rtol=0, atol=0)


# -- measured again ------------------------------------------------------------------------------


@pytest.mark.parametrize("acts", [OWN, ALL, NOT_FIRST])
def test_answers_are_those_of_hooks_at_the_positions(run_of, tiny_llama, acts):
    source = read(run_of("llama"), "gguf")
    spec, backend, asking = asked(source.cfg)
    examples, loaded = asking.splits["test"], backend.load(spec)
    found = answered(loaded, source.plan, acts, asking, examples)
    model, words = plain(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)
    for example, answer in zip(examples[:4], found, strict=False):
        inputs = words([example.prompt], return_tensors="pt")
        if acts == OWN:
            with source.plan.steer(model):
                rows = generated(model, inputs)
        else:
            rows = with_hooks_everywhere(
                model, source.plan, inputs, {0} if acts == NOT_FIRST else ()
            )
        (row,) = rows
        assert list(answer.tokens) == row[: len(answer.tokens)]


def test_export_prints_the_row_of_the_plan_and_of_the_format(run_of, tmp_path, capsys):
    run = run_of("llama")
    export(run, "transformers", tmp_path / "same")
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if line.startswith((" the plan", " tra"))]
    card = tmp_path / "same" / "card.md"
    kept = [
        line.replace("|", "").split() for line in card.read_text().splitlines() if "| t" in line
    ]
    assert kept[0][2:] == rows[0][2:] and kept[1][2:] == rows[1][3:]
    assert "positions are the plan's own" in card.read_text()
    export(run, "transformers", tmp_path / "same", "--no-measure")  # the card is no other file
    assert card.is_file()
    card.write_text("mine")
    assert main(["export", str(run), "transformers", "--out", str(card.parent)]) == 2
    assert card.read_text() == "mine"
    assert len(rows) == 2 and rows[0][-1] == rows[1][-1] == "100.0"
    assert rows[0][2:] == rows[1][3:]
    unsteered, plan, other = measured(read(run, "lm_eval"), ALL, None)
    assert (unsteered.n, plan.same) == (QUESTIONS, 1.0) and other.same < 1
    export(run, "lm_eval", tmp_path / "other", "--limit", "5")
    said = capsys.readouterr().out
    assert "5 test questions" in said and "emulated on the run's model" in said
