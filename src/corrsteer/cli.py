"""The command ``corrsteer``, which comes with the package and works in any folder.

It takes the words of ``python -m src.main``, as in ``corrsteer task=bbq -m coef=0.5,1,2``, with the
settings that the package holds: ``conf/``, which a link puts here in a checkout. And those of
``python -m corrsteer``, whose commands are no settings: ``corrsteer report FOLDER``.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path


def main() -> None:
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, from here on
    try:
        if sys.argv[1:] and sys.argv[1].isidentifier():
            from corrsteer.__main__ import main as command

            sys.exit(command())
        from corrsteer.run.main import main as run
    except KeyboardInterrupt:
        from corrsteer.run.interrupt import INTERRUPTED

        print(INTERRUPTED, file=sys.stderr)
        sys.exit(130)
    sys.path.insert(0, "")  # as with python -m: modules of one's own lie where the command is typed
    run(Path(__file__).parent / "conf")


if __name__ == "__main__":
    main()
