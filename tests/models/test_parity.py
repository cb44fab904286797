"""The nnsight backend against plain PyTorch: forward hooks, one sample, no padding, no cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from corrsteer.models.local import Local, LocalModel
from corrsteer.models.spec import Model
from corrsteer.steering.plan import Plan, PlanEntry
from tests.conftest import FAMILIES

PROMPTS = [
    "Which of the two is taller, and by how much?\nAnswer:",
    "xy",
    "The cat saw the other cat there.\nAnswer:",
    "One and one?\nAnswer:",
]
NEW = 6
BLOCKS = {
    "gpt2": ("transformer.h", "transformer.ln_f"),
    "gpt_neox": ("gpt_neox.layers", "gpt_neox.final_layer_norm"),
}


@dataclass
class Family:
    ours: LocalModel
    plain: torch.nn.Module
    blocks: list[torch.nn.Module]
    ours_after: list[torch.nn.Module]
    """In our copy, what reads the output of each block: the next block or the final norm."""
    close: float
    """Largest difference, absolute and relative, between equal numbers."""


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, tiny_model) -> Family:
    from transformers import AutoModelForCausalLM

    folder = str(tiny_model(request.param))
    ours = Local(device="cpu").load(Model("tiny", folder))
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    blocks, norm = BLOCKS.get(request.param, ("model.layers", "model.norm"))
    after = [*ours._module.get_submodule(blocks)[1:], ours._module.get_submodule(norm)]
    # Linear attention sums a prompt in chunks and an answer step by step, in another order.
    close = 1e-3 if request.param == "qwen3_5" else 1e-5
    return Family(ours, plain, list(plain.get_submodule(blocks)), after, close)


def plan_of(layers, seed=0, scale=1.0) -> Plan:
    rng = np.random.default_rng(seed)
    return Plan(
        tuple(PlanEntry(n, 0, 0.0, 1.0, rng.normal(size=32).astype(np.float32)) for n in layers),
        coef=scale,
    )


@torch.no_grad()
def by_hand(family: Family, prompt: str, vectors, new_tokens: int):
    """Greedy tokens, block outputs {layer: [T, M]} and logits [steps, V] of one sample.

    Every step runs the whole sequence again; hooks add each layer's vector from the last prompt
    token on.
    """
    ids = family.ours._tokenizer(prompt)["input_ids"]
    start, outputs = len(ids) - 1, {}

    def hook(layer):
        def change(module, args, output):
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            if layer in vectors:
                hidden[:, start:] += torch.from_numpy(vectors[layer])
            outputs[layer] = hidden[0]
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return change

    handles = [b.register_forward_hook(hook(i)) for i, b in enumerate(family.blocks)]
    tokens, logits = [], []
    while len(tokens) < new_tokens and 2 not in tokens:
        logits.append(family.plain(torch.tensor([ids + tokens]), use_cache=False).logits[0, -1])
        tokens.append(int(logits[-1].argmax()))
    for handle in handles:
        handle.remove()
    return tuple(tokens), outputs, torch.stack(logits)


def watched(family: Family, plan: Plan | None):
    """Our answers to PROMPTS, and what really flowed: (completions, prompt pass, steps).

    ``prompt pass`` is {layer: [B, T - 1, M]}; ``steps`` is a list of ({layer: [B, M]},
    logits [B, V]). Rows are in the order of PROMPTS.
    """
    passes: list[dict] = []
    module = family.ours._module
    handles = [
        module.register_forward_pre_hook(lambda m, a: passes.append({})),
        module.register_forward_hook(lambda m, a, out: passes[-1].update(logits=out.logits)),
    ]
    for layer, reader in enumerate(family.ours_after):

        def note(m, args, kwargs, layer=layer):
            hidden = args[0] if args else kwargs["hidden_states"]
            passes[-1][layer] = hidden.clone()

        handles.append(reader.register_forward_pre_hook(note, with_kwargs=True))
    answers = family.ours.generate(PROMPTS, [plan], max_new_tokens=NEW)[0]
    for handle in handles:
        handle.remove()
    (order,) = family.ours.batches(PROMPTS)
    rows = torch.tensor(order).argsort()
    passes = [{k: v[rows] for k, v in one.items()} for one in passes]
    head = {n: passes[0][n] for n in range(3)}
    steps = [({n: p[n][:, -1] for n in range(3)}, p["logits"][:, -1]) for p in passes[1:]]
    assert all(p[0].shape[1] == 1 for p in passes[1:])
    return answers, head, steps


@pytest.mark.parametrize("layers", [(), (1,), (0, 1, 2)], ids=str)
def test_generation_equals_plain_hooks(family, layers):
    plan = plan_of(layers, scale=4.0) if layers else None
    answers, _, steps = watched(family, plan)
    tolerance = {"atol": family.close, "rtol": family.close}
    for row, prompt in enumerate(PROMPTS):
        tokens, outputs, logits = by_hand(family, prompt, plan.vectors() if plan else {}, NEW)
        assert answers[row].tokens == tokens
        assert answers[row].steered == (len(tokens) if plan else 0)
        for n in range(len(tokens)):
            hidden, ours = steps[n]
            torch.testing.assert_close(ours[row], logits[n], **tolerance)
            for layer in range(3):
                theirs = outputs[layer][n - len(tokens)]
                torch.testing.assert_close(hidden[layer][row], theirs, **tolerance)
    if plan:
        unsteered = family.ours.generate(PROMPTS, [None], max_new_tokens=NEW)[0]
        assert [a.tokens for a in answers] != [a.tokens for a in unsteered]


def test_replay_reads_what_generation_had(family):
    answers = family.ours.generate(PROMPTS, [None], max_new_tokens=NEW)[0]
    found = family.ours.replay(PROMPTS, [a.tokens for a in answers], [2, 0], "generated")
    assert sorted(found.layers) == [0, 2]
    tolerance = {"atol": family.close, "rtol": family.close}
    for row, prompt in enumerate(PROMPTS):
        tokens, outputs, _ = by_hand(family, prompt, {}, NEW)
        prompt_ids = family.ours._tokenizer(prompt)["input_ids"]
        start, ids = len(prompt_ids) - 1, torch.tensor(prompt_ids + list(tokens))
        # All generation positions, but specials, which a random model may write, never count.
        places = [n for n in range(start, start + len(tokens)) if ids[n] > 2]
        mine = found.sample == row
        assert found.position[mine].tolist() == places
        assert torch.equal(found.token[mine], ids[places])
        for layer, residuals in found.layers.items():
            assert residuals.dtype == torch.float32
            theirs = outputs[layer][places]
            torch.testing.assert_close(residuals[mine], theirs, **tolerance)


@torch.no_grad()
def written_by_hooks(family: Family, prompt: str, vectors):
    """Tokens that transformers' own ``generate`` writes, with its cache, while hooks add each
    layer's vector at the newest position; and each step's residuals {layer: [steps, M]}."""
    steps: dict[int, list] = {n: [] for n in range(3)}

    def hook(layer):
        def change(module, args, output):
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            if layer in vectors:
                hidden[:, -1] += torch.from_numpy(vectors[layer])
            steps[layer].append(hidden[0, -1])
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return change

    handles = [b.register_forward_hook(hook(i)) for i, b in enumerate(family.blocks)]
    inputs = family.ours._tokenizer(prompt, return_tensors="pt")
    ids = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    whole = family.plain.generate(**ids, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    for handle in handles:
        handle.remove()
    tokens = whole[0, ids["input_ids"].shape[1] :].tolist()
    return tuple(tokens), {n: torch.stack(rows) for n, rows in steps.items()}


@pytest.mark.parametrize("layers", [(1,), (0, 1, 2)], ids=str)
def test_steered_replay_reads_what_steered_generation_had(family, layers):
    plan = plan_of(layers, scale=2.0)
    ours = family.ours
    (answers,) = ours.generate(PROMPTS, [plan], max_new_tokens=NEW)
    tokens = [a.tokens for a in answers]
    found = ours.replay(PROMPTS, tokens, [0, 2], "generated", intervention=plan)
    everywhere = ours.replay(PROMPTS, tokens, [0, 2], "all", intervention=plan)
    unsteered = ours.replay(PROMPTS, tokens, [0, 2], "all")
    tolerance = {"atol": family.close, "rtol": family.close}
    for row, prompt in enumerate(PROMPTS):
        written, steps = written_by_hooks(family, prompt, plan.vectors())
        assert tokens[row] == written
        ids = ours._tokenizer(prompt)["input_ids"]
        start = len(ids) - 1
        read = [n for n, i in enumerate([ids[-1], *written[:-1]]) if i > 2]
        mine, all_of_it = found.sample == row, everywhere.sample == row
        assert found.position[mine].tolist() == [start + n for n in read]
        position = everywhere.position[all_of_it]
        before, there = position < start, torch.isin(position, found.position[mine])
        for layer in (0, 2):
            residuals = found.layers[layer][mine]
            torch.testing.assert_close(residuals, steps[layer][read], **tolerance)
            whole = everywhere.layers[layer][all_of_it]
            torch.testing.assert_close(whole[there], residuals, **tolerance)
            plain = unsteered.layers[layer][all_of_it]
            torch.testing.assert_close(whole[before], plain[before], **tolerance)
            changed = not torch.allclose(whole[there], plain[there], atol=0.1)
            assert changed == (layer >= layers[0])


@torch.no_grad()
def logits_by_hooks(family: Family, ids, vectors):
    """Logits [T, V] of one text while hooks add each layer's vector wherever no special is."""
    at = torch.tensor(ids) > 2

    def hook(vector):
        def change(module, args, output):
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[0, at] += torch.from_numpy(vector)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return change

    handles = [family.blocks[n].register_forward_hook(hook(v)) for n, v in vectors.items()]
    logits = family.plain(torch.tensor([ids]), use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return logits[at]


def test_divergence_is_the_kl_of_plain_hooks_logits(family):
    texts = [*PROMPTS, "One</s>two"]
    plans = [plan_of((1,), scale=0.3), None, plan_of((0, 1, 2), seed=1)]
    found = family.ours.divergence(texts, plans)
    for plan, row in zip(plans, found, strict=True):
        for text, ours in zip(texts, row, strict=True):
            ids = family.ours._tokenizer(text)["input_ids"]
            assert ours.positions == sum(i > 2 for i in ids)
            if plan is None:
                assert (ours.kl, ours.top1_changed) == (0.0, 0)
                continue
            before = logits_by_hooks(family, ids, {})
            after = logits_by_hooks(family, ids, plan.vectors())
            kl = torch.nn.functional.kl_div(
                after.double().log_softmax(-1),
                before.double().log_softmax(-1),
                log_target=True,
                reduction="sum",
            )
            assert ours.kl == pytest.approx(float(kl), rel=10 * family.close, abs=1e-4)
            changed = before.argmax(-1) != after.argmax(-1)
            assert ours.top1_changed == int(changed.sum())
    weak, _, strong = found
    assert sum(d.top1_changed for d in weak) < sum(d.top1_changed for d in strong)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_steering_a_layer_adds_the_vector_there_and_nowhere_before(family, layer):
    plan = plan_of([layer], scale=0.5)
    before, before_head, before_steps = watched(family, None)
    _, head, steps = watched(family, plan)
    after, _, after_steps = watched(family, None)
    for n in range(3):  # earlier prompt positions: untouched at every layer
        assert torch.equal(head[n], before_head[n])
    first, unsteered = steps[0][0], before_steps[0][0]
    for n in range(layer):
        assert torch.equal(first[n], unsteered[n])
    vector = torch.from_numpy(plan.vectors()[layer]).expand(len(PROMPTS), -1)
    torch.testing.assert_close(first[layer] - unsteered[layer], vector, atol=1e-6, rtol=0)
    for n in range(layer + 1, 3):
        assert not torch.allclose(first[n], unsteered[n] + vector, atol=1e-3)
    assert after == before
    for (_, logits), (_, again) in zip(before_steps, after_steps, strict=True):
        assert torch.equal(logits, again)
