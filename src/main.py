"""The command line in a checkout: ``python -m src.main task=bbq layers=all -m coef=0.5,1,2``.

The settings are those of ``conf/``, beside this folder.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, from the first import on
try:
    from corrsteer.run.main import main
except KeyboardInterrupt:
    from corrsteer.run.interrupt import INTERRUPTED

    print(INTERRUPTED, file=sys.stderr)
    sys.exit(130)


if __name__ == "__main__":
    main(Path(__file__).parents[1] / "conf")
