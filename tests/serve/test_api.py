"""The API against OpenAI's own client and against what no client should send."""

from __future__ import annotations

import http.client
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from corrsteer.serve.stepper import Pane, Sampling, Turned
from tests.serve.conftest import HOSTILE, PROMPTS, Served, served

pytestmark = pytest.mark.long

NEW = 10


@pytest.fixture(scope="module")
def client(server: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def model(client) -> str:
    return client.models.list().data[0].id


def wanted(server: Served, prompt: str, coef: float, *, new: int = NEW, **how) -> str:
    """The text of a pane that is stepped here. The model is the server's: not beside a request."""
    loaded = server.loaded
    plan = loaded.source.plan
    asked, under = loaded.reader.asked(prompt, new), loaded.source.gates.under
    pane = Pane(loaded.stepper, asked, plan, Sampling(), under)
    positions, gate = how.get("positions", plan.positions), how.get("gate", "plan")
    turned = Turned(coef, how.get("factors", {}), positions, gate)
    for _ in range(new):
        if pane.step(turned) in loaded.reader.ends:
            break
    return loaded.reader.text(pane.tokens)


def complete(client, prompt=PROMPTS[0], new=NEW, steering=None, **how):
    extra = {} if steering is None else {"extra_body": {"steering": steering}}
    return client.completions.create(
        model=model(client), prompt=prompt, max_tokens=new, **extra, **how
    )


@pytest.mark.parametrize(
    ("steering", "coef", "how"),
    [
        (None, 1.0, {}),
        ({"coef": 0}, 0.0, {}),
        ({"coef": -1.5}, -1.5, {}),
        ({"coef": 2, "layers": [1]}, 2.0, {"factors": {0: 0.0, 2: 0.0}}),
        ({"coef": 2, "layers": {"0": 0.5}}, 2.0, {"factors": {0: 0.5}}),
        ({"positions": "all"}, 1.0, {"positions": "all"}),
        ({"gate": "inactive"}, 1.0, {"gate": "inactive"}),
    ],
)
def test_steering_is_what_the_request_says(server, client, steering, coef, how):
    server.loaded.source.chance.join()  # the SAEs tell which features are active
    found = complete(client, steering=steering)
    assert found.choices[0].text == wanted(server, PROMPTS[0], coef, **how)
    assert found.usage.completion_tokens in range(1, NEW + 1)
    assert found.choices[0].finish_reason in ("length", "stop")


def test_the_settings_are_told_apart(server, client):
    dials = (0, 1, 2, -1.5)
    assert len({complete(client, steering={"coef": c}).choices[0].text for c in dials}) == 4


def test_a_chat_and_its_stream_say_the_same(server, client):
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello?"}]
    ask = {"model": model(client), "messages": messages, "max_tokens": NEW}
    whole = client.chat.completions.create(**ask)
    text = whole.choices[0].message.content
    assert text == wanted(server, "Be short.\n\nHello?", 1.0)
    stream = client.chat.completions.create(
        **ask, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert chunks[-1].usage == whole.usage
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[
        0
    ].finish_reason
    assert len(chunks) > 3


def test_a_streamed_completion_ends_before_a_stop_text(client):
    text = complete(client).choices[0].text
    stop = text[len(text) // 2 :][:3]
    for stream in (False, True):
        found = complete(client, stop=[stop, "never there"], stream=stream)
        parts = list(found) if stream else [found]
        assert "".join(part.choices[0].text for part in parts) == text[: text.index(stop)]
        assert parts[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "the model here is"),
        ({"n": 2}, openai.BadRequestError, "n is not supported"),
        ({"logprobs": 3}, openai.BadRequestError, "logprobs is not supported"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens must be a whole number from 1 to"),
        ({"max_tokens": 10**6}, openai.BadRequestError, "from 1 to 100"),
        ({"prompt": ""}, None, ""),
        ({"prompt": "x " * 200}, openai.BadRequestError, "at most 64 go with an answer of 10"),
        ({"prompt": ["a", "b"]}, openai.BadRequestError, "must be one text"),
        ({"prompt": 3}, openai.BadRequestError, "must be one text"),
        ({"prompt": "\ud800"}, openai.BadRequestError, "surrogate"),
        ({"temperature": 3}, openai.BadRequestError, "temperature must be a number from 0 to 2"),
        ({"stop": [""]}, openai.BadRequestError, "stop must be"),
        ({"unheard_of": 1}, openai.BadRequestError, "unheard_of is not supported"),
        ({"steering": 3}, openai.BadRequestError, "steering must be an object"),
        ({"steering": {"cofe": 1}}, openai.BadRequestError, "has 'cofe'"),
        ({"steering": {"coef": "1"}}, openai.BadRequestError, "coef must be a number"),
        ({"steering": {"coef": float("nan")}}, openai.BadRequestError, "coef must be a number"),
        ({"steering": {"coef": 1e9}}, openai.BadRequestError, "from -100 to 100"),
        ({"steering": {"layers": [9]}}, openai.BadRequestError, "layers of this plan: 0, 1, 2"),
        ({"steering": {"layers": {"0": 10**400}}}, openai.BadRequestError, "no number"),
        ({"steering": {"coef": 90, "layers": {"0": 90}}}, None, ""),
        ({"steering": {"gate": "never"}}, openai.BadRequestError, "none of plan, active, inactive"),
        ({"steering": {"positions": "first_0"}}, openai.BadRequestError, "is unknown"),
        ({"steering": {"positions": ["all"]}}, openai.BadRequestError, "is unknown"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_an_error_of_the_client(client, server, change, error, words):
    body = {"model": model(client), "prompt": PROMPTS[0], "max_tokens": NEW, **change}
    text = json.dumps(body)
    answer = httpx.post(
        f"{server.url}/v1/completions", content=text, headers={"Content-Type": "application/json"}
    )
    if error is None:
        assert answer.status_code in (200, 500)
        return
    found = answer.json()["error"]
    assert words in found["message"] and found["type"] == "invalid_request_error"
    assert {"message", "type", "param", "code"} == set(found)
    assert answer.status_code == error.status_code if hasattr(error, "status_code") else True


def test_the_client_raises_its_own_errors(client):
    with pytest.raises(openai.BadRequestError, match="coef must be a number"):
        complete(client, steering={"coef": "much"})
    with pytest.raises(openai.NotFoundError, match="the model here is") as caught:
        client.completions.create(model="other", prompt="x")
    assert caught.value.code == "model_not_found"


def raw(server: Served, lines: list[str], body: bytes = b"") -> tuple[int, bytes]:
    """What a request as it was typed is answered."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as place:
        place.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        answer = http.client.HTTPResponse(place)
        answer.begin()
        return answer.status, answer.read()


GOOD = "Host: 127.0.0.1"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([GOOD], 200),
        (["Host: LOCALHOST:99"], 200),
        (["Host: [::1]:8765"], 200),
        ([GOOD, "Origin: http://127.0.0.1"], 200),
        (["Host: evil.example"], 403),
        (["Host: 127.0.0.1.evil.example"], 403),
        (["Host: evil.example:127.0.0.1"], 403),
        (["Host: 127.0.0.1@evil.example"], 403),
        (["Host: 0.0.0.0"], 403),
        (["Host: "], 403),
        ([GOOD, "Host: evil.example"], 400),
        ([GOOD, "Origin: http://evil.example"], 403),
        ([GOOD, "Origin: http://127.0.0.1:3000"], 403),
        ([GOOD, "Origin: http://localhost"], 403),
        ([GOOD, "Origin: null"], 403),
        ([GOOD, "Origin: http://127.0.0.1", "Origin: http://evil.example"], 400),
    ],
)
@pytest.mark.parametrize("path", ["/", "/v1/models", "/dial/about"])
def test_other_hosts_and_origins_are_refused(server, headers, status, path):
    found, body = raw(server, [f"GET {path} HTTP/1.1", *headers, "Connection: close"])
    assert found == status, body
    if status == 403:
        assert json.loads(body)["error"]["message"]


def post(body: bytes, *more: str, kind: str = "application/json") -> tuple[list[str], bytes]:
    head = ["POST /v1/completions HTTP/1.1", GOOD, f"Content-Type: {kind}", "Connection: close"]
    return [*head, f"Content-Length: {len(body)}", *more], body


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b"[1]", 400, "must be a JSON object"),
        (b'"x"', 400, "must be a JSON object"),
        (b"{}", 400, "model must be a text"),
        (b'{"model": ' + b"9" * 5000 + b"}", 400, "not JSON"),
    ],
)
def test_what_is_no_request_is_refused(server, body, status, words):
    found, text = raw(server, *post(body))
    assert (found, words in json.loads(text)["error"]["message"]) == (status, True), text


def test_a_form_of_another_page_is_no_request(server):
    found, text = raw(server, *post(b'{"model": "x"}', kind="text/plain"))
    assert found == 415 and "Content-Type: application/json" in text.decode()


def test_ten_megabytes_are_refused_before_they_are_read(server):
    lines, _ = post(b"")
    lines = [line.replace("Content-Length: 0", "Content-Length: 10000000") for line in lines]
    found, text = raw(server, lines)
    assert found == 413 and "larger than" in text.decode()


def test_a_body_without_an_end_is_refused(server):
    lines, _ = post(b"")
    lines = [line for line in lines if "Length" not in line] + ["Transfer-Encoding: chunked"]
    chunk = b"40000\r\n" + b" " * 0x40000 + b"\r\n"
    found, text = raw(server, lines, chunk * 5)
    assert found == 413 and "larger than" in text.decode()


@pytest.mark.parametrize(
    "line", ["GET /etc", "GET /../pyproject.toml", "GET /dial/run", "PUT /v1/models"]
)
def test_another_address_or_method_is_told_of(server, line):
    found, text = raw(server, [f"{line} HTTP/1.1", GOOD, "Connection: close"])
    assert found in (404, 405) and json.loads(text)["error"]["message"]


# -- many at once ---------------------------------------------------------------------------------


def test_twenty_at_once_get_their_own_answers(server, client):
    asked = [
        (PROMPTS[n % 2], coef, {"coef": coef})
        for n, coef in enumerate([0, 1, 2, -1, -1.5, 0.5, 3, 1.5, 2.5, -0.5] * 2)
    ]
    alone = {(p, c): complete(client, p, steering=s).choices[0].text for p, c, s in asked[:10]}
    assert len(set(alone.values())) > 8
    with ThreadPoolExecutor(20) as pool:
        found = pool.map(lambda one: complete(client, one[0], steering=one[2]), asked)
    assert [one.choices[0].text for one in found] == [alone[p, c] for p, c, _ in asked]


def test_clients_that_leave_are_no_burden(server, client, caplog):
    text = complete(client).choices[0].text
    body = json.dumps(
        {"model": model(client), "prompt": PROMPTS[0], "max_tokens": 100, "stream": True}
    ).encode()
    lines, body = post(body)
    for n in range(8):
        with socket.create_connection(("127.0.0.1", server.port), 10) as place:
            place.sendall("\r\n".join([*lines, "", ""]).encode() + body[: len(body) - n % 2])
            if n > 4 and n % 2 == 0:
                place.recv(200)
    assert complete(client).choices[0].text == text
    assert "Exception" not in caplog.text


def test_who_comes_when_too_many_wait_is_refused_and_the_rest_is_answered(run):
    for server in served(run, waiting=1):
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        name = model(client)
        complete(client)

        def ask(n: int, client=client, name=name) -> str:
            try:
                made = client.completions.create(model=name, prompt=PROMPTS[0], max_tokens=60)
            except openai.RateLimitError as error:
                assert "wait already" in str(error) and error.response.headers["retry-after"]
                return "refused"
            return made.choices[0].text

        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(ask, range(12)))
        assert 0 < found.count("refused") < 12
        assert len(set(found) - {"refused"}) == 1


def test_a_key_is_asked_for_and_never_shown(run, caplog, capfd):
    key = "a-key-that-nobody-knows"
    for server in served(run, key=key):
        for wrong in ("x", "a-key", key + "x", "\xe4"):
            answer = httpx.get(
                f"{server.url}/v1/models",
                headers={"Authorization": f"Bearer {wrong}".encode("latin-1")},
            )
            assert answer.status_code == 401 and key not in answer.text
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{server.url}/dial/about").status_code == 401
        assert httpx.get(f"{server.url}/").status_code == 200
        right = openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)
        assert complete(right).choices[0].text
    said = capfd.readouterr()
    assert key not in caplog.text + said.out + said.err


# -- the page's own requests ----------------------------------------------------------------------


def events(answer) -> list[tuple[str, dict]]:
    parts = [part.split("\n") for part in answer.text.split("\n\n") if part]
    return [
        (head.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for head, data in parts
    ]


def panes(found) -> dict[str, list[int]]:
    tokens: dict[str, list[int]] = {}
    for kind, value in found:
        if kind == "token":
            tokens.setdefault(value["pane"], []).append(value["id"])
    return tokens


def dial(server: Served, **how):
    body = {"prompt": PROMPTS[0], "max_tokens": NEW, **how}
    return httpx.post(f"{server.url}/dial/run", json=body, timeout=60)


def test_three_panes_stream_beside_each_other(server):
    found = events(dial(server))
    assert [kind for kind, _ in found][0] == "begin" and found[-1][0] == "end"
    assert found[-1][1]["random"] == "features"
    tokens = panes(found)
    assert set(tokens) == {"unsteered", "steered", "random"}
    assert len({tuple(some) for some in tokens.values()}) == 3
    last = [value for kind, value in found if kind == "token" and value["pane"] == "random"][-1]
    assert last["on"] == [0, 1, 2] and [len(both) for both in last["acts"].values()] == [2, 2, 2]
    order = [value["pane"] for kind, value in found if kind == "token"]
    assert order[:6].count("steered") == 2  # in turn, not one after the other
    text = server.loaded.reader.text(tokens["steered"])
    assert text == wanted(server, PROMPTS[0], 1.0)
    assert panes(events(dial(server, draw=2)))["random"] != tokens["random"]


def test_at_coefficient_0_the_panes_are_identical(server):
    unsteered, steered, random = panes(events(dial(server, steering={"coef": 0}))).values()
    assert unsteered == steered == random


def test_a_dial_is_turned_and_stopped_by_its_own_id(server):
    body = {"prompt": PROMPTS[0], "max_tokens": 100, "steering": {"coef": 0}}
    dials, over = [], ""
    with httpx.stream("POST", f"{server.url}/dial/run", json=body, timeout=60) as stream:
        kind = ""
        for line in stream.iter_lines():
            kind = line.removeprefix("event: ") if line.startswith("event: ") else kind
            if not line.startswith("data: "):
                continue
            value = json.loads(line.removeprefix("data: "))
            if kind == "begin":
                name = value["id"]
                for other in ("x" * len(name), name[:-1]):
                    gone = httpx.post(f"{server.url}/dial/turn", json={"id": other})
                    assert gone.status_code == 404
                turn = {"id": name, "steering": {"coef": 2}}
                assert httpx.post(f"{server.url}/dial/turn", json=turn).status_code == 200
            elif kind == "token" and value["pane"] == "steered":
                dials.append(value["dial"])
                if dials.count(2) == 3:
                    httpx.post(f"{server.url}/dial/stop", json={"id": name})
            elif kind == "end":
                over = value["text"]
    assert dials == sorted(dials) and dials[-1] == 2 and len(dials) < 100
    assert over == "stopped"
    assert httpx.post(f"{server.url}/dial/stop", json={"id": name}).status_code == 404


def test_the_page_has_all_it_needs_and_says_so(server):
    page = httpx.get(server.url)
    assert HOSTILE not in page.text and "http://" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    about = httpx.get(f"{server.url}/dial/about").json()
    assert [one["name"] for one in about["gates"]] == ["plan", "active", "inactive"]
    assert [q["prompt"] for q in about["questions"]] == PROMPTS
    card = about["layers"][0]["card"]
    assert (card["class"], card["freq"], card["fires_on"]) == ("structural", 0.5, [HOSTILE])


def test_a_model_that_fails_is_an_error_and_the_next_is_answered(server, client):
    before = complete(client).choices[0].text
    plan, loaded = server.loaded.source.plan, server.loaded
    step = loaded.stepper.logits
    try:
        loaded.stepper.logits = lambda *how: 1 / 0
        with pytest.raises(openai.InternalServerError, match="ZeroDivisionError"):
            complete(client)
        with pytest.raises(openai.APIError, match="ZeroDivisionError"):
            list(complete(client, stream=True))
    finally:
        loaded.stepper.logits = step
    assert plan.coef == 1.0 and complete(client).choices[0].text == before


def test_answers_of_a_model_that_gives_no_numbers_are_refused(server, client, monkeypatch):
    step = server.loaded.stepper.logits

    def without(*how):
        logits, cache = step(*how)
        return logits * float("nan"), cache

    monkeypatch.setattr(server.loaded.stepper, "logits", without)
    with pytest.raises(openai.InternalServerError, match="no numbers"):
        complete(client)


def test_nothing_is_left_of_what_was_asked(server, client):
    import gc

    import torch

    def tensors() -> int:
        gc.collect()
        return sum(type(one) is torch.Tensor for one in gc.get_objects())

    complete(client, new=20)
    time.sleep(0.2)
    before = tensors()
    for _ in range(4):
        complete(client, new=20)
    time.sleep(0.2)
    assert tensors() < before + 20
