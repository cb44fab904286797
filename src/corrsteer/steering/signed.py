"""A JSON file that ends with a digest of itself, so that a changed byte is seen.

It tells of accidents and of edits by hand, not of forgery: who changes a file can sign it again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from corrsteer.store.keys import digest

KEY = "digest"
_SIGNED = re.compile(rb'(.*\n  "digest": ")([0-9a-f]{32})("\n}\n)', re.DOTALL)


def signed(content: Mapping[str, Any], *, allow_nan: bool = False) -> bytes:
    """``content`` as the text of a file, ``digest`` as its last key."""
    unsigned = {**content, KEY: "0" * 32}
    text = json.dumps(unsigned, indent=2, allow_nan=allow_nan).encode() + b"\n"
    parts = _SIGNED.fullmatch(text)
    assert parts is not None, text
    return parts[1] + _digest(parts) + parts[3]


def unchanged(text: bytes) -> bool:
    """Whether a file is as :func:`signed` made it, to the byte."""
    parts = _SIGNED.fullmatch(text)
    return parts is not None and parts[2] == _digest(parts)


def _digest(parts: re.Match[bytes]) -> bytes:
    return digest(parts[1] + parts[3]).encode()
