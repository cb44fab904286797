"""Parts of the server without a model: what ends an answer, who is refused, whose turn it is."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from corrsteer.serve import listening
from corrsteer.serve.api import Answer, Asked
from corrsteer.serve.command import _listening, server_of
from corrsteer.serve.guard import Refused
from corrsteer.serve.stepper import Pane, Sampling, Turned
from corrsteer.serve.worker import TOGETHER, Event, Full, Job, Worker

TURNED = Turned(1.0, {}, "generation")


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


def test_a_client_that_left_is_noticed_while_tokens_flow(monkeypatch):
    monkeypatch.setattr(listening, "LOOK", 0.02)

    async def gone() -> bool:
        return True

    async def noticed_after() -> int:
        heard = listening.Heard(Worker(1), {}, TURNED, 1, ())

        async def write() -> None:
            for _ in range(500):
                heard._events.put_nowait(Event("token"))
                await asyncio.sleep(0.001)
            heard._events.put_nowait(Event("end"))

        writing = asyncio.create_task(write())
        found = [event async for event in heard.events(SimpleNamespace(is_disconnected=gone))]
        writing.cancel()
        assert heard.job.left
        return len(found)

    assert 0 < asyncio.run(noticed_after()) < 500


def test_jobs_that_are_over_are_not_waited_for():
    told: list[Event] = []
    worker, jobs = Worker(2), [Job({}, TURNED, 1, (), told.append) for _ in range(6)]
    assert [worker.submit(job) for job in jobs[:2]] == [0, 1]
    with pytest.raises(Full):
        worker.submit(jobs[2])
    jobs[0].leave()
    assert worker.submit(jobs[3]) == 1 and told == []
    jobs[1].stop()
    assert worker.submit(jobs[4]) == 1 and [(e.kind, e.text) for e in told] == [("end", "stopped")]
    with pytest.raises(Full):
        worker.submit(jobs[5])


class Writes:
    """A pane of one token."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.readings: dict = {}

    def step(self, turned: Turned) -> int:
        self.tokens.append(0)
        return 0


def test_jobs_that_only_wait_hold_no_place_and_are_bounded():
    told: dict[str, list[str]] = {}
    ready: list[Writes] = []

    def job(name: str, maker) -> Job:
        return Job({name: maker}, TURNED, 1, (), lambda e: told.setdefault(name, []).append(e.kind))

    def until(what) -> None:
        end = time.monotonic() + 5
        while not what() and time.monotonic() < end:
            time.sleep(0.005)

    worker = Worker(TOGETHER + 2)
    worker.start()
    try:
        for n in range(TOGETHER + 1):
            worker.submit(job(f"waits {n}", lambda: Writes() if ready else None))
        worker.submit(job("other", Writes))
        until(lambda: "other" in told)
        assert told == {"other": ["token", "done", "end"]}
        worker.submit(job("last that waits", lambda: None))
        until(lambda: not worker._waiting.qsize())
        worker.submit(job("too many", Writes))
        time.sleep(0.1)
        assert "too many" not in told
        ready.append(Writes())
        until(lambda: len(told) == TOGETHER + 3)
        assert set(map(tuple, told.values())) == {("token", "done", "end")}
    finally:
        worker.close()


def test_whoever_waits_at_the_end_is_told():
    told: dict[str, list[str]] = {}

    def job(name: str, pane) -> Job:
        return Job(
            {name: lambda: pane}, TURNED, 1, (), lambda e: told.setdefault(name, []).append(e.text)
        )

    active, never = Worker(2), Worker(2)
    active.submit(job("its turn", None))
    active.start()
    while active._waiting.qsize():
        time.sleep(0.005)
    active.close()
    never.submit(job("never its turn", Writes()))
    never.end()
    never.start()
    never.close()
    assert told == dict.fromkeys(("its turn", "never its turn"), ["the server was ended"])


def test_an_end_that_cuts_requests_off_says_no_more_of_them(capfd):
    cut = threading.Event()

    async def app(scope, receive, send):
        if scope["type"] == "http":
            cut.set()
            await asyncio.sleep(60)

    place = _listening(0)
    server = server_of(app, Worker(1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    with socket.create_connection(place.getsockname()) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert cut.wait(10)
        server.should_exit = True
        thread.join(10)
    place.close()
    assert not thread.is_alive() and capfd.readouterr().err == ""
