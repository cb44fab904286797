"""Parts of the server without a model: what ends an answer, who is refused, whose turn it is."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
import torch

from corrsteer.serve.api import Answer, Asked
from corrsteer.serve.guard import Refused
from corrsteer.serve.stepper import Pane, Sampling
from corrsteer.serve.worker import Event


class Heard:
    """``events`` of a job that were made up."""

    def __init__(self, *events: Event) -> None:
        self._events, self.job = events, SimpleNamespace(stop=lambda: None)

    async def events(self, request=None):
        for event in self._events:
            yield event


@pytest.mark.parametrize(("stops", "why"), [((), "length"), (("b",), "stop")])
def test_a_stop_text_in_the_last_token_is_why_an_answer_ends(stops, why):
    heard = Heard(Event("token", token=0), Event("token", token=1), Event("done", text="length"))
    loaded = SimpleNamespace(reader=SimpleNamespace(text=lambda ids: "ab"[: len(ids)]))
    asked = Asked([1], 2, Sampling(), stops, False, False)
    found = asyncio.run(Answer(heard, asked, loaded, "m", False).whole(None))
    assert found["choices"][0]["finish_reason"] == why


def test_a_refusal_may_quote_half_of_a_surrogate_pair():
    answer = Refused(400, "\ud800 is not supported", "invalid_value", "\ud800").response()
    error = json.loads(answer.body)["error"]
    assert (error["param"], error["message"]) == ("\ud800", "\ud800 is not supported")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("temperature", [1e-40, 1e-4, 1e-3])
def test_a_temperature_however_low_gives_the_likeliest(temperature):
    logits = torch.tensor([1.0, 3e38, 2.0])
    pane = Pane(None, [1], None, Sampling(temperature, 1.0, 3))
    assert pane._chosen(logits) == 1
