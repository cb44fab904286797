"""A plan on a plain transformers model, against the program's own way of steering."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from corrsteer.errors import ModelError
from corrsteer.models.local import Local
from corrsteer.models.spec import Model
from corrsteer.steering import operators
from corrsteer.steering.gates import FeatureActive, FeatureInactive
from corrsteer.steering.operators import Ablate, Add, Fill, NormPreserving, ProjectOut
from corrsteer.steering.plan import Plan, PlanEntry, load_plan
from tests.operators import Broken, Clamp, Minus, Side, made_encoder

PROMPTS = [
    "A long question about the weather there, and then some more?\nAnswer:",
    "x",
    "Is it A or B?\nAnswer:",
    "Who was the other?\nAnswer:",
    "yes\nAnswer:",
]
NEW, PAD, EOS, WIDTH = 8, 0, 2, 32


def plan_of(layers=(0, 1, 2), seed=0, width=WIDTH, **how) -> Plan:
    rng = np.random.default_rng(seed)
    return Plan(
        tuple(PlanEntry(n, 0, 0.0, 1.0, rng.normal(size=width).astype(np.float32)) for n in layers),
        **how,
    )


def reading(operator, **how) -> Plan:
    """A plan that knows its features."""
    plan = plan_of(operator=operator, **how)
    entries = [
        replace(e, vector=3 * encoder.decoder, encoder=encoder)
        for e in plan.entries
        for encoder in [made_encoder(e.layer)]
    ]
    return plan.with_entries(tuple(entries))


PLANS = {
    "add": plan_of(coef=1.5),
    "one layer": plan_of([1], coef=-2.0),
    "clamp": plan_of(operator=Clamp(4.0), coef=1.5),
    "minus": plan_of(operator=Minus()),
    "gate": plan_of(coef=1.5, gate=Side(1)),
    "clamp, gate": plan_of(operator=Clamp(4.0), gate=Side(1)),
    "all": plan_of(coef=1.5, positions="all"),
    "prompt, clamp, gate": plan_of(operator=Clamp(4.0), gate=Side(1), positions="prompt"),
    "fill": reading(Fill(), coef=0.4),
    "ablate": reading(Ablate(), coef=3.0),
    "set where active": reading(operators.Clamp(2.0), gate=FeatureActive(), positions="all"),
    "add where inactive": reading(Add(), gate=FeatureInactive(), coef=0.8),
    "project out": plan_of(operator=ProjectOut()),
    "norm preserving": plan_of([1], coef=2.0, operator=NormPreserving(), positions="prompt"),
    "decode": plan_of(coef=1.5, positions="decode"),
    "first_2": plan_of([1], coef=3.0, positions="first_2"),
    "dial at 0": plan_of(coef=0.0),
    "nothing": Plan(()),
}


class Plain:
    """A transformers model as anybody would load it."""

    def __init__(self, folder, words=None):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.tokenizer = AutoTokenizer.from_pretrained(words or folder, padding_side="left")

    def inputs(self, prompts=PROMPTS, **settings):
        return self.tokenizer(prompts, return_tensors="pt", padding=True, **settings)

    def answers(self, prompts=PROMPTS, **settings):
        """Token ids of each answer, up to the end of its text."""
        inputs = self.inputs(prompts)
        settings = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": PAD, **settings}
        rows = self.model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]
        return [tuple(row[: row.index(EOS) + 1] if EOS in row else row) for row in rows.tolist()]

    @property
    def hooks(self) -> int:
        parts = [*self.model.modules()]
        return sum(len(p._forward_hooks) + len(p._forward_pre_hooks) for p in parts)


@pytest.fixture(scope="module", params=["llama", "gemma2", "gpt2", "qwen3"])
def pair(request, tiny_model):
    """A plain model, and the answers of the program to ``PROMPTS`` under all plans."""
    folder = tiny_model(request.param)
    ours = Local("cpu").load(Model("tiny", str(folder), dtype="float32"))
    columns = ours.generate(PROMPTS, [None, *PLANS.values()], max_new_tokens=NEW)
    answers = [[c.tokens for c in column] for column in columns]
    return Plain(folder), dict(zip(["unsteered", *PLANS], answers, strict=True))


@pytest.fixture(scope="module")
def llama(tiny_llama):
    return Plain(tiny_llama)


@pytest.mark.parametrize("name", PLANS)
def test_the_tokens_are_those_of_the_program(pair, name):
    plain, expected = pair
    with PLANS[name].steer(plain.model) as model:
        assert model is plain.model
        assert plain.answers() == expected[name]  # in one batch, padded on the left
        assert [plain.answers([p])[0] for p in PROMPTS[:2]] == expected[name][:2]
    assert plain.answers() == expected["unsteered"] and plain.hooks == 0


def test_the_plans_of_these_tests_do_something(pair):
    _, expected = pair
    assert expected["dial at 0"] == expected["nothing"] == expected["unsteered"]
    others = [name for name in PLANS if name not in ("dial at 0", "nothing")]
    assert len({tuple(expected[name]) for name in ["unsteered", *others]}) == 1 + len(others)


def test_a_plan_that_was_read_from_a_run_acts_alike(llama, tmp_path):
    plan = replace(PLANS["clamp, gate"], about={"model": {"architecture": "llama"}})
    plan.save(tmp_path / "run" / "plan")
    with plan.steer(llama.model):
        expected = llama.answers()
    with load_plan(tmp_path / "run").steer(llama.model):
        assert llama.answers() == expected
    assert llama.answers() != expected


def test_two_plans_act_one_after_the_other(llama):
    forward, back = plan_of(coef=1.5), plan_of(coef=1.5, operator=Minus())
    unsteered = llama.answers()
    with forward.steer(llama.model):
        steered = llama.answers()
        with back.steer(llama.model):  # takes away what the first one adds
            assert llama.answers() == unsteered
        assert llama.answers() == steered != unsteered
    assert llama.hooks == 0


def test_a_plain_call_is_steered_at_its_last_position_only(llama):
    inputs = llama.inputs(PROMPTS[:1])
    with torch.no_grad():
        before = llama.model(**inputs).logits
        with plan_of(coef=1.5).steer(llama.model):
            after = llama.model(**inputs).logits
    torch.testing.assert_close(after[:, :-1], before[:, :-1])
    assert not torch.allclose(after[:, -1], before[:, -1], atol=0.1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_model_is_as_before_after_an_exception(llama, error):
    unsteered = llama.answers()
    with pytest.raises(error), plan_of().steer(llama.model):
        assert llama.hooks > 0
        raise error
    assert llama.hooks == 0 and llama.answers() == unsteered


def test_what_is_no_model_is_refused_in_one_line():
    class Pipeline:
        model = None

    for wrong in (Pipeline(), torch.nn.Linear(2, 2), "gpt2", None):
        with (
            pytest.raises(TypeError, match=r"steer takes a causal language model .*pipeline.model"),
            plan_of().steer(wrong),
        ):
            pass


def wide(x, parts, dial):
    return x > 0


def soft(x, parts, dial):
    return x.mean(-1)


@pytest.mark.parametrize("function", [wide, soft])
def test_a_gate_that_makes_no_mask_of_positions_is_refused(llama, function):
    @dataclass(frozen=True)
    class Odd(Side):
        open = staticmethod(function)

    refused = pytest.raises(ValueError, match=r"a gate made torch.* it must make torch.bool \[")
    with refused, plan_of(gate=Odd()).steer(llama.model):
        llama.answers()


def test_a_plan_is_shown_in_a_line():
    assert repr(plan_of([1])) == (
        "Plan(entries=(PlanEntry(layer=1, feature=0, r=0.0, coefficient=1.0),), coef=1.0,"
        " operator=Add(), positions='generation', gate=Always())"
    )


def test_the_model_is_as_before_after_an_operator_that_fails(llama):
    unsteered = llama.answers()
    with pytest.raises(KeyError, match="boom"), plan_of(operator=Broken()).steer(llama.model):
        llama.answers()
    assert llama.hooks == 0 and llama.answers() == unsteered


# -- ways of generating --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "temperature": 0.7},
        {"num_beams": 3},
        {"do_sample": True, "num_beams": 2},
        {"use_cache": False},
        {"cache_implementation": "static"},
    ],
)
def test_other_ways_of_generating_are_steered(llama, settings):
    def answers():
        torch.manual_seed(0)
        return llama.answers(**settings)

    unsteered = answers()
    with plan_of(coef=0.0).steer(llama.model):
        assert answers() == unsteered
    with plan_of(coef=1.5).steer(llama.model):
        steered = answers()
    assert len(steered) == len(PROMPTS) and steered != unsteered


@pytest.mark.parametrize("name", ["add", "prompt, clamp, gate", "decode"])
@pytest.mark.parametrize("settings", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_the_cache_makes_no_difference(llama, name, settings):
    with PLANS[name].steer(llama.model):
        assert llama.answers(**settings) == llama.answers()


def test_plain_calls_are_each_a_prompt(llama):
    """Also where the second text is the first one and a token more."""
    inputs = llama.inputs(PROMPTS[:1])["input_ids"]
    with torch.no_grad():
        unsteered = llama.model(inputs).logits
        with PLANS["decode"].steer(llama.model):
            llama.model(inputs[:, :-1])
            assert torch.equal(llama.model(inputs).logits, unsteered)


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "error", "words"),
    [
        (plan_of(width=16), ModelError, "width 16 at layer 0; .* layers 0 to 2 of width 32"),
        (plan_of(width=16, operator=Clamp()), ModelError, "width 16 at layer 0"),
        (plan_of([0, 3]), ModelError, "at layer 3; this model has layers 0 to 2"),
        (plan_of([-1]), ModelError, "at layer -1"),
        (
            replace(plan_of(), about={"model": {"architecture": "gpt2"}}),
            ModelError, "made for a gpt2, but this model is a llama",
        ),
    ],
)  # fmt: skip
def test_a_plan_that_does_not_fit_is_refused_in_one_line(llama, plan, error, words):
    with pytest.raises(error, match=words) as caught, plan.steer(llama.model):
        raise AssertionError("it was let in")
    assert "\n" not in str(caught.value)
    assert llama.hooks == 0


def test_another_model_of_the_same_shape_is_refused_in_one_line(llama, tiny_llama, tmp_path):
    spec = Model("tiny", str(tiny_llama))
    plan = replace(plan_of(), about={"model": {"name": "tiny", "fingerprint": spec.fingerprint()}})
    with plan.steer(llama.model):
        steered = llama.answers()
    llama.model.save_pretrained(tmp_path)  # other files, as after training
    other = Plain(tmp_path, tiny_llama)
    refused = pytest.raises(
        ModelError, match=f"for another model .tiny. than the one in {tmp_path}"
    )
    with refused as caught, plan.steer(other.model):
        raise AssertionError("it was let in")
    assert "\n" not in str(caught.value) and "for_any_model" in str(caught.value)
    with plan.for_any_model().steer(other.model):
        assert other.answers() == steered


def test_a_batch_padded_on_the_right_is_refused_in_one_line(llama):
    inputs = llama.inputs(padding_side="right")
    assert not inputs["attention_mask"][:, -1].all()
    with plan_of().steer(llama.model):
        for call in (llama.model, llama.model.generate):
            with pytest.raises(ValueError, match="padded on the right.*'left'") as caught:
                call(**inputs)
            assert "\n" not in str(caught.value)
        llama.model(**llama.inputs(PROMPTS[:1]))  # one prompt needs no padding
    assert llama.hooks == 0


def test_the_program_refuses_another_width_whatever_the_operator(tiny_llama):
    ours = Local("cpu").load(Model("tiny", str(tiny_llama), dtype="float32"))
    for operator in (Minus(), Clamp()):
        with pytest.raises(ModelError, match="has 16 numbers, but model 'tiny' has width 32"):
            ours.generate(PROMPTS, [plan_of(width=16, operator=operator)], max_new_tokens=1)
