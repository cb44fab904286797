"""``python -m corrsteer track FOLDER`` and ``python -m corrsteer dashboard FOLDER``."""

from __future__ import annotations

import sys

from corrsteer.trackers import dashboard, sending

if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    sys.exit({"track": sending.main, "dashboard": dashboard.main}[command](arguments))
