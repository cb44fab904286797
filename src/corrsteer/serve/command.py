"""``python -m corrsteer dial RUN``: the page and the API on one port of this machine."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from corrsteer.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

    from corrsteer.serve.source import Loaded
    from corrsteer.serve.worker import Worker


def dial(
    folder: Path, model: str | None, *, port: int, key: str | None, most: int, prompt: int,
    waiting: int,
) -> None:  # fmt: skip
    """Serve until Ctrl-C. ``most``: new tokens of an answer at most; ``prompt``: tokens of a
    prompt at most; ``waiting``: requests that may wait.

    Raises ConfigError where the packages are missing or the port is taken, and what
    :func:`corrsteer.serve.source.read` raises, before the model is loaded.
    """
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise ConfigError(
            "dial needs starlette and uvicorn: type python -m pip install -e '.[serve]'"
        )
    key = key if key is not None else os.environ.get("CORRSTEER_KEY") or None
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key != ""):
        raise ConfigError("the key must be of printable ASCII characters, without spaces around it")
    with closing(_listening(port)) as place:
        from corrsteer.serve.source import load, read

        source = read(folder, model)
        print(f"loading {source.spec.path} ...", flush=True)
        _serve(load(source, prompt), place, most, waiting, key)


def _listening(port: int) -> socket.socket:
    """A port of this machine; 0 takes a free one. It listens from now on: two sockets may be bound
    to one port until one of them does, and whoever asks early waits for the model."""
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind(("127.0.0.1", port))
        place.listen(128)
    except OSError as error:
        place.close()
        raise ConfigError(
            f"port {port} cannot be used ({error.strerror}): type --port 0 for a free one"
        ) from error
    return place


def _serve(loaded: Loaded, place: socket.socket, most: int, waiting: int, key: str | None) -> None:
    from corrsteer.serve.app import application
    from corrsteer.serve.worker import Worker

    worker = Worker(waiting)
    worker.start(loaded.begin)
    server = server_of(application(loaded, worker, most=most, key=key), worker)
    address = f"http://127.0.0.1:{place.getsockname()[1]}"
    needs = ", which wants the key" if key is not None else ""
    print(f"dial: {address}/\nAPI:  {address}/v1{needs}\nCtrl-C ends it", flush=True)
    try:
        server.run(sockets=[place])
    except KeyboardInterrupt:
        print("ended")
    finally:
        worker.close()


def server_of(app: Starlette, worker: Worker) -> uvicorn.Server:
    """At its end who waits for an answer is told so; after a second the rest is cut off."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            worker.end()
            # It has a traceback for each request that is cut off, which is no fault.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    return Server(
        uvicorn.Config(
            app,
            log_level=logging.WARNING,
            access_log=False,
            timeout_graceful_shutdown=1,
            server_header=False,
        )
    )
