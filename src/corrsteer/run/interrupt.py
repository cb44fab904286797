"""Ctrl-C and SIGTERM end a command within seconds, whatever it does at that moment.

Both raise KeyboardInterrupt, so a run can say in its folder that it was interrupted. A library may
swallow that, or fail because of it in its own way: whatever the block ends with then is a
KeyboardInterrupt all the same. In an import it would be raised in a library's C++ code that is not
written for it, which aborts the process, and in a ``__del__`` Python prints and forgets it, so it
waits for the end of either. And Python hears of a signal only between two of its own steps; so a
thread that the kernel wakes at once (``signal.set_wakeup_fd``) ends the process when it is still
there after ``GRACE`` seconds. Nothing is lost by that: what was kept is kept as after a kill.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

GRACE, RETRY = 4.0, 0.1  # seconds
INTERRUPTED = "interrupted; type the same command again to go on"
ENDING = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def prompt_end(grace: float = GRACE) -> Iterator[None]:
    """While the block runs. Does nothing in a thread, and not for a signal that is ignored, as
    under nohup, or that somebody else handles, as on a cluster."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = (signal.SIG_DFL, signal.default_int_handler)
    ours = [number for number in ENDING if signal.getsignal(number) in usual]
    asked, deferred, ended = (threading.Event() for _ in range(3))

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        if _must_end(frame):
            deferred.set()
        else:
            deferred.clear()
            raise KeyboardInterrupt

    before = {number: signal.signal(number, ask) for number in ours}
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    outer = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def watch() -> None:
        with contextlib.suppress(OSError):
            while (heard := os.read(woken, 1)) and heard[0] not in ours:
                pass
            latest = time.monotonic() + grace
            while heard and not ended.wait(RETRY):
                if time.monotonic() > latest:
                    os.write(2, f"{INTERRUPTED}\n".encode())
                    os._exit(130)
                if deferred.is_set():
                    os.kill(os.getpid(), heard[0])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
        if asked.is_set():
            raise KeyboardInterrupt
    except Exception:
        if asked.is_set():
            raise KeyboardInterrupt from None
        raise
    finally:
        ended.set()
        signal.set_wakeup_fd(outer)
        os.close(wake)
        watcher.join()
        os.close(woken)
        for number, handler in before.items():
            signal.signal(number, handler)


def _must_end(frame: FrameType | None) -> bool:
    while frame:
        code = frame.f_code
        if code.co_name == "__del__" or code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
