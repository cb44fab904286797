"""A real NDIF server on this machine: redis, an object store, ray, ndif's controller and API.

    python tests/models/remote/ndif_server.py install FOLDER    # its own environment, about 2 GB
    python tests/models/remote/ndif_server.py serve FOLDER [--sandboxed]    # until Ctrl-D or Ctrl-C

Tests use :class:`NdifServer`. All ports are free ones and all files lie in a new folder, so
servers do not disturb each other. One process, the keeper, starts all the others. It is their
"subreaper": whatever daemonises becomes its child, so it finds and ends all of them, when it is
told to and when the process that started it is gone, however that died.

Cost: about 25 s to start, 2.5 GB of memory, the first trace of a model 10 to 20 s.
Linux only (``/proc``, ``prctl``). Imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "ndif_requirements.txt"
START_SECONDS = 300
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class NdifError(Exception):
    """The server cannot be installed or started; says what to do, or what its logs say."""


# -- the environment -----------------------------------------------------------------------


def missing(folder: Path) -> str | None:
    """What is not there and what to type; None if the server can be started."""
    if shutil.which("redis-server") is None:
        return (
            "redis-server is not on PATH; on Debian or Ubuntu type: "
            "apt-get install -y --no-install-recommends redis-server"
        )
    if not _stamp(folder).is_file() or _stamp(folder).read_text() != REQUIREMENTS.read_text():
        return f"the NDIF server is not installed in {folder}; type: make ndif"
    return None


def _stamp(folder: Path) -> Path:
    return folder / ".installed"


def install(folder: Path) -> None:
    """Make the server's environment; nothing is done where it is already there."""
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-qq"]
    reason = missing(folder)
    if reason is None:
        return
    if shutil.which("redis-server") is None:
        raise NdifError(reason)
    _stamp(folder).unlink(missing_ok=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        # First and alone: pip then takes the build the machine is set up for.
        [*pip, "torch==2.13.0"],
        [*pip, "-r", str(REQUIREMENTS)],
        # It asks for Python 3.12 and for packages of services that are not started here.
        [*pip, "--no-deps", "--ignore-requires-python", "ndif==0.1.2"],
    ):
        subprocess.run(command, check=True)
    _stamp(folder).write_text(REQUIREMENTS.read_text())


# -- processes -----------------------------------------------------------------------------


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl failed")


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def descendants(root: int) -> list[int]:
    """All living processes below ``root``."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The name, in brackets, may hold anything: count from its end.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.name))
    found: list[int] = []
    todo = [root]
    while todo:
        new = children.get(todo.pop(), [])
        found += new
        todo += new
    return found


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _sandbox_sockets(pids: Sequence[int]) -> Iterator[Path]:
    """The sockets of sandbox processes, which these only remove when they end by themselves."""
    for pid in pids:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if "ndif.services.ray.sandbox.runner" in words:
                yield Path(words[words.index("ndif.services.ray.sandbox.runner") + 1])


def _kill(find: Callable[[], list[int]]) -> None:
    """Kill what ``find`` returns until it returns nothing: some may fork meanwhile."""
    sockets: set[Path] = set()
    while pids := find():
        sockets.update(_sandbox_sockets(pids))
        _signal(pids, signal.SIGKILL)
        time.sleep(0.02)
    for path in sockets:
        path.unlink(missing_ok=True)


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on. Taken again only later: the race is with the whole machine."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


# -- the keeper ----------------------------------------------------------------------------


class _Keeper:
    """Starts and ends the processes of one server; runs in a process of its own."""

    def __init__(self, folder: Path, sandboxed: bool) -> None:
        # Ray's sockets lie below it and may have 107 characters.
        self.home = Path(tempfile.mkdtemp(prefix="ndif", dir="/tmp"))
        self._bin = folder / "bin"
        names = ("redis", "store", "ray", "client", "dashboard", "agent", "api")
        self._port = dict(zip(names, _free_ports(len(names)), strict=True))
        self.url = f"http://127.0.0.1:{self._port['api']}"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = self._settings("SandboxedModel" if sandboxed else "TrustedModel")
        self._starter = os.getppid()
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def orphaned(self) -> bool:
        """Whether the process that started this one is gone, or does not want it any more."""
        hung_up = select.poll()
        hung_up.register(sys.stdin, 0)
        return os.getppid() != self._starter or any(e & select.POLLHUP for _, e in hung_up.poll(0))

    def _settings(self, actor: str) -> dict[str, str]:
        prefixes = ("NDIF_", "RAY_", "PYTHON", "PYTEST", "COV_", "VIRTUAL_ENV")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
        return inherited | {
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(HERE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
            "NDIF_HOME": str(self.home),
            "NDIF_REDIS_URL": f"redis://127.0.0.1:{self._port['redis']}",
            "NDIF_OBJECT_STORE_URL": f"http://127.0.0.1:{self._port['store']}",
            "NDIF_OBJECT_STORE_ACCESS_KEY": "test",
            "NDIF_OBJECT_STORE_SECRET_KEY": "test",
            "NDIF_API_PORT": str(self._port["api"]),
            "NDIF_RAY_ADDRESS": f"ray://127.0.0.1:{self._port['client']}",
            "NDIF_CONTROLLER_IMPORT_PATH": "ndif_cpu.Controller",
            "NDIF_MODEL_IMPORT_PATH": f"ndif_cpu.{actor}",
            "NDIF_DEFAULT_DTYPE": "float32",
            # By default half a gigabyte is kept free for CUDA, and a model stays for an hour.
            "NDIF_DEFAULT_PADDING_BIAS": "0",
            "NDIF_MINIMUM_DEPLOYMENT_TIME_SECONDS": "0",
            # /status is remembered for a minute otherwise.
            "NDIF_STATUS_TTL_S": "1",
            "CORRSTEER_NDIF_KEYS": str(self.home / "keys.json"),
            "RAY_ADDRESS": f"127.0.0.1:{self._port['ray']}",
            "RAY_TMPDIR": str(self.home),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
            "GRPC_ENABLE_FORK_SUPPORT": "0",
        }

    def _start(self, name: str, *command: str, **environment: str) -> None:
        program = shutil.which(command[0], path=self._environment["PATH"])
        if program is None:
            raise NdifError(f"{command[0]} is not in {self._bin}; type: make ndif")
        with (self.home / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [program, *command[1:]],
                cwd=self.home,
                env=self._environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def start(self) -> None:
        """Everything, and wait until it answers. Raises NdifError with the ends of the logs."""
        port = {name: str(number) for name, number in self._port.items()}
        resources = {"head": 10, "cuda_memory_bytes": 4 * 10**9, "cpu_memory_bytes": 8 * 10**9}
        local = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
        self._start("redis", "redis-server", "--port", port["redis"], *local)
        self._start("store", "moto_server", "-H", "127.0.0.1", "-p", port["store"])
        self._start(
            "ray",
            *("ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1"),
            # One CPU: ray starts an idle worker for each. The GPU is a pretended one.
            *("--num-cpus=1", "--num-gpus=1", f"--resources={json.dumps(resources)}"),
            *(f"--port={port['ray']}", f"--ray-client-server-port={port['client']}"),
            # 0 is any free port; the default is a range that starts at 10002.
            *("--min-worker-port=0", "--max-worker-port=0"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={port['dashboard']}"),
            *(f"--dashboard-agent-listen-port={port['agent']}", "--disable-usage-stats"),
            *("--object-store-memory=200000000", f"--temp-dir={self.home}"),
            RAY_ADDRESS="",
        )
        self._wait("ray", lambda: _listens(self._port["ray"]))
        module = "ndif.services.ray.deployments.controller.controller"
        self._start("controller", "python", "-m", module)
        self.start_api()

    def start_api(self) -> None:
        """The API and its dispatcher; returns when it has found ray. Nothing if it runs."""
        if "api" in self._running and self._running["api"].poll() is None:
            return
        config = "python:ndif.services.api.gunicorn_conf"
        bind = f"127.0.0.1:{self._port['api']}"
        command = ("gunicorn", "--config", config, "--bind", bind, "ndif_keys:app")
        self._start("api", *command, NDIF_SERVICE="api")
        self._wait("api", lambda: _answers(f"{self.url}/connected"))

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + START_SECONDS
        while not ready():
            if self._running[name].poll() is not None:
                raise NdifError(f"{name} ended while it started\n{self._tails()}")
            if self.orphaned():
                raise NdifError("the process that started the server is gone")
            if time.monotonic() > end:
                raise NdifError(f"{name} did not answer in {START_SECONDS} s\n{self._tails()}")
            time.sleep(0.1)

    def _tails(self, lines: int = 15) -> str:
        logs = sorted(self.home.glob("*.log"), key=lambda path: path.stat().st_mtime)
        parts = [(p.name, p.read_text(errors="replace").splitlines()[-lines:]) for p in logs]
        return "\n".join(f"-- {name}\n" + "\n".join(tail) for name, tail in parts if tail)

    def _tree(self, name: str) -> list[int]:
        root = self._running[name]
        return ([] if root.poll() is not None else [root.pid]) + descendants(root.pid)

    def stop_api(self) -> None:
        """Kill the API and its dispatcher: connections are lost, nobody listens."""
        group = self._running["api"].pid
        # The dispatcher outlives the API's main process but stays in its group.
        _kill(lambda: [p for p in descendants(os.getpid()) if _group(p) == group])
        # A process counts as dead while threads of it still hold its sockets.
        while _listens(self._port["api"]):
            if self.orphaned():
                raise NdifError("the process that started the server is gone")
            time.sleep(0.02)

    def pause_api(self) -> None:
        """Connections stay open, and nothing is ever answered."""
        _signal(self._tree("api"), signal.SIGSTOP)

    def resume_api(self) -> None:
        """Undo :meth:`pause_api`."""
        _signal(self._tree("api"), signal.SIGCONT)

    def kill_ray(self) -> None:
        """Kill ray, and with it the controller and the models. It cannot be started again."""
        own = [
            pid
            for name, process in self._running.items()
            if name != "ray"
            for pid in (process.pid, *descendants(process.pid))
        ]
        _kill(lambda: [pid for pid in descendants(os.getpid()) if pid not in own])

    def stop(self) -> None:
        """Kill every process and remove all files."""
        _kill(lambda: descendants(os.getpid()))
        shutil.rmtree(self.home, ignore_errors=True)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except (OSError, urllib.error.URLError):
        return False


def _say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def _ended(*_: Any) -> None:
    raise KeyboardInterrupt


def serve(folder: Path, sandboxed: bool) -> int:
    """Keep a server until standard input ends, a signal comes or the starter is gone.

    Says one line of JSON when the server runs, and one after each command, a line of input.
    """
    signal.signal(signal.SIGTERM, _ended)
    keeper = _Keeper(folder, sandboxed)
    try:
        keeper.start()
        _say(url=keeper.url, home=str(keeper.home), pid=os.getpid())
        while not keeper.orphaned():
            if not select.select([sys.stdin], [], [], 1)[0]:
                continue
            command = os.read(sys.stdin.fileno(), 100).decode().strip()
            if not command:
                break
            getattr(keeper, command)()
            _say(done=command)
    except NdifError as error:
        with contextlib.suppress(BrokenPipeError):
            _say(error=str(error))
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        keeper.stop()
    return 0


# -- for tests -----------------------------------------------------------------------------


class NdifServer:
    """A running server. ``url`` is what nnsight's ``remote=`` takes."""

    def __init__(self, folder: Path, sandboxed: bool = False) -> None:
        reason = missing(folder)
        if reason is not None:
            raise NdifError(reason)
        command = [sys.executable, __file__, "serve", str(folder)]
        self.sandboxed = sandboxed
        self._keeper = subprocess.Popen(
            [*command, "--sandboxed"] if sandboxed else command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is for the tests: the keeper ends when its input does.
            start_new_session=True,
            text=True,
        )
        try:
            facts = self._reply()
        except BaseException:
            self.stop()
            raise
        self.url: str = facts["url"]
        self.home = Path(facts["home"])
        self.pid: int = facts["pid"]

    def _reply(self) -> dict[str, Any]:
        assert self._keeper.stdout is not None
        line = self._keeper.stdout.readline()
        reply = json.loads(line) if line else {"error": "the process that keeps it has died"}
        if "error" in reply:
            raise NdifError(f"the NDIF server does not run: {reply['error']}")
        return reply

    def _tell(self, command: str) -> None:
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(f"{command}\n")
        self._keeper.stdin.flush()
        self._reply()

    def stop_api(self) -> None:
        """Kill the API: open connections break, new ones are refused. Models stay loaded."""
        self._tell("stop_api")

    def start_api(self) -> None:
        """Start the API again; returns when it answers."""
        self._tell("start_api")

    def pause_api(self) -> None:
        """Freeze the API: connections stay open and nothing is answered."""
        self._tell("pause_api")

    def resume_api(self) -> None:
        """Go on after :meth:`pause_api`."""
        self._tell("resume_api")

    def kill_ray(self) -> None:
        """Kill the models and all that deploys them; only a new server helps after that."""
        self._tell("kill_ray")

    def require_keys(self, keys: dict[str, list[str]] | None) -> None:
        """Let in only these keys (UUIDs, each with its tags); None lets everybody in."""
        path, new = self.home / "keys.json", self.home / "keys.new"
        if keys is None:
            path.unlink(missing_ok=True)
        else:
            new.write_text(json.dumps(keys))
            new.replace(path)

    def log(self, name: str = "api") -> str:
        """What ``api``, ``ray``, ``controller``, ``redis`` or ``store`` has printed."""
        return (self.home / f"{name}.log").read_text(errors="replace")

    def stop(self) -> None:
        """End all processes and remove all files. Harmless when done twice."""
        assert self._keeper.stdin is not None and self._keeper.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.close()
        self._keeper.wait()
        self._keeper.stdout.close()

    def __enter__(self) -> NdifServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def main(arguments: Sequence[str]) -> int:
    """The command line; see the top of this file."""
    words = [word for word in arguments if word != "--sandboxed"]
    if len(words) != 2 or words[0] not in ("install", "serve"):
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(words[1]).absolute()
    if words[0] == "serve":
        return serve(folder, "--sandboxed" in arguments)
    try:
        install(folder)
    except (NdifError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
