"""ndif's API with its table of keys in a file; imported by the server's own environment only.

ndif checks keys when it has a PostgreSQL database of them. Here ``$CORRSTEER_NDIF_KEYS`` names
a JSON file, ``{key: [tags]}``, read at every request: while there is no such file, every caller
is let in. The checks, their statuses and their texts are ndif's own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

# Before nnsight, which gives every object a ``save`` that anyio's classes refuse. It is needed
# only for requests of more than 1 MiB, and these would be answered by a status of 400.
import anyio._backends._asyncio  # noqa: F401
from ndif.common.providers.postgres import PostgresProvider
from ndif.services.api.app import app

_FILE = Path(os.environ["CORRSTEER_NDIF_KEYS"])


async def _fetch(query: str, key: Any) -> list[dict[str, str | None]]:
    """The rows that ``ndif.services.api.auth`` expects: one per tag, none for no such key."""
    keys = json.loads(_FILE.read_text())
    if str(key) not in keys:
        return []
    user = {"user_id": "1", "email": "someone@example.com"}
    return [{**user, "user_tag": tag} for tag in keys[str(key)] or [None]]


PostgresProvider.enabled = _FILE.exists
PostgresProvider.fetch = _fetch

__all__ = ["app"]
