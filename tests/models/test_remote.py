"""The remote backend without a server: requests are serialised as for one, and run here."""

from __future__ import annotations

import io
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from corrsteer.errors import ConfigError, ModelError
from corrsteer.models.local import Local
from corrsteer.models.remote import NDIF, Server
from corrsteer.models.spec import Model
from corrsteer.steering.confidence import Confidence
from corrsteer.steering.gates import FeatureInactive
from corrsteer.steering.operators import Fill
from tests.models.test_parity import PROMPTS, plan_of
from tests.operators import made_encoder


def reading(plan):
    """It sends along how active a feature is, and when."""
    return replace(
        plan,
        operator=Fill(2.0),
        gate=FeatureInactive(3.0),
        entries=tuple(replace(e, encoder=made_encoder(e.layer)) for e in plan.entries),
    )


PLANS = [
    None,
    plan_of([0, 1, 2]),
    plan_of([1], seed=1),
    reading(plan_of([0, 2])),
    *(replace(plan_of([0, 2]), positions=name) for name in ("all", "decode", "first_2")),
]


@pytest.fixture(params=["llama", "gemma2", "gpt2"])
def pair(request, tiny_model, monkeypatch):
    """(remote, local) of one model; requests hide our package, as a server without it would."""
    from nnsight.intervention.backends.local import LocalSimulationBackend

    from corrsteer.models import request as requests

    class Simulated(LocalSimulationBackend):
        received = 0

        def __init__(self, wrapped, host, key, silence_s):
            super().__init__(wrapped)

    monkeypatch.setattr(requests, "Request", Simulated)
    spec = Model("tiny", str(tiny_model(request.param)), dtype="float32")
    remote = NDIF(host="http://127.0.0.1:9", device="cpu").load(spec)
    return remote, Local("cpu").load(spec)


@pytest.mark.filterwarnings("ignore:.*was never reached.*")
def test_the_same_plans_give_the_same_answers_and_residuals(pair):
    remote, local = pair
    settings = {"max_new_tokens": 6}
    answers = local.generate(PROMPTS, PLANS, **settings)
    assert remote.generate(PROMPTS, PLANS, **settings) == answers
    assert len({tuple(a.tokens for a in column) for column in answers}) == len(PLANS)
    tokens = [a.tokens for a in answers[0]]
    for source, layers in (("generated", [0, 2]), ("all", [-1, 1])):
        mine = remote.replay(PROMPTS, tokens, layers, source)
        theirs = local.replay(PROMPTS, tokens, layers, source)
        assert sorted(mine.layers) == layers
        assert torch.equal(mine.sample, theirs.sample)
        assert torch.equal(mine.token, theirs.token)
        for n in layers:
            assert mine.layers[n].dtype == torch.float32
            torch.testing.assert_close(mine.layers[n], theirs.layers[n], atol=1e-5, rtol=1e-5)


def test_constrained_answers_are_the_same(pair):
    remote, local = pair
    prompts = [p for p in PROMPTS if p.endswith("Answer:")]
    settings = {"max_new_tokens": 1, "allowed": [" A", " B"]}
    assert remote.generate(prompts, [None], **settings) == local.generate(
        prompts, [None], **settings
    )


def test_the_likeliest_options_are_the_same(pair):
    remote, local = pair
    options = [("yes", "no, not at all"), ("B", "the other", "three")] * 4
    answers = local.choose(PROMPTS, PLANS, options[: len(PROMPTS)])
    assert remote.choose(PROMPTS, PLANS, options[: len(PROMPTS)]) == answers
    assert answers[0] != answers[1]


def test_a_gate_on_confidence_decides_alike(pair):
    remote, local = pair
    nats = local.entropies(PROMPTS)
    assert remote.entropies(PROMPTS) == pytest.approx(nats, rel=1e-4)
    plan = replace(plan_of([0, 2]), gate=Confidence(float(np.mean(nats))))
    acts = [x >= np.mean(nats) for x in nats]
    assert remote.decide(PROMPTS, plan) == local.decide(PROMPTS, plan) == acts
    assert len({*acts}) == 2


def test_steered_residuals_are_the_same(pair):
    remote, local = pair
    plan = replace(plan_of([0, 2], scale=2.0), positions="all")
    (answers,) = local.generate(PROMPTS, [plan], max_new_tokens=6)
    tokens = [a.tokens for a in answers]
    asked = PROMPTS, tokens, [-1, 0, 1], "all"
    mine = remote.replay(*asked, intervention=plan)
    theirs = local.replay(*asked, intervention=plan)
    unsteered = local.replay(*asked)
    for n in (-1, 0, 1):
        torch.testing.assert_close(mine.layers[n], theirs.layers[n], atol=1e-5, rtol=1e-5)
        assert torch.equal(theirs.layers[n], unsteered.layers[n]) == (n < 0)


def test_divergences_and_likelihoods_are_the_same(pair, monkeypatch):
    remote, local = pair
    came = []
    diverged = remote._diverged

    def spy(*args):
        came.append(diverged(*args))
        return came[-1]

    monkeypatch.setattr(remote, "_diverged", spy)
    found = remote.divergence(PROMPTS, PLANS[:3])
    for mine, theirs in zip(found, local.divergence(PROMPTS, PLANS[:3]), strict=True):
        assert [d.kl for d in mine] == pytest.approx([d.kl for d in theirs], abs=1e-4)
        assert [(d.top1_changed, d.positions) for d in mine] == [
            (d.top1_changed, d.positions) for d in theirs
        ]
    # One request per plan with vectors, and two numbers per text in its result.
    assert [(kl.shape, changed.shape) for kl, changed, _ in came] == [((4,), (4,))] * 2
    answers = [(50, 51), (), (60,), (70, 71, 72)]
    expected = local.likelihood(PROMPTS, answers)
    assert remote.likelihood(PROMPTS, answers) == pytest.approx(expected, abs=1e-4)


def test_promoted_tokens_are_the_same(pair):
    remote, local = pair
    directions = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
    found = remote.promoted(directions, 4)
    assert found == local.promoted(directions, 4)
    assert {len(tokens) for row in found for tokens in row} == {4}


def test_no_weights_are_loaded_here(tiny_llama):
    remote = NDIF(host="http://127.0.0.1:9", device="cpu").load(Model("t", str(tiny_llama)))
    assert {p.device.type for p in remote._module.parameters()} == {"meta"}
    assert (remote.n_layers, remote.d_model, remote._eos) == (3, 32, [2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "ndif.us"}, "must start with http"),
        ({"host": "https://me:key@ndif.us"}, "NDIF_API_KEY"),
        ({"device": "tpu"}, "backend.device"),
        ({"batch_size": 0}, "at least 1"),
        ({"timeout_s": 0}, "above 0"),
        ({"timeout_s": float("nan")}, "above 0"),
    ],
)
def test_settings_are_checked_when_built(settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        NDIF(**settings)
    assert "me:key" not in str(error.value)


def test_host_and_key_come_from_the_environment_and_stay_out_of_sight(tiny_llama, monkeypatch):
    monkeypatch.setenv("NDIF_API_KEY", "secret-key")
    monkeypatch.setenv("NDIF_HOST", "http://127.0.0.1:9")
    backend = NDIF(device="cpu")
    remote = backend.load(Model("t", str(tiny_llama)))
    assert remote._server == Server("http://127.0.0.1:9", "secret-key", 600.0)
    for shown in (repr(backend), repr(remote._server), str(vars(remote).get("_server"))):
        assert "secret-key" not in shown
    assert NDIF(host="http://a").load(Model("t", str(tiny_llama)))._server.host == "http://a"


class Harm:
    def __reduce__(self):
        return (print, ("code of the server ran here",))


@pytest.mark.parametrize("content", [Harm(), {"x": Harm()}, {"x": print}])
def test_what_a_server_sends_cannot_run_code(content, capsys):
    from corrsteer.models.request import _tensors

    for protocol in (2, 4):
        file = io.BytesIO()
        torch.save(content, file, pickle_protocol=protocol)
        with pytest.raises(pickle.UnpicklingError, match="not a tensor"):
            _tensors(file.getvalue())
    old = io.BytesIO()
    torch.save(content, old, _use_new_zipfile_serialization=False)
    with pytest.raises(pickle.UnpicklingError, match="old format"):
        _tensors(old.getvalue())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_of_every_kind_arrive(dtype):
    from nnsight.schema.response import Status

    from corrsteer.models.request import _tensors

    sent = {"status": Status.COMPLETED, "n": [1, 2], "x": {3: torch.ones(2, 3).to(dtype)}}
    for protocol in (2, 4):
        file = io.BytesIO()
        torch.save(sent, file, pickle_protocol=protocol)
        found = _tensors(file.getvalue())
        assert torch.equal(found["x"].pop(3), sent["x"][3])
        assert found == {**sent, "x": {}}


def test_a_server_that_is_not_there_is_one_clear_line(tiny_llama):
    remote = NDIF(host="http://127.0.0.1:9", device="cpu").load(Model("t", str(tiny_llama)))
    with pytest.raises(ModelError, match="127.0.0.1:9 cannot be reached") as error:
        remote.generate(PROMPTS, [None], max_new_tokens=1)
    assert "\n" not in str(error.value)


def remote_error(text, cause=None):
    from nnsight.intervention.backends.remote import RemoteError

    error = RemoteError(text)
    error.__cause__ = cause
    return error


def failures():
    import httpx
    import websocket

    sending = "Failed to send request: "
    return [
        (remote_error(sending + "There was an error parsing the body"), "lower backend.batch_size"),
        (remote_error(sending + "413 Request Entity Too Large"), "lower backend.batch_size"),
        (remote_error("Traceback\n  x\ntorch.OutOfMemoryError: CUDA out of memory"), "batch_size"),
        (remote_error("Your job exceeded the execution timeout of 60s."), "batch_size"),
        (remote_error("Could not deploy this model. CANT_ACCOMMODATE"), "does not serve org/m"),
        (remote_error("Error starting model. Please try again later."), "could not start org/m"),
        (remote_error("Error submitting request to model deployment."), "finished batches"),
        (remote_error(sending + "Service temporarily unavailable: x"), "is not available"),
        (remote_error(sending + "Invalid API key."), "set NDIF_API_KEY"),
        (remote_error("Traceback\n  line\nKeyError: 'boom'"), "failed: KeyError: 'boom'"),
        (remote_error(sending + "x", httpx.ReadError("x")), "connection to .* was lost"),
        (remote_error(sending + "x", httpx.ConnectError("refused")), "cannot be reached"),
        (httpx.ReadTimeout("x"), "said nothing for 5 s"),
        (websocket.WebSocketTimeoutException("x"), "said nothing for 5 s"),
        (websocket.WebSocketConnectionClosedException("x"), "was lost"),
        (ConnectionResetError("x"), "was lost"),
        (websocket.WebSocketAddressException("Name or service not known"), "cannot be reached"),
        (pickle.UnpicklingError("the server sent a os.system, not a tensor"), "not a tensor"),
    ]


def test_every_failure_is_one_line_that_says_what_to_do():
    from corrsteer.models.request import FAILURES, explain

    for error, message in failures():
        assert isinstance(error, FAILURES)
        text = explain(error, "http://ndif", "org/m", 5)
        assert re.search(message, text), (error, text)
        assert "\n" not in text and "http://ndif" in text
    long = explain(remote_error("Traceback\n" + "x" * 10_000), "http://ndif", "org/m", 5)
    assert len(long) < 500
