"""Rivals without gradients: what they add, against a slow textbook form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from corrsteer.errors import ConfigError, DataError
from corrsteer.methods.contrastive import CAA, BestLayer, RawResidual, on_coordinates
from corrsteer.methods.edits import DSG, Spare
from corrsteer.methods.prompted import Prompted
from corrsteer.records import RIGHT, Example, Question, Score
from corrsteer.run.elsewhere import other_answers
from corrsteer.run.fitted import checked
from corrsteer.saes.coordinates import Coordinates
from corrsteer.stages.contrast import option_pairs
from corrsteer.stages.probes import residual_means
from corrsteer.steering.arms import Arm, baseline
from corrsteer.steering.plan import load_plan
from tests.stages.made import HashTask, asked, asking_of, bench_of, by_hash, unsteered
from tests.stages.made import tokens as tokens_of


class Letters(HashTask):
    """Two options each, of which one is right; a right answer is more than its letter."""

    lists_options = True

    def rows(self):
        letters = ["AB"[n % 3 == 0] for n in range(60)]
        return [
            Question(q.id, q.fields, a, options=("the cat", "a dog"), answer=f"{a}, of course")
            for a, q in zip(letters, super().rows(), strict=True)
        ]


class Unlisted(Letters):
    lists_options = False


@pytest.fixture
def bench(tiny_llama, tiny_saes, tmp_path):
    asking = asking_of(by_hash, max_new_tokens=3, task=Letters)
    return bench_of(tiny_llama, tiny_saes, tmp_path / "cache", asking=asking)


def hidden(bench, ids):
    """Residuals after every block, by transformers alone, of one text: [layer][T, M]."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(bench.spec.path, dtype=torch.float32)
    kept: list[torch.Tensor] = []
    for block in model.model.layers:
        block.register_forward_hook(
            lambda _, __, out: kept.append(
                (out[0] if isinstance(out, tuple) else out).reshape(-1, 32)
            )
        )
    with torch.no_grad():
        model(torch.tensor([ids]))
    return kept


def test_caa_adds_the_mean_difference_at_the_letter(bench):
    pairs = option_pairs(bench.selection, bench.seed)
    assert all(r == e.gold and w in "AB" and w != r
               for (r, w), e in zip(pairs, bench.selection, strict=True))  # fmt: skip
    fitted = CAA(coef=2.0).fit(bench)
    assert checked(fitted, CAA(), bench) is fitted and fitted.plan.coef == 2.0
    few = 6  # of all, by a plain loop over single texts
    bench = replace(bench, asking=replace(bench.asking, splits={
        **bench.asking.splits, "selection": bench.selection[:few]}))  # fmt: skip
    sums = np.zeros((3, 32))
    prompts = [e.prompt for e in bench.selection]
    rows = bench.model._encode(prompts)
    for n, pair in enumerate(option_pairs(bench.selection, bench.seed)):
        (answers,) = bench.model.continuations([prompts[n]], [pair])
        assert [bench.model.token_texts(a)[-1].strip() for a in answers] == list(pair)
        for sign, answer in zip((1, -1), answers, strict=True):
            x = hidden(bench, [*rows[n], *answer])
            sums += sign * np.stack([layer[-1].double().numpy() for layer in x])
    plan = CAA().plain(bench, "max").plan
    for entry in plan.entries:
        np.testing.assert_allclose(entry.vector, sums[entry.layer] / few, rtol=1e-3, atol=1e-5)
        assert entry.feature == -1 and entry.coefficient == pytest.approx(entry.norm, rel=1e-6)


def test_caa_of_outcomes_is_the_difference_of_the_means_of_right_and_wrong_answers(bench):
    base = unsteered(bench)
    right = (base["score"] >= RIGHT).to_numpy()
    prompts = [e.prompt for e in bench.selection]
    x = residual_means(bench.model, prompts, tokens_of(base), [0, 1, 2], "generated")
    plan = CAA(contrast="outcomes").plain(bench, "max").plan
    for entry in plan.entries:
        expected = x[entry.layer][right].mean(0) - x[entry.layer][~right].mean(0)
        np.testing.assert_allclose(entry.vector, expected, rtol=1e-4, atol=1e-5)
    writing = replace(bench, collect=replace(bench.collect, way="writing"))
    for entry, same in zip(
        CAA(contrast="outcomes").plain(writing, "max").plan.entries, plan.entries, strict=True
    ):
        np.testing.assert_array_equal(entry.vector, same.vector)
    assert CAA().learns_from == "pairs" and CAA(contrast="outcomes").learns_from == "outcomes"
    assert CAA(contrast="outcomes", coef=0.0).fit(bench).plan.does_nothing


@pytest.mark.night
def test_the_best_layer_is_the_one_that_a_plain_loop_finds(bench):
    plan = CAA(contrast="outcomes").plain(bench, "max").plan.turned_to(4.0)
    method = BestLayer(CAA(contrast="outcomes"), 4.0)
    fitted = method.fit(bench)
    right = {}
    for e in plan.entries:
        arm = replace(fitted.arm, intervention=plan.with_entries((e,)))
        right[e.layer] = (asked(bench, arm, split="validation")["steered"]["score"] >= RIGHT).sum()
    (entry,) = fitted.plan.entries
    assert entry.layer == max(right, key=lambda n: (right[n], -n)) == fitted.choice.used[0]
    assert fitted.plan.coef == 4.0 and method.learns_from == "outcomes"


def test_raw_residuals_are_ranked_by_the_correlation_of_a_coordinates_half(bench):
    base = unsteered(bench)
    fitted = RawResidual().fit(bench)
    assert fitted.chosen == fitted.ranked == ()
    prompts = [e.prompt for e in bench.selection]
    read = bench.model.replay(prompts, tokens_of(base), [1], "generated")
    x, sample = read.layers[1].numpy(), read.sample.numpy()
    pooled = np.zeros((len(prompts), 64))
    np.maximum.at(pooled, sample, np.concatenate([x, -x], axis=1).clip(0))
    y = base["score"].to_numpy(float)
    r = np.array([pearsonr(z, y)[0] if z.std() else 0.0 for z in pooled.T])
    r[((pooled > 0) & (y >= RIGHT)[:, None]).sum(0) < 2] = 0  # an anecdote
    (entry,) = (e for e in fitted.plan.entries if e.layer == 1)
    best = entry.about["coordinate"]
    assert best == int(r.argmax()) and entry.r == pytest.approx(r.max(), abs=1e-5)
    axis = np.zeros(32)
    axis[best % 32] = pooled[y >= RIGHT, best].mean() * (1 if best < 32 else -1)
    np.testing.assert_allclose(entry.vector, axis, rtol=1e-4, atol=1e-6)


def test_coordinates_write_the_residual_back():
    x = torch.randn(5, 8)
    sae = Coordinates(8, 3).load(1)
    torch.testing.assert_close(sae.reconstruct(x)[0], x)
    z = sae.encode(x)
    assert torch.equal(z[:, :8], x.relu()) and torch.equal(z[:, 8:], (-x).relu())
    assert Coordinates(8, 3).layers() == (0, 1, 2)


def test_prompts_are_arms_without_an_intervention(bench):
    told = Prompted(text="Think.").fit(bench).arm
    assert (told.prefix, told.intervention, told.decoding) == ("Think.", None, None)
    shown = Prompted(variant="few-shot", shots=2).fit(bench).arm
    first, second = bench.selection[:2]
    assert shown.prefix == f"{first.prompt} {first.answer}\n\n{second.prompt} {second.answer}"
    assert shown.stop == ("\n\n",) and told.stop == ()
    weighed = replace(bench, asking=replace(bench.asking, decoding="loglikelihood"))
    texts = Prompted(variant="few-shot", shots=1).fit(weighed).arm.prefix
    assert texts == f"{first.prompt} {first.options['AB'.index(first.gold)]}"
    letters = Prompted(variant="constrained").fit(bench).arm
    assert letters.decoding == "constrained" and set(
        asked(bench, letters)["steered"]["answer"]
    ) <= {*("A", "B", " A", " B")}
    assert Prompted(variant="few-shot", shots=2).learns_from == "2 gold answers"


def test_an_instruction_needs_neither_features_nor_wrong_answers(bench):
    always = replace(bench.asking, task=replace(bench.asking.task, scorer=lambda *_: Score(1, "")))
    fitted = Prompted(text="Think.").fit(replace(bench, asking=always))
    assert fitted.observed.sites == fitted.observed.stats == []
    assert (fitted.observed.selection["score"] == 1).all()


def test_an_arms_stop_texts_end_its_answers_and_nobody_elses(bench):
    written = asked(bench)["baseline"]["answer"]
    stop = tuple(sorted({text[1] for text in written if len(text) > 1}))
    made = asked(bench, baseline(), Arm("steered", "steered", stop=stop))
    whole = asked(replace(bench, asking=replace(bench.asking, stop=stop)))["baseline"]["answer"]
    assert list(made["steered"]["answer"]) == list(whole)
    assert list(made["steered"]["answer"]) != list(made["baseline"]["answer"])
    assert list(made["baseline"]["answer"]) == list(written)


def test_another_task_that_lists_no_letters_is_not_answered_by_them(bench):
    letters = Prompted(variant="constrained").fit(bench).arm
    others = {
        name: asking_of(by_hash, max_new_tokens=3, task=task)
        for name, task in (("listed", Letters), ("unlisted", Unlisted))
    }
    found = other_answers(bench, others, [letters])
    free = asked(bench)["baseline"]["answer"]
    assert list(found["unlisted"]["steered"]["answer"]) == list(free)
    assert list(found["listed"]["steered"]["answer"]) != list(free)


# -- edits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [Spare(k=5, coef=0.5), DSG(k=5, coef=0.5)])
def test_an_edit_is_what_a_loop_over_features_makes_of_the_saes_own_activations(
    method, bench, tmp_path
):
    fitted = method.fit(bench)
    stats = {s.layer: s for s in fitted.observed.stats}
    x = 3 * torch.randn(7, 32)
    fitted.plan.save(tmp_path / "plan")
    again = load_plan(tmp_path / "plan")
    assert again.key() == fitted.plan.key()
    for entry in again.entries:
        sae, s, expected = bench.sae.load(entry.layer), stats[entry.layer], x.clone()
        z = sae.encode(x)
        for place, f in enumerate(entry.about["edited"]):
            d = sae.W_dec[f]
            if isinstance(method, DSG):
                assert s.others["square_ratio"].value[f] < 0.5
                change = (z[:, f] > 0) * (-0.5 * s.mean_wrong[f] - z[:, f])
            else:
                wanted, unwanted = (float(entry.arrays[n][place]) for n in ("wanted", "unwanted"))
                assert not (wanted and unwanted)
                assert wanted in (0, pytest.approx(s.mean_right[f], rel=1e-5))
                assert unwanted in (0, pytest.approx(s.mean_wrong[f], rel=1e-5))
                change = 0.5 * ((wanted - z[:, f]).clamp(min=0) - z[:, f].clamp(max=unwanted))
                assert (wanted > 0) <= (s.r[f] > 0)
            expected += change[:, None].float() * d
        parts = {n: torch.tensor(a) for n, a in again.parts()[entry.layer].items()}
        torch.testing.assert_close(again.operator.apply(x, parts, 0.5), expected)
        assert len(entry.about["edited"]) == 5
    if isinstance(method, DSG):  # by the ratio of mean squares, the most wrong first
        chosen = [
            stats[e.layer].others["square_ratio"].value[e.about["edited"]] for e in again.entries
        ]
        assert all((np.diff(some) >= 0).all() for some in chosen)


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: CAA(contrast="x"), "strategy.contrast=x"),
        (lambda: Prompted(), "strategy.text is empty"),
        (lambda: Prompted(variant="few-shot"), "strategy.shots=0"),
        (lambda: Prompted(variant="shout"), "strategy.variant=shout"),
        (lambda: Spare(k=0), "strategy.k=0"),
    ],
)
def test_what_is_wrong_is_named(make, part):
    with pytest.raises(ConfigError) as caught:
        make()
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_pairs_need_options():
    with pytest.raises(DataError, match="type strategy.contrast=outcomes"):
        option_pairs([Example("q1", "Say it:", "yes")], seed=0)


def test_pairs_need_letters_that_the_prompt_shows(bench):
    unlisted = replace(bench, asking=asking_of(by_hash, max_new_tokens=3, task=Unlisted))
    with pytest.raises(DataError, match="type strategy.contrast=outcomes"):
        CAA().fit(unlisted)


def test_solved_examples_need_right_answers_and_room(bench):
    none = replace(bench, asking=asking_of(by_hash, max_new_tokens=3))
    with pytest.raises(DataError, match="type strategy=instruction"):
        Prompted(variant="few-shot", shots=2).fit(none)
    with pytest.raises(DataError, match="room|long|tokens"):
        Prompted(variant="few-shot", shots=60).fit(bench)
    with pytest.raises(DataError, match="room|long|tokens"):
        Prompted(text="Think. " * 500).fit(bench)


def test_coordinates_stand_for_every_block(bench):
    raw = on_coordinates(bench)
    assert raw.sae.layers() == (0, 1, 2) and raw.sae_key(0) != bench.sae_key(0)
