"""Neuronpedia's answers, played by a server on this machine."""

from __future__ import annotations

import gzip
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from corrsteer.saes import neuronpedia
from corrsteer.saes.folder import Folder
from corrsteer.saes.neuronpedia import describe, link
from corrsteer.saes.pretrained import Pretrained

SAE = "gemma-2-2b/20-gemmascope-res-16k"


@contextmanager
def served(answer, monkeypatch):
    """A server that calls ``answer(handler, feature)``; yields the paths it was asked for."""
    from huggingface_hub import constants

    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked.append(self.path)
            answer(self, int(self.path.rsplit("/", 1)[1]))

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    monkeypatch.setattr(neuronpedia, "SITE", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


def send(handler, body, status=200, **headers):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(raw)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(raw)


def explained(*texts):
    return {"modelId": "m", "index": "1", "explanations": [{"description": t} for t in texts]}


def test_the_page_of_a_feature():
    assert link(SAE, 7) == "https://www.neuronpedia.org/gemma-2-2b/20-gemmascope-res-16k/7"
    for wrong in (
        None,
        "",
        "x",
        "a/b/c",
        "../..//x",
        "a/b?c",
        "javascript:a/b",
        "a /b",
        3,
        ["a/b"],
    ):
        assert link(wrong, 7) is None


@pytest.mark.long
def test_the_ids_of_our_saes():
    gemma = Pretrained(
        "gemma-scope-2b-pt-res-canonical", "layer_{layer}/width_16k/canonical", "gemma"
    )
    assert gemma.neuronpedia(20) == SAE
    from corrsteer.config import bundled

    assert Folder(bundled("saes")).neuronpedia(3) is None


def test_descriptions_come_as_they_are(monkeypatch):
    texts = {
        0: explained(" mentions of knives ", "another"),
        1: explained("", None, 5, "later\x1b[31m <script>"),
        2: explained("é" * 2000),
        3: {"explanations": []},
        4: {"explanations": [], "error": "x"},
        5: explained("  "),
        6: None,
    }

    def answer(handler, feature):
        if feature == 7:
            send(handler, b"not here", status=404)
        elif feature == 8:
            raw = gzip.compress(json.dumps(explained("packed")).encode())
            send(handler, raw, Content_Encoding="gzip")
        else:
            send(handler, texts[feature])

    with served(answer, monkeypatch) as asked:
        found = describe(SAE, range(9))
    assert found == {
        0: "mentions of knives", 1: "later\x1b[31m <script>", 2: "é" * 500, 3: None, 4: None,
        5: None, 6: None, 7: None, 8: "packed",
    }  # fmt: skip
    assert asked[0] == f"/api/feature/{SAE}/0" and len(asked) == 9


def drip(handler, feature):
    """Never silent for long, and never done."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        try:
            handler.wfile.write(b" ")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.05)


def endless(handler, feature):
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * 2**20)
    except OSError:
        pass


@pytest.mark.long
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda h, f: send(h, explained("x"), status=429), "status 429"),
        (lambda h, f: send(h, explained("x"), status=500), "status 500"),
        (lambda h, f: send(h, b"", status=302, Location="http://127.0.0.1:9/"), "status 302"),
        (lambda h, f: send(h, b"<html>"), "not JSON"),
        (lambda h, f: send(h, b""), "not JSON"),
        (lambda h, f: send(h, b"\xff\xfe\x00"), "not JSON"),
        (lambda h, f: send(h, b"[" * 200_000), "not JSON"),
        (lambda h, f: send(h, [1]), "no list of explanations"),
        (lambda h, f: send(h, {"error": "Feature Not Found"}), "no list of explanations"),
        (lambda h, f: send(h, {"explanations": "x"}), "no list of explanations"),
        (lambda h, f: send(h, b"x", Content_Length="9"), ""),
        (lambda h, f: send(h, b"x", Content_Encoding="gzip"), ""),
        (lambda h, f: h.connection.close(), ""),
        (lambda h, f: time.sleep(1), "timed out"),
        (drip, "too long"),
        (endless, "longer than"),
    ],
)
def test_the_first_failure_is_one_line_and_the_last_request(answer, why, monkeypatch, caplog):
    def first_good(handler, feature):
        send(handler, explained("fine")) if feature == 0 else answer(handler, feature)

    monkeypatch.setattr(neuronpedia, "MAX_BYTES", 2**20)
    start = time.monotonic()
    with served(first_good, monkeypatch) as asked, caplog.at_level("WARNING"):
        assert describe(SAE, [0, 1, 2, 3], timeout=0.5) == {0: "fine"}
    assert time.monotonic() - start < 5
    assert len(asked) == 2
    (line,) = caplog.messages
    assert line.startswith("no descriptions from Neuronpedia: ") and why in line
    assert "\n" not in line and line.endswith(f"/api/feature/{SAE}/1)")


def test_nobody_there(monkeypatch, caplog):
    with served(lambda h, f: None, monkeypatch):
        pass
    assert describe(SAE, [0, 1], timeout=0.5) == {}
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1


def test_offline_nothing_is_asked(monkeypatch, caplog):
    from huggingface_hub import constants

    with served(lambda h, f: send(h, explained("x")), monkeypatch) as asked:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert describe(SAE, [0]) == {}
    assert asked == [] and "WARNING" not in [r.levelname for r in caplog.records]
