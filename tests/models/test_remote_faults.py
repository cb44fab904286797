"""``backend=ndif`` and a server that refuses, stalls, answers half or nonsense: one line, soon.

The server is made up, and speaks as much HTTP and WebSocket as a client needs to believe it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import torch
import zstandard

from corrsteer.errors import ModelError
from corrsteer.models import request as requests
from corrsteer.models.remote import NDIF, Server
from corrsteer.models.spec import Model

SECRET = "key-that-nobody-may-see"
SILENCE = 0.3  # seconds that a client waits for a server that will say nothing
PATIENCE = 20.0  # and for one that will, on a busy machine
GREETING = json.dumps({"session_id": "s"}).encode()
RECEIPT = json.dumps({"id": "r", "status": "RECEIVED"}).encode()


def status(name: str, **more: object) -> bytes:
    return json.dumps({"id": "r", "status": name, **more}).encode()


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return zstandard.ZstdCompressor().compress(file.getvalue())


class Peer:
    """One connection to the made-up server."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.head = b""
        while b"\r\n\r\n" not in self.head:
            self.head += connection.recv(65536)
        self.head, _, self.body = self.head.partition(b"\r\n\r\n")

    def http(self, body: bytes, code: str = "200 OK", length: int | None = None) -> None:
        size = len(body) if length is None else length
        head = f"HTTP/1.1 {code}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
        self.connection.sendall(head.encode() + body)

    def upgrade(self) -> None:
        lines = dict(line.split(b": ", 1) for line in self.head.split(b"\r\n")[1:])
        key = lines[b"Sec-WebSocket-Key"] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key).digest()).decode()
        self.connection.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )

    def frame(self, content: bytes, binary: bool = False, promised: int | None = None) -> None:
        size = len(content) if promised is None else promised
        head = bytes([0x82 if binary else 0x81, 126]) + struct.pack(">H", size)
        self.connection.sendall(head + content)

    def wait(self) -> None:
        """Say nothing until the other end goes away."""
        with suppress(OSError):
            while self.connection.recv(65536):
                pass


Talk = Callable[[Peer], None]


@contextmanager
def server(subscribe: Talk, post: Talk, download: Talk) -> Iterator[str]:
    """Its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    open_ends: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                open_ends.append(connection)
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection: socket.socket) -> None:
        with suppress(OSError, IndexError), connection:
            peer = Peer(connection)
            path = peer.head.split()[1]
            {b"/subscribe": subscribe, b"/request": post}.get(path, download)(peer)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.close()
        for connection in open_ends:
            connection.close()


def says(*messages: bytes | tuple[bytes, bool], then: Talk = Peer.wait) -> Talk:
    def talk(peer: Peer) -> None:
        peer.upgrade()
        for message in messages:
            peer.frame(*message) if isinstance(message, tuple) else peer.frame(message)
        then(peer)

    return talk


def closes(peer: Peer) -> None:
    pass


def half_a_frame(peer: Peer) -> None:
    peer.frame(status("RUNNING")[:10], promised=500)


def received(peer: Peer) -> None:
    peer.http(RECEIPT)


HERE = "http://127.0.0.1:9/nowhere"
WAITING = says(GREETING)
LOST, SILENT, ODD = "connection to the server .* was lost", "said nothing for", "is not an NDIF"
CASES = {
    "never greets": (Peer.wait, received, SILENT),
    "hangs up on the greeting": (closes, received, "lost|cannot be reached"),
    "is a web page": (lambda p: p.http(b"<html>hello</html>"), received, "cannot be reached"),
    "refuses": (lambda p: p.http(b"no", "403 Forbidden"), received, "cannot be reached.*403"),
    "greets and falls silent": (says(), received, SILENT),
    "greets and hangs up": (says(then=closes), received, LOST),
    "greets with a word": (says(b"hello"), received, ODD),
    "greets with a list": (says(b"[]"), received, ODD),
    "greets with an empty object": (says(b"{}"), received, ODD),
    "greets with bytes": (says((b"\xff\xfe\0", True)), received, ODD),
    "takes the request and falls silent": (WAITING, Peer.wait, SILENT),
    "takes the request and hangs up": (WAITING, closes, LOST),
    "cuts its receipt": (WAITING, lambda p: p.http(RECEIPT[:9], length=500), LOST),
    "gives a receipt of another kind": (WAITING, lambda p: p.http(b"<html>"), ODD),
    "gives a receipt without status": (WAITING, lambda p: p.http(b'{"id": "r"}'), ODD),
    "fails with a page": (
        WAITING, lambda p: p.http(b"<h1>\nbad\n</h1>" * 9, "500 Oops"), "the server .* failed",
    ),
    "repeats the key": (
        WAITING,
        lambda p: p.http(json.dumps({"detail": f"API key {SECRET} is bad"}).encode(), "401 No"),
        "refused the key",
    ),
    "is busy": (
        WAITING, lambda p: p.http(b'{"detail": "unavailable"}', "503 Busy"), "not available",
    ),
    "falls silent at work": (says(GREETING, status("RUNNING")), received, SILENT),
    "hangs up at work": (says(GREETING, status("RUNNING"), then=closes), received, LOST),
    "hangs up in a message": (says(GREETING, then=half_a_frame), received, LOST),
    "says nonsense at work": (says(GREETING, b"{}"), received, ODD),
    "says an unknown status": (says(GREETING, status("DANCING")), received, ODD),
    "says bytes at work": (says(GREETING, (b"PK\x03\x04junk", True)), received, ODD),
    "says an error": (
        says(GREETING, status("ERROR", description="Traceback\n  x\nKeyError: 1")), received,
        "failed: KeyError",
    ),
    "completes without a result": (says(GREETING, status("COMPLETED")), received, ODD),
    "completes with a number": (says(GREETING, status("COMPLETED", data=7)), received, ODD),
    "completes with an odd address": (
        says(GREETING, status("COMPLETED", data="gopher://x")), received, "cannot be reached|odd",
    ),
    "completes with an address that is not there": (
        says(GREETING, status("COMPLETED", data=HERE)), received, "cannot be reached",
    ),
}  # fmt: skip
RESULTS = {
    "is not there": (lambda p: p.http(b"", "404 Not Found"), "404"),
    "stalls": (Peer.wait, SILENT),
    "stalls half way": (lambda p: (p.http(saved({})[:9], length=500), p.wait()), SILENT),
    "is cut": (lambda p: p.http(saved({})[:9], length=500), LOST),
    "is half": (lambda p: p.http(saved({"tokens": torch.ones(9, 9)})[:90]), ODD),
    "is a page": (lambda p: p.http(b"<html>"), ODD),
    "is empty": (lambda p: p.http(b""), ODD),
    "is a list": (lambda p: p.http(saved([1])), ODD),
    "lacks the tokens": (lambda p: p.http(saved({"other": torch.ones(1)})), "lacks what was asked"),
}


@pytest.fixture(scope="module")
def remote(tiny_llama):
    return NDIF(host=HERE, device="cpu").load(Model("tiny", str(tiny_llama), dtype="float32"))


def failed(remote, host: str, monkeypatch, words: str) -> str:
    wait = SILENCE if words == SILENT else PATIENCE
    monkeypatch.setattr(requests, "_CONNECT_SECONDS", wait)
    monkeypatch.setattr(requests, "_PARTING_SECONDS", SILENCE)
    monkeypatch.setattr(remote, "_server", Server(host, SECRET, wait))
    began = time.monotonic()
    with pytest.raises(ModelError) as caught:
        remote.generate(["The lamps went out"], [None], max_new_tokens=2)
    assert time.monotonic() - began < 5 * SILENCE + 30
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600
    assert SECRET not in text and SECRET not in repr(caught.value.__dict__)
    return text


BY_DAY = {
    "greets and falls silent", "hangs up in a message", "repeats the key", "is cut",
}  # fmt: skip


def night_but_for(cases):
    return [how if how in BY_DAY else pytest.param(how, marks=pytest.mark.night) for how in cases]


@pytest.mark.parametrize("how", night_but_for(CASES))
def test_a_server_that_misbehaves_is_one_line(remote, how, monkeypatch):
    subscribe, post, words = CASES[how]
    with server(subscribe, post, closes) as host:
        text = failed(remote, host, monkeypatch, words)
    assert re.search(words, text), text


@pytest.mark.parametrize("how", night_but_for(RESULTS))
def test_a_result_that_does_not_come_whole_is_one_line(remote, how, monkeypatch):
    download, words = RESULTS[how]
    address: list[str] = []

    def completes(peer: Peer) -> None:
        peer.upgrade()
        peer.frame(GREETING)
        peer.frame(status("COMPLETED", data=f"{address[0]}/result"))
        peer.wait()

    with server(completes, received, download) as host:
        address.append(host)
        text = failed(remote, host, monkeypatch, words)
    assert re.search(words, text), text
