"""Options by likelihood, answers that end at a stop text, and letters after a chat template."""

from __future__ import annotations

import pytest
import torch

from corrsteer.errors import ConfigError, DataError, ModelError
from corrsteer.models.local import LocalModel
from corrsteer.records import LIKELIHOODS
from corrsteer.steering.plan import Plan, PlanEntry
from tests.models.test_local import copy_with, load, plan_of

PROMPTS = ["Is it A or B?\nAnswer:", "x", "A rather longer question than that one?\nAnswer:"]
OPTIONS = [("yes", "no, not at all"), ("B", "the other", "three"), ("the sea", "the hill")]
CHAT = "{% for m in messages %}<s>User: {{ m['content'] }}\nModel:\n{% endfor %}"


@pytest.fixture(scope="module", params=["llama", "gemma2", "gpt2", "qwen3_5"])
def model(request, tiny_model):
    return load(tiny_model(request.param))


@pytest.fixture(scope="module")
def llama(tiny_llama):
    return load(tiny_llama)


@pytest.fixture(scope="module")
def chatty(tiny_llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "m"
    copy_with(tiny_llama, folder, "tokenizer_config.json", chat_template=CHAT)
    return load(folder, chat_template=True)


def by_hooks(model, prompt: str, option: str, plan: Plan | None, read=None) -> float:
    """Log probability per character of an option, with plain forward hooks, one text at a time.
    ``read``: a dict that gets the residuals [T, M] that predict the option, of every block."""
    before = model._tokenizer(prompt)["input_ids"]
    ids = model._tokenizer(f"{prompt} {option}")["input_ids"]
    assert ids[: len(before)] == before
    start = len(before) - 1

    def add(vector):
        def hook(module, args, output):
            hidden = output[0] if isinstance(output, tuple) else output
            hidden[0, start:-1] += torch.tensor(vector)

        return hook

    vectors = plan.vectors() if plan else {}
    handles = [model._blocks[n]._module.register_forward_hook(add(v)) for n, v in vectors.items()]

    def reader(n):
        def hook(module, args, output):
            read[n] = (output[0] if isinstance(output, tuple) else output)[0, start:-1].clone()

        return hook

    for n, block in enumerate(model._blocks if read is not None else ()):
        handles.append(block._module.register_forward_hook(reader(n)))
    with torch.no_grad():
        logs = model._module(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
    for handle in handles:
        handle.remove()
    total = sum(float(logs[k, ids[k + 1]]) for k in range(start, len(ids) - 1))
    return total / len(option)


def test_plans_that_share_their_prompts_weigh_as_plain_hooks_do(model, monkeypatch):
    """The long prompt is longer than a sliding window; linear attention shares nothing."""
    prompts = [*PROMPTS, f"{'A rather longer text. ' * 6}\nAnswer:"]
    options = [*OPTIONS, ("a hill", "some other place")]
    plans = [None, plan_of(), plan_of().turned_to(-0.5)]
    shared, once = [], LocalModel._prompt_cache

    def noted(self, inputs, left, room):
        shared.append(inputs["input_ids"].shape[1] - left)
        return once(self, inputs, left, room)

    monkeypatch.setattr(LocalModel, "_prompt_cache", noted)
    weighed = model.choose(prompts, plans, options)
    assert max(shared) > 100
    for plan, answers in zip(plans, weighed, strict=True):
        for prompt, texts, answer in zip(prompts, options, answers, strict=True):
            found = [by_hooks(model, prompt, option, plan) for option in texts]
            assert_weighed(model, answer, texts, found, "per_character", plan)
    shared.clear()
    assert model.choose(prompts, [plan_of()], options) == [weighed[1]]
    assert max(shared) > 100  # alone, too: its numbers are not to depend on who is asked along


def test_all_options_and_arms_share_one_pass_over_their_prompt(llama):
    """And each of them adds no more than the positions that predict its tokens."""
    options, read = ("no, not at all", "B", "the other"), []
    handle = llama._module.register_forward_pre_hook(
        lambda module, args, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    tokens = []
    for plans in ([plan_of()], [None, plan_of()]):
        read.clear()
        llama.choose(PROMPTS[:1], plans, [options])
        tokens.append(sum(read))
    handle.remove()
    (answers,) = llama.choose(PROMPTS[:1], [None], [options])
    own = sum(option.tokens for option in answers[0].options)
    prompt = llama.n_tokens(PROMPTS[0]) - 1
    assert tokens == [prompt + own, prompt + 2 * own]


@pytest.mark.parametrize("plan", [None, plan_of()], ids=["unsteered", "steered"])
def test_the_likeliest_option_is_the_one_that_plain_hooks_find(model, plan):
    for likelihood in LIKELIHOODS:
        (answers,) = model.choose(PROMPTS, [plan], OPTIONS, likelihood)
        for prompt, options, answer in zip(PROMPTS, OPTIONS, answers, strict=True):
            found = [by_hooks(model, prompt, option, plan) for option in options]
            assert_weighed(model, answer, options, found, likelihood, plan)


def assert_weighed(model, answer, options, per_character, likelihood, plan):
    """``per_character``: what plain hooks find for each option."""
    sums = [x * len(option) for x, option in zip(per_character, options, strict=True)]
    tokens = [
        len(model._tokenizer(f" {o}", add_special_tokens=False)["input_ids"]) for o in options
    ]
    scores = {
        "sum": sums,
        "per_character": per_character,
        "per_token": [x / n for x, n in zip(sums, tokens, strict=True)],
    }[likelihood]
    best = scores.index(max(scores))
    assert answer.text == f"{'ABC'[best]}. {options[best]}"
    assert [w.by(likelihood) for w in answer.options] == pytest.approx(scores, abs=1e-3)
    assert [w.characters for w in answer.options] == [len(o) for o in options]
    assert [w.tokens for w in answer.options] == tokens
    assert answer.options[best].tokens == len(answer.tokens)
    assert answer.steered == (len(answer.tokens) if plan else 0)
    assert model._tokenizer.decode(answer.tokens).strip() == options[best]


def test_a_sum_a_mean_per_character_and_one_per_token_choose_differently(llama):
    """Of the same log probabilities: it is how they are compared that decides."""
    options = [("yes", "no, not at all, " * 3, "é" * 9)] * len(PROMPTS)
    chosen = {
        how: [a.text[0] for a in llama.choose(PROMPTS, [None], options, how)[0]]
        for how in LIKELIHOODS
    }
    assert chosen["sum"] == ["A"] * 3  # every token costs
    assert len({tuple(texts) for texts in chosen.values()}) == 3


def test_equally_likely_options_are_told_apart_by_their_order(llama):
    twice = [("yes", "yes")] * len(PROMPTS)
    for how in LIKELIHOODS:
        assert {a.text for a in llama.choose(PROMPTS, [None], twice, how)[0]} == {"A. yes"}


def test_more_options_than_letters_have_names(llama):
    many = tuple(f"number {n}" for n in range(20))
    (answer,) = llama.choose(PROMPTS[:1], [None], [many], "sum")[0]
    scores = [by_hooks(llama, PROMPTS[0], option, None) * len(option) for option in many]
    best = scores.index(max(scores))
    assert answer.text == f"{chr(ord('A') + best)}. {many[best]}"


@pytest.mark.parametrize("plan", [None, plan_of(coef=3.0)], ids=["unsteered", "steered"])
def test_features_are_read_where_an_option_is_scored_and_steered(model, plan):
    """At the last prompt token and every token of the option but the last: what a plan changes
    elsewhere, or not there, is another likelihood and another residual."""
    (answers,) = model.choose(PROMPTS, [plan], OPTIONS)
    tokens = [a.tokens for a in answers]
    last = len(model._blocks) - 1
    found = model.replay(PROMPTS, tokens, [0, last], "generated", intervention=plan)
    for i, (prompt, options, answer) in enumerate(zip(PROMPTS, OPTIONS, answers, strict=True)):
        read: dict = {}
        by_hooks(model, prompt, options["ABC".index(answer.text[0])], plan, read)
        for layer in (0, last):
            mine = found.layers[layer][found.sample == i]
            assert mine.shape == read[layer].shape
            assert torch.allclose(mine, read[layer], atol=1e-4), (i, layer)


def test_likelihoods_agree_with_plain_hooks(model, monkeypatch):
    taken = []
    likelihood = model._likelihood

    def spy(*args):
        taken.append(likelihood(*args))
        return taken[-1]

    monkeypatch.setattr(model, "_likelihood", spy)
    for plan in (None, plan_of(), plan_of([1], seed=3)):
        for option in OPTIONS[1]:
            taken.clear()
            model.choose(PROMPTS[1:2], [plan], [(option,)])
            mine = float(taken[0][0][0]) / len(option)
            assert mine == pytest.approx(by_hooks(model, PROMPTS[1], option, plan), abs=1e-4)


def test_several_plans_and_batches_answer_as_each_alone(tiny_llama, llama):
    plans = [plan_of(), None, plan_of([1], seed=1, coef=4.0)]
    together = llama.choose(PROMPTS, plans, OPTIONS)
    small = load(tiny_llama, batch_size=2)
    assert small.choose(PROMPTS, plans, OPTIONS) == together
    for plan, answers in zip(plans, together, strict=True):
        for i, answer in enumerate(answers):
            assert llama.choose(PROMPTS[i : i + 1], [plan], OPTIONS[i : i + 1]) == [[answer]]


def test_coef_zero_chooses_as_the_baseline(llama):
    base, zero = llama.choose(PROMPTS, [None, plan_of(coef=0.0)], OPTIONS)
    assert [a.text for a in zero] == [a.text for a in base]


def test_what_was_chosen_can_be_replayed(llama):
    (answers,) = llama.choose(PROMPTS, [None], OPTIONS)
    residuals = llama.replay(PROMPTS, [a.tokens for a in answers], [0, 2], "generated")
    counts = torch.bincount(residuals.sample).tolist()
    assert counts == [len(a.tokens) for a in answers]


def test_likelihoods_of_tokens_are_those_of_plain_hooks(model, monkeypatch):
    texts = ["no, not at all", "B", "the other"]
    written = [f" {text}" for text in texts]
    answers = model._tokenizer(written, add_special_tokens=False)["input_ids"]
    pairs = zip(PROMPTS, texts, strict=True)
    expected = [by_hooks(model, prompt, text, None) * len(text) for prompt, text in pairs]
    asked = [*PROMPTS, "and?"], [*answers, ()]
    found = model.likelihood(*asked)
    assert found == pytest.approx([*expected, 0.0], abs=1e-3)
    assert found[-1] == 0.0
    monkeypatch.setattr("corrsteer.models.weighing.LOGITS_BYTES", 1)
    rows = []
    handle = model._module.register_forward_hook(lambda m, a, out: rows.append(len(out.logits)))
    assert model.likelihood(*asked) == pytest.approx(found, abs=1e-3)
    handle.remove()
    assert rows == [1, 1, 1]
    assert model.likelihood(PROMPTS[:1], [[]]) == [0.0]


def test_a_plan_that_does_not_fire_is_an_error(llama, monkeypatch):
    def forgetful(*args):
        logs, fired = type(llama)._likelihood(llama, *args)
        return logs, fired - 1

    monkeypatch.setattr(llama, "_likelihood", forgetful)
    with pytest.raises(ModelError, match="the plan fired at 0 of"):
        llama.choose(PROMPTS, [plan_of()], OPTIONS)


def test_an_option_that_does_not_fit_is_refused(llama):
    options = [*OPTIONS[:2], ("y", "x" * 230)]
    with pytest.raises(DataError, match="1 of 7 prompts have more than"):
        llama.choose(PROMPTS, [None], options)
    llama.check_options(PROMPTS, OPTIONS)
    with pytest.raises(DataError, match="1 of 3 prompts have more than.*kept for the answer"):
        llama.check_options(PROMPTS, options)

    with pytest.raises(DataError, match="answer of 301 tokens.*has 256 positions"):
        llama.check_options(PROMPTS, [*OPTIONS[:2], ("y", "x" * 300)])


def test_a_long_option_takes_no_room_of_other_prompts(llama):
    """Of 256 positions."""
    prompts, options = ["x", "y" * 200], [("z" * 200, "z"), ("a", "b")]
    llama.check_options(prompts, options)
    assert len(llama.choose(prompts, [None], options)[0]) == 2


# -- stop texts ----------------------------------------------------------------------------


def test_an_answer_ends_before_the_first_stop_text(model):
    (whole,) = model.generate(PROMPTS, [None], max_new_tokens=12)
    for i, answer in enumerate(whole):
        for stop in {answer.text[3:5], answer.text[6:7]} - {""}:
            (cut,) = model.generate(PROMPTS, [None], max_new_tokens=12, stop=["no such", stop])
            assert cut[i].text == answer.text.split(stop)[0]
            # The tokens go on to the one that completed the stop text, and no further.
            n = len(cut[i].tokens)
            assert cut[i].tokens == answer.tokens[:n]
            assert stop in model._tokenizer.decode(answer.tokens[:n])
            assert stop not in model._tokenizer.decode(answer.tokens[: n - 1])


def test_steered_positions_are_those_up_to_the_stop_text(llama):
    plan = plan_of()
    (whole,) = llama.generate(PROMPTS, [plan], max_new_tokens=12)
    stop = whole[0].text[4:6]
    (cut,) = llama.generate(PROMPTS, [plan], max_new_tokens=12, stop=[stop])
    assert cut[0].steered == len(cut[0].tokens) < len(whole[0].tokens)


def test_a_stop_text_that_never_comes_changes_nothing(llama):
    plain = llama.generate(PROMPTS, [None, plan_of()], max_new_tokens=8)
    assert llama.generate(PROMPTS, [None, plan_of()], max_new_tokens=8, stop=["never!"]) == plain


# -- letters -------------------------------------------------------------------------------


def test_letters_have_no_space_where_the_prompt_ends_in_white_space(chatty):
    allowed = [" A", " B", " C"]
    (answers,) = chatty.generate(PROMPTS, [None], max_new_tokens=1, allowed=allowed)
    assert {a.text for a in answers} <= set("ABC")
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        text = f"User: {prompt}\nModel:\n"
        ids = torch.tensor([[1, *chatty._tokenizer(text, add_special_tokens=False)["input_ids"]]])
        letters = chatty._tokenizer.convert_tokens_to_ids(list("ABC"))
        with torch.no_grad():
            logits = chatty._module(ids).logits[0, -1, letters]
        assert answer.text == "ABC"[int(logits.argmax())]


def test_letters_weigh_what_the_model_gives_them(model):
    allowed, plan = [" A", " B", " C"], plan_of()
    found = model.generate(PROMPTS, [None, plan], max_new_tokens=1, allowed=allowed)
    for how, answers in zip((None, plan), found, strict=True):
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            logs = [by_hooks(model, prompt, letter, how) for letter in "ABC"]
            assert [w.log for w in answer.options] == pytest.approx(logs, abs=1e-4)
            assert [w[1:] for w in answer.options] == [(1, 1)] * 3
            assert answer.text.strip() == "ABC"[logs.index(max(logs))]
    (free,) = model.generate(PROMPTS, [None], max_new_tokens=1)
    assert [a.options for a in free] == [()] * 3


def test_options_after_a_chat_template_begin_without_a_space(chatty):
    (answers,) = chatty.choose(PROMPTS, [None], OPTIONS)
    for options, answer in zip(OPTIONS, answers, strict=True):
        assert chatty._tokenizer.decode(answer.tokens) in options


def test_a_plan_for_another_width_is_refused(llama):
    with pytest.raises(ModelError, match="width 32"):
        llama.choose(PROMPTS, [plan_of(width=16)], OPTIONS)
    entry = PlanEntry(9, 0, 0.0, 1.0, plan_of().entries[0].vector)
    with pytest.raises(ConfigError, match="layer 9"):
        llama.choose(PROMPTS, [Plan((entry,))], OPTIONS)
