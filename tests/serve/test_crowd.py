"""Two hundred at once, of whom some leave half-way and some send nonsense: the rest get their own
answers, and nothing stays."""

from __future__ import annotations

import gc
import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from corrsteer.serve.worker import Job
from tests.serve.conftest import PROMPTS, Served, served
from tests.serve.test_api import GOOD, post

pytestmark = pytest.mark.night

CROWD = 200
DIALS = (0, 1, 2, -1.5)
LARGE = ["POST /v1/completions HTTP/1.1", GOOD, "Content-Type: application/json"]
NONSENSE = [
    (*post(b'{"prompt": '), 400),
    (*post(b'{"prompt": 1}'), 400),
    ([*LARGE, "Content-Length: 10000000"], b"{" * 1000, 413),
    (["GET / HTTP/1.1", "Host: evil.example"], b"", 403),
    (["GET / HTTP/1.1", GOOD, "Origin: http://evil.example"], b"", 403),
]


def asked(server: Served, n: int, **how) -> bytes:
    name = server.loaded.source.spec.name
    fields = {"model": name, "prompt": PROMPTS[n % 2], "max_tokens": 8, **how}
    lines, body = post(json.dumps({**fields, "steering": {"coef": DIALS[n % 4]}}).encode())
    return "\r\n".join([*lines, "", ""]).encode() + body


def one(server: Served, n: int) -> tuple[str, object]:
    """What person ``n`` gets: an answer, nothing since they left, or a refusal."""
    with socket.create_connection(("127.0.0.1", server.port), 60) as place:
        if n % 5 == 3:
            place.sendall(asked(server, n, stream=True, max_tokens=90))
            if n % 2:
                place.recv(64)
            return "left", None
        if n % 5 == 4:
            lines, body, wanted = NONSENSE[n // 5 % len(NONSENSE)]
            place.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
        else:
            place.sendall(asked(server, n))
        answer = http.client.HTTPResponse(place)
        answer.begin()
        if n % 5 == 4:
            return "nonsense", answer.status == wanted
        assert answer.status == 200
        return "answer", json.loads(answer.read())["choices"][0]["text"]


def left() -> tuple[int, int]:
    """Tensors and jobs that are alive."""
    gc.collect()
    some = gc.get_objects()
    return sum(type(x) is torch.Tensor for x in some), sum(type(x) is Job for x in some)


def test_a_crowd_gets_its_own_answers_and_leaves_nothing(run):
    for server in served(run, waiting=CROWD):
        alone = {n: one(server, n)[1] for n in (0, 1, 2, 5, 6, 7, 10, 11)}
        alone = {(n % 2, n % 4): text for n, text in alone.items()}
        assert len(alone) == 4 == len(set(alone.values()))
        sizes = []
        for _ in range(2):
            with ThreadPoolExecutor(CROWD) as pool:
                found = list(pool.map(lambda n, server=server: one(server, n), range(CROWD)))
            for n, (kind, what) in enumerate(found):
                assert kind == "left" or what == (alone[n % 2, n % 4] if kind == "answer" else True)
            last = one(server, 0)  # whoever waited longer has been served, or has left
            assert last == ("answer", alone[0, 0])
            time.sleep(1)
            sizes.append(left())
        assert sizes[1][0] < sizes[0][0] + 20 and sizes[1][1] <= 4
        assert threading.active_count() < 60
