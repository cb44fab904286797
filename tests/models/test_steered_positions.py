"""Where a plan acts, at every setting of ``positions``, against plain forward hooks: one text at a
time, no padding, no cache, and positions counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from corrsteer.models.local import LocalModel
from tests.models.test_beside import SHORT
from tests.models.test_local import PROMPTS, load, plan_of
from tests.operators import Clamp, Side

NAMES = ["generation", "all", "prompt", "decode", "first_1", "first_3"]
NEW = 4
FAMILIES = ["llama", "gemma2", "gpt2", pytest.param("qwen3_5", marks=pytest.mark.night)]
PLAN = plan_of((0, 2), coef=1.5)


def arms(**how):
    return {name: replace(PLAN, positions=name, **how) for name in NAMES}


def acted(name: str, before: int, whole: int) -> list[int]:
    """Of a text of ``whole`` tokens that are read, the first ``before`` its prompt's."""
    if name == "prompt":
        return list(range(before))
    if name == "all":
        return list(range(whole))
    if name == "decode":
        return list(range(before, whole))
    positions = list(range(before - 1, whole))
    return positions if name == "generation" else positions[: int(name[-1])]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tiny_model):
    return load(tiny_model(request.param))


@pytest.fixture(scope="module")
def llama(tiny_llama):
    return load(tiny_llama)


@torch.no_grad()
def read_by_hooks(model, ids, at, plan):
    """(logits [T, V], {layer: residuals [T, M]}) of one text, steered at the positions ``at``."""
    outputs = {}

    def hook(layer, vector):
        def change(module, args, output):
            hidden = output[0] if isinstance(output, tuple) else output
            for n in at:
                hidden[0, n] += torch.tensor(vector)
            outputs[layer] = hidden[0].clone()

        return change

    blocks = [b._module for b in model._blocks]
    handles = [blocks[n].register_forward_hook(hook(n, v)) for n, v in plan.vectors().items()]
    logits = model._module(torch.tensor([ids]), use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return logits, outputs


def written_by_hooks(model, prompt, plan):
    ids = model._tokenizer(prompt)["input_ids"]
    before = len(ids)
    while len(ids) < before + NEW and 2 not in ids[before:]:
        logits, _ = read_by_hooks(model, ids, acted(plan.positions, before, len(ids)), plan)
        ids = [*ids, int(logits[-1].argmax())]
    return tuple(ids[before:])


def answers_are_those_of_plain_hooks(model, prompts):
    """All arms in one call; half of them share their prompts."""
    plans = arms()
    unsteered, *columns = model.generate(prompts, [None, *plans.values()], max_new_tokens=NEW)
    for (name, plan), column in zip(plans.items(), columns, strict=True):
        tokens = [written_by_hooks(model, prompt, plan) for prompt in prompts]
        assert [c.tokens for c in column] == tokens, name
        steps = [len(acted(name, 1, len(t))) for t in tokens]
        assert [c.steered for c in column] == (steps if name != "prompt" else [1] * len(tokens))
        assert tokens != [c.tokens for c in unsteered]
    assert len({tuple(c.tokens for c in column) for column in columns}) == len(NAMES)


def test_answers_are_those_of_plain_hooks(model):
    answers_are_those_of_plain_hooks(model, PROMPTS)


def test_answers_beside_each_other_behind_a_window_are_those_of_plain_hooks(tiny_gemma2):
    answers_are_those_of_plain_hooks(load(tiny_gemma2), SHORT[:3])


def test_the_first_token_is_the_unsteered_one_where_only_generated_tokens_are_steered(model):
    decode, unsteered = model.generate(
        PROMPTS, [arms()["decode"], None], max_new_tokens=1, allowed=[" A", " B"]
    )
    assert decode == unsteered and {c.steered for c in decode} == {0}
    longer = model.generate(PROMPTS, [arms()["decode"], None], max_new_tokens=NEW)
    assert [c.tokens[0] for c in longer[0]] == [c.tokens[0] for c in longer[1]]
    assert longer[0] != longer[1]


def test_options_weigh_as_by_plain_hooks(model):
    prompts, options = PROMPTS[:3], [("yes", "no, not at all"), ("B", "three"), ("the sea", "it")]
    plans = arms()
    columns = model.choose(prompts, [None, *plans.values()], options, "sum")[1:]
    for (name, plan), column in zip(plans.items(), columns, strict=True):
        for prompt, texts, answer in zip(prompts, options, column, strict=True):
            before = len(model._tokenizer(prompt)["input_ids"])
            for text, weighed in zip(texts, answer.options, strict=True):
                ids = model._tokenizer(f"{prompt} {text}")["input_ids"]
                at = acted(name, before, len(ids) - 1)
                logs = read_by_hooks(model, ids, at, plan)[0].log_softmax(-1)
                log = sum(float(logs[n - 1, ids[n]]) for n in range(before, len(ids)))
                assert weighed.log == pytest.approx(log, abs=2e-3), name
            tokens = len(answer.tokens)
            assert answer.steered == (1 if name == "prompt" else len(acted(name, 1, tokens)))


def test_replay_reads_what_plain_hooks_read(model):
    answers = [(50, 51, 60, 70), (80,), (), (2, 90), (50, 60, 70)]
    close = 1e-3 if any("linear" in n for n, _ in model._module.named_modules()) else 1e-5
    for name, plan in arms().items():
        found = model.replay(PROMPTS, answers, [0, 2], "all", intervention=plan)
        for row, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
            ids = model._tokenizer(prompt)["input_ids"]
            before, ids = len(ids), [*ids, *answer]
            # The last token of an answer is read by no step, so it is not steered.
            at = acted(name, before, max(before, len(ids) - 1))
            if not answer and name != "prompt" and name != "all":
                at = []  # and without an answer there is no step
            _, outputs = read_by_hooks(model, ids, at, plan)
            mine = found.sample == row
            for layer in (0, 2):
                theirs = outputs[layer][found.position[mine]]
                torch.testing.assert_close(
                    found.layers[layer][mine], theirs, atol=close, rtol=close, msg=name
                )


@pytest.mark.parametrize("how", [{}, {"operator": Clamp(3.0), "gate": Side(1)}], ids=str)
def test_arms_in_one_call_answer_as_each_alone(llama, how):
    plans = [None, *arms(**how).values()]
    options = [("yes", "no, not at all")] * len(SHORT)
    together = llama.generate(SHORT, plans, max_new_tokens=NEW)
    weighed = llama.choose(SHORT, plans, options)
    for plan, column, other in zip(plans, together, weighed, strict=True):
        assert llama.generate(SHORT, [plan], max_new_tokens=NEW)[0] == column
        (alone,) = llama.choose(SHORT, [plan], options)
        for a, b in zip(alone, other, strict=True):
            assert a == b
            assert [o.log for o in a.options] == pytest.approx([o.log for o in b.options], abs=1e-4)


def test_who_changes_the_prompt_shares_no_prompt(llama, monkeypatch):
    """Nor do prompts that nobody shares cost a pass of their own."""
    shared, beside, alone = [], [], []
    cache, columns, go_on = LocalModel._prompt_cache, LocalModel._columns, LocalModel._continue

    def cached(self, *rest):
        shared.append(1)
        return cache(self, *rest)

    def together(self, inputs, *rest):
        beside.append(inputs["input_ids"].shape[1])
        return columns(self, inputs, *rest)

    def one(self, inputs, cache, how, options):
        alone.append((how.changes_prompt, cache is None))
        return go_on(self, inputs, cache, how, options)

    monkeypatch.setattr(LocalModel, "_prompt_cache", cached)
    monkeypatch.setattr(LocalModel, "_columns", together)
    monkeypatch.setattr(LocalModel, "_continue", one)
    llama.generate(SHORT, [None, *arms().values()], max_new_tokens=NEW)
    assert len(shared) == 1 and beside[0] == 5  # of 7 arms
    assert alone == [(True, True)] * 2
    llama.generate(SHORT, [arms()["all"]], max_new_tokens=2)
    assert len(shared) == 1
    llama.choose(SHORT, [None, *arms().values()], [("yes", "no")] * len(SHORT))
    assert len(shared) == 2


def test_a_text_that_is_no_answer_is_steered_everywhere(llama):
    found = llama.divergence(PROMPTS, list(arms().values()))
    assert all(row == found[0] for row in found) and found[0][0].kl > 0
