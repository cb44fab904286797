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
    from corrsteer.serve.source import Loaded


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
    """A port of this machine; 0 takes a free one."""
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind(("127.0.0.1", port))
    except OSError as error:
        place.close()
        raise ConfigError(
            f"port {port} cannot be used ({error.strerror}): type --port 0 for a free one"
        ) from error
    return place


def _serve(loaded: Loaded, place: socket.socket, most: int, waiting: int, key: str | None) -> None:
    import uvicorn

    from corrsteer.serve.app import application
    from corrsteer.serve.worker import Worker

    worker = Worker(waiting)
    worker.start(loaded.begin)
    config = uvicorn.Config(
        application(loaded, worker, most=most, key=key),
        log_level=logging.WARNING,
        access_log=False,
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    address = f"http://127.0.0.1:{place.getsockname()[1]}"
    place.listen(128)  # so that the address is good from when it is printed
    needs = ", which wants the key" if key is not None else ""
    print(f"dial: {address}/\nAPI:  {address}/v1{needs}\nCtrl-C ends it", flush=True)
    try:
        uvicorn.Server(config).run(sockets=[place])
    except KeyboardInterrupt:
        print("ended")
    finally:
        worker.close()
