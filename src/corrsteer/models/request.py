"""One request to an NDIF server, and what its failures mean.

nnsight's own blocking backend waits for ever when a server falls silent and unpickles what it
is sent. Imports nnsight: only for use behind a loaded model.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import socket
import types
from collections.abc import Iterator
from typing import Any

import httpx
import torch
import websocket
import zstandard
from nnsight.intervention.backends import remote as nnsight_remote
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status


class Nonsense(Exception):
    """What a server sent is not what an NDIF server sends."""


FAILURES = (
    RemoteError, OSError, websocket.WebSocketException, httpx.HTTPError, httpx.InvalidURL,
    pickle.UnpicklingError, Nonsense,
)  # fmt: skip
"""What a request can fail with, besides a mistake of ours."""

_CONNECT_SECONDS = 10.0
_PARTING_SECONDS = 1.0  # for the server's goodbye, which nothing depends on
# A peer that vanished without closing is noticed after about 90 s.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)


class Request(RemoteBackend):  # type: ignore[misc]  # nnsight is not followed
    """Runs a trace of ``wrapped`` on a server; ``received`` counts the bytes of its result."""

    def __init__(self, wrapped: Any, host: str, key: str | None, silence_s: float) -> None:
        super().__init__(
            wrapped.to_model_key(), host=host, api_key=key, env=wrapped._remoteable_get_env()
        )
        self.display.enabled = False
        nnsight_remote._READ_TIMEOUT = silence_s  # nnsight has no setting for it
        self.received = 0
        self._silence_s = silence_s

    def request(self, request: RequestModel, tracer: Any) -> Any:
        blob = self._serialize(tracer)
        connection = websocket.create_connection(
            f"{self.ws_host}/subscribe",
            header={"ndif-api-key": self.api_key} if self.api_key else None,
            timeout=_CONNECT_SECONDS,
            sockopt=_KEEPALIVE,
        )
        try:
            with _understood("its greeting"):
                request.session_id = str(json.loads(connection.recv())["session_id"])
            connection.settimeout(self._silence_s)
            with _understood("its receipt"):
                self.send(request, blob)
            while True:
                message = connection.recv()
                if not message:  # how the other end says that it closes
                    raise websocket.WebSocketConnectionClosedException("closed")
                with _understood("a message"):
                    response = self.parse(message)
                    result = self.handle(response)
                if response.status == Status.COMPLETED:
                    if not isinstance(result, dict):
                        raise Nonsense("the server sent no result")
                    return result
        finally:
            connection.close(timeout=_PARTING_SECONDS)

    @staticmethod
    def parse(message: str | bytes) -> ResponseModel:
        if isinstance(message, str):
            return ResponseModel.model_validate_json(message)
        return ResponseModel(**_tensors(message))

    def finalize(self, content: bytes) -> Any:
        self.received += len(content)
        with _understood("its result"):
            if self.compress:
                content = zstandard.ZstdDecompressor().decompress(content)
            return _tensors(content)


@contextlib.contextmanager
def _understood(what: str) -> Iterator[None]:
    """Whatever JSON, pydantic, zstd, zip and pickle say of bytes that mean nothing, as Nonsense."""
    try:
        yield
    except FAILURES:
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:100] or type(error).__name__
        raise Nonsense(f"the server sent {what} that cannot be read ({words})") from error


# All that a status message or a dict of tensors and numbers is made of.
_HARMLESS = {
    ("collections", "OrderedDict"),
    ("nnsight.schema.response", "Status"),
    ("torch._utils", "_rebuild_tensor_v2"),
}


class _Unpickler(pickle.Unpickler):
    """Builds tensors and plain values. ``weights_only`` would do, but cannot read the pickle
    protocol that servers use."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"the server sent a {module}.{name}, not a tensor")
        return super().find_class(module, name)


def _old_format(*args: Any, **kwargs: Any) -> None:
    raise pickle.UnpicklingError("the server sent a file in torch's old format")


_READER = types.ModuleType("tensors_only")
vars(_READER).update(Unpickler=_Unpickler, load=_old_format)


def _tensors(content: bytes) -> Any:
    """What ``torch.save`` wrote, on the CPU. Raises UnpicklingError for anything else."""
    file = io.BytesIO(content)
    return torch.load(file, map_location="cpu", weights_only=False, pickle_module=_READER)


_AGAIN = "type the command again (finished batches are kept)"
# What NDIF's own messages contain (ndif 0.1.2), and what it means.
_REFUSALS = (
    ("API key", "the server {host} refused the key: set NDIF_API_KEY to a valid one"),
    ("Could not deploy", "the server {host} does not serve {model}: {host}/status lists what it"
     " serves"),
    ("Error starting model", "the server {host} could not start {model}: {again}"),
    ("error parsing the body", "the request is too large for {host}: lower backend.batch_size"),
    ("Too Large", "the request is too large for {host}: lower backend.batch_size"),
    ("out of memory", "the request is too large for {host}: lower backend.batch_size"),
    ("OutOfMemory", "the request is too large for {host}: lower backend.batch_size"),
    ("execution timeout", "the request takes too long on {host}: lower backend.batch_size"),
    ("could not be read", "the server {host} cannot read requests of this nnsight: install the"
     " version it has ({host}/env)"),
    ("Error submitting request", "the server {host} lost the model: {again}"),
    ("unavailable", "the server {host} is not available: {again}"),
)  # fmt: skip


def explain(error: Exception, host: str, model: str, silence_s: float) -> str:
    """One line for a failed request: what went wrong, and what to do."""
    words = {"host": host, "model": model, "again": _AGAIN}
    cause = error.__cause__
    if isinstance(error, RemoteError) and not isinstance(cause, httpx.TransportError):
        for known, meaning in _REFUSALS:
            if known in str(error):
                return f"{meaning.format(**words)} (it says: {_end_of(error)})"
        return f"the server {host} failed: {_end_of(error)}"
    if isinstance(error, pickle.UnpicklingError | Nonsense):
        return f"{_end_of(error)}: {host} is not an NDIF server, or runs another version"
    late = websocket.WebSocketTimeoutException | TimeoutError | httpx.TimeoutException
    if isinstance(error, late) or isinstance(cause, late):
        return (
            f"the server {host} said nothing for {silence_s:g} s (or {_CONNECT_SECONDS:g} s while"
            f" connecting): {_AGAIN}, or raise backend.timeout_s"
        )
    lost = websocket.WebSocketConnectionClosedException | ConnectionResetError | BrokenPipeError
    cut = httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError
    if isinstance(error, lost | cut) or isinstance(cause, cut):
        return f"the connection to the server {host} was lost: {_AGAIN}"
    return (
        f"the server {host} cannot be reached ({_end_of(error)}): check backend.host or NDIF_HOST"
    )


def _end_of(error: Exception) -> str:
    """The last line of a message, which may be a server's traceback, of bearable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
