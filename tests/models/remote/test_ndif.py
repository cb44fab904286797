"""``backend=ndif`` against a real NDIF server on this machine.

All tests are in this file, so that one server serves them (see conftest.py). ``restored`` undoes
what a test did to the server.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from corrsteer.errors import ModelError
from corrsteer.methods.corrsteer import CorrSteer
from corrsteer.models.local import Local
from corrsteer.models.remote import NDIF, RemoteModel
from corrsteer.models.spec import Model
from corrsteer.saes.folder import Folder
from corrsteer.stages.plan import make_plan
from corrsteer.stages.sites import sites
from corrsteer.stages.statistics import statistics
from corrsteer.steering.arms import baseline, steered
from corrsteer.steering.gates import FeatureInactive
from corrsteer.steering.operators import Fill
from tests.models.test_parity import PROMPTS, plan_of
from tests.operators import Broken, made_encoder
from tests.stages.made import HashTask, asked, asking_of, bench_of, unsteered

pytestmark = pytest.mark.night


@pytest.fixture
def spec(tiny_llama):
    return Model("tiny", str(tiny_llama), dtype="float32")


def load(server, spec, **settings):
    return NDIF(host=server.url, device="cpu", **settings).load(spec)


@pytest.fixture
def restored(ndif, spec):
    yield ndif
    ndif.resume_api()
    ndif.start_api()
    ndif.require_keys(None)
    # On a busy machine the server takes a while to find its own parts again.
    for _ in range(60):
        try:
            load(ndif, spec).generate(PROMPTS[:1], [None], max_new_tokens=1)
            return
        except ModelError:
            time.sleep(2)
    pytest.fail("the server did not come back", pytrace=False)


@pytest.mark.parametrize("server", ["ndif", "ndif_sandboxed"])
def test_the_same_plan_gives_the_same_tokens_and_residuals(server, spec, request, caplog):
    caplog.set_level("INFO")
    remote = load(request.getfixturevalue(server), spec)
    local = Local("cpu").load(spec)
    plan = plan_of([0, 1, 2], scale=2.0)
    others = [replace(plan, positions=name) for name in ("all", "prompt", "decode", "first_2")]
    encoders = [replace(e, encoder=made_encoder(e.layer)) for e in plan.entries]
    reads = replace(plan, entries=tuple(encoders), operator=Fill(2.0), gate=FeatureInactive(3.0))
    plans = [None, plan, reads, *others]
    settings = {"max_new_tokens": 6}
    answers = local.generate(PROMPTS, plans, **settings)
    assert remote.generate(PROMPTS, plans, **settings) == answers
    assert len({tuple(a.tokens for a in column) for column in answers}) == len(plans)
    assert "answers of 4 samples: 0.0" in caplog.text
    tokens = [a.tokens for a in answers[0]]
    mine, theirs = (m.replay(PROMPTS, tokens, [-1, 0, 2], "all") for m in (remote, local))
    assert torch.equal(mine.token, theirs.token)
    for n, x in mine.layers.items():
        torch.testing.assert_close(x, theirs.layers[n], atol=1e-5, rtol=1e-5)
    megabytes = 3 * 4 * theirs.layers[0].numel() / 1e6 / len(PROMPTS)
    said = float(caplog.text.split("residuals of 4 samples: ")[1].split(" MB")[0])
    assert said == pytest.approx(megabytes, rel=0.3)  # compressed, and in an envelope


def test_letters_only(ndif, spec):
    prompts = [p for p in PROMPTS if p.endswith("Answer:")]
    settings = {"max_new_tokens": 1, "allowed": [" A", " B"]}
    answers = load(ndif, spec).generate(prompts, [None], **settings)
    assert answers == Local("cpu").load(spec).generate(prompts, [None], **settings)


@pytest.mark.parametrize("server", ["ndif", "ndif_sandboxed"])
def test_the_likeliest_options(server, spec, request):
    options = [("yes", "no, not at all"), ("B", "the other", "three")] * 4
    questions = PROMPTS, [None, plan_of([0, 1, 2], scale=2.0)], options[: len(PROMPTS)]
    answers = load(request.getfixturevalue(server), spec).choose(*questions)
    assert answers == Local("cpu").load(spec).choose(*questions)
    assert answers[0] != answers[1]


@pytest.mark.parametrize("server", ["ndif", "ndif_sandboxed"])
def test_the_same_plan_has_the_same_side_effects(server, spec, request, caplog):
    caplog.set_level("INFO")
    remote = load(request.getfixturevalue(server), spec)
    local = Local("cpu").load(spec)
    plans = [None, plan_of([0, 1, 2], scale=2.0)]
    (answers,) = local.generate(PROMPTS, plans[1:], max_new_tokens=6)
    tokens = [a.tokens for a in answers]
    questions = PROMPTS, tokens, [0, 2], "all"
    mine, theirs = (m.replay(*questions, intervention=plans[1]) for m in (remote, local))
    without = local.replay(*questions)
    for n, x in mine.layers.items():
        torch.testing.assert_close(x, theirs.layers[n], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(x, without.layers[n], atol=0.1)
    found, expected = (m.divergence(PROMPTS, plans) for m in (remote, local))
    assert found[0] == expected[0]
    for one, other in zip(found[1], expected[1], strict=True):
        assert one.kl == pytest.approx(other.kl, abs=1e-4)
        assert (one.top1_changed, one.positions) == (other.top1_changed, other.positions)
    megabytes = float(caplog.text.split("divergences of 4 samples: ")[1].split(" MB")[0])
    assert megabytes < 1e-3  # one text's logits would be 0.05
    likelihoods = [m.likelihood(PROMPTS, [*tokens[:3], ()]) for m in (remote, local)]
    assert likelihoods[0] == pytest.approx(likelihoods[1], abs=1e-4)
    directions = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
    assert remote.promoted(directions, 4) == local.promoted(directions, 4)


# -- a run ---------------------------------------------------------------------------------


class Forty(HashTask):
    def rows(self):
        return super().rows()[:40]


def bench_on(backend, spec, saes, cache):
    return bench_of(
        spec.path,
        saes,
        cache,
        backend=backend,
        spec=spec,
        sae=Folder(str(saes), check="warn"),
        asking=asking_of(max_new_tokens=4, task=Forty),
        layers=(0, 2),
    )


def story(bench):
    fits = sites(bench)
    stats = statistics(bench, unsteered(bench))
    plan = make_plan(bench, CorrSteer().choose(bench.selector.rank(stats)))
    return fits, stats, asked(bench, baseline(), steered(plan))


def lost_after(calls, server, method):
    """``method``, but the server dies before its call number ``calls + 1``."""
    left = [calls]

    def limited(*args, **kwargs):
        if left[0] == 0:
            server.stop_api()
        left[0] -= 1
        return method(*args, **kwargs)

    return limited


def ask_until_it_is_answered(model):
    """A server that has just begun may still be looking for its own parts."""
    while True:
        try:
            return model.generate(["x"], [None], max_new_tokens=1)
        except ModelError as error:
            if "reconnecting" not in str(error):
                raise
            time.sleep(1)


def test_a_run_whose_server_dies_twice_ends_as_one_on_this_machine(
    restored, spec, tiny_saes, tmp_path, monkeypatch
):
    server = restored
    backend = NDIF(host=server.url, device="cpu", batch_size=16)
    here = bench_on(Local("cpu", batch_size=16), spec, tiny_saes, tmp_path / "local")
    fits, stats, expected = story(here)
    there = bench_on(backend, spec, tiny_saes, tmp_path / "remote")
    for name, calls in (("generate", 2), ("replay", 2)):
        with monkeypatch.context() as patch:
            method = getattr(RemoteModel, name)
            patch.setattr(RemoteModel, name, lost_after(calls, server, method))
            with pytest.raises(ModelError, match="cannot be reached|was lost"):
                story(there)
        assert f"{server.url} cannot be reached" in failure(there.model)
        server.start_api()
        ask_until_it_is_answered(there.model)
    requests = []
    for name in ("generate", "replay"):
        method = getattr(RemoteModel, name)

        def count(self, prompts, *args, name=name, method=method, **kwargs):
            requests.append((name, len(prompts)))
            return method(self, prompts, *args, **kwargs)

        monkeypatch.setattr(RemoteModel, name, count)
    again_fits, again_stats, again = story(there)
    # The sites, the unsteered answers and two of three batches of statistics were kept.
    assert requests == [("replay", 8), ("generate", 16), ("generate", 16), ("generate", 8)]
    pd.testing.assert_frame_equal(again["steered"], expected["steered"])
    pd.testing.assert_frame_equal(again["baseline"], expected["baseline"])
    for one, other in zip(again_stats, stats, strict=True):
        np.testing.assert_allclose(one.r, other.r, atol=1e-6)
    for fit, other in zip(again_fits, fits, strict=True):
        assert (fit.l0, fit.explained) == pytest.approx((other.l0, other.explained), rel=1e-4)


# -- what can go wrong -----------------------------------------------------------------------


def failure(model, **settings) -> str:
    with pytest.raises(ModelError) as error:
        model.generate(PROMPTS, [None], **{"max_new_tokens": 2, **settings})
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


def test_a_wrong_key(restored, spec, monkeypatch):
    key = str(uuid.uuid4())
    restored.require_keys({key: ["trusted"]})
    for wrong in (None, str(uuid.uuid4()), "no-uuid-but-secret"):
        if wrong is None:
            monkeypatch.delenv("NDIF_API_KEY", raising=False)
        else:
            monkeypatch.setenv("NDIF_API_KEY", wrong)
        text = failure(load(restored, spec))
        assert "refused the key: set NDIF_API_KEY" in text
        assert wrong is None or wrong not in text
    monkeypatch.setenv("NDIF_API_KEY", key)
    assert load(restored, spec).generate(PROMPTS, [None], max_new_tokens=1)


def test_a_server_that_falls_silent(restored, spec):
    remote = load(restored, spec, timeout_s=3)
    restored.pause_api()
    text = failure(remote)
    assert "said nothing for 3 s" in text
    assert "finished batches are kept" in text


def test_a_model_that_the_server_cannot_place(ndif, tiny_llama, tmp_path):
    """Its weights would be larger than the server's pretended GPU."""
    folder = tmp_path / "large"
    folder.mkdir()
    for file in tiny_llama.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": 4096, "num_hidden_layers": 40, "intermediate_size": 16384}
    (folder / "config.json").write_text(json.dumps(config))
    text = failure(load(ndif, Model("large", str(folder))))
    assert "does not serve" in text
    assert f"{ndif.url}/status" in text


def test_a_request_of_two_megabytes_is_answered(ndif, spec):
    prompts = ["the other one and the cat " * 8] * 400
    remote, local = load(ndif, spec, batch_size=400), Local("cpu", 400).load(spec)
    tokens = remote.generate(prompts, [None], max_new_tokens=1)
    assert tokens == local.generate(prompts, [None], max_new_tokens=1)


def test_an_error_in_the_strategy_is_named(ndif, spec):
    remote = load(ndif, spec)
    with pytest.raises(ModelError, match="the server .* failed: KeyError: 'boom'"):
        remote.generate(PROMPTS, [replace(plan_of([1]), operator=Broken())], max_new_tokens=2)
