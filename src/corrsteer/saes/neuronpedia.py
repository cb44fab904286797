"""What Neuronpedia (https://www.neuronpedia.org) says of a feature: its page and a description.

Descriptions are other people's text, mostly a language model's. They are fetched one by one over
the public API, so only for the few features that steer, and kept by the caller.
Cost: a request of up to a second or so per feature.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

log = logging.getLogger(__name__)

SITE = "https://www.neuronpedia.org"
TIMEOUT_S = 10.0
MAX_BYTES = 2**24  # of one answer, which holds the feature's strongest texts, too
MAX_CHARS = 500  # of a description

_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def link(neuronpedia_id: str | None, feature: int) -> str | None:
    """The feature's page; None without an id, or with one that is not MODEL/SAE."""
    if not isinstance(neuronpedia_id, str) or not _ID.fullmatch(neuronpedia_id):
        return None
    return f"{SITE}/{quote(neuronpedia_id)}/{feature}"


def describe(
    neuronpedia_id: str, features: Sequence[int], timeout: float = TIMEOUT_S
) -> dict[int, str | None]:
    """Feature -> its first description, at most ``MAX_CHARS`` characters and otherwise as it came;
    None where the server says that it has none.

    ``timeout``: seconds for one feature, from the first byte sent to the last one read. The first
    failure is one warning and ends the requests: features without an answer are not in the result.
    Nothing is asked with ``HF_HUB_OFFLINE=1``.
    """
    import httpx
    from huggingface_hub import constants

    descriptions: dict[int, str | None] = {}
    if constants.HF_HUB_OFFLINE:
        log.info("descriptions: Neuronpedia is not asked (HF_HUB_OFFLINE=1)")
        return descriptions
    headers = {"User-Agent": "corrsteer"}
    with httpx.Client(timeout=timeout, headers=headers) as client:
        for feature in features:
            url = f"{SITE}/api/feature/{quote(neuronpedia_id)}/{feature}"
            try:
                descriptions[feature] = _description(_get(client, url, time.monotonic() + timeout))
            except (httpx.HTTPError, OSError, ValueError, RecursionError) as error:
                cause = " ".join(str(error).split())[:200] or type(error).__name__
                log.warning("no descriptions from Neuronpedia: %s (%s)", cause, url)
                break
    return descriptions


def _get(client: Any, url: str, until: float) -> Any:
    """The JSON at ``url``; None where there is nothing. ValueError for any other answer."""
    with client.stream("GET", url) as response:
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            raise ValueError(f"it answers with status {response.status_code}")
        content = bytearray()
        for part in response.iter_bytes():
            content += part
            if len(content) > MAX_BYTES:
                raise ValueError(f"its answer is longer than {MAX_BYTES} bytes")
            if time.monotonic() > until:
                raise ValueError("its answer takes too long")
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("its answer is not JSON") from None


def _description(answer: Any) -> str | None:
    """``answer``: of the form {"explanations": [{"description": TEXT, ...}, ...], ...}."""
    if answer is None:  # how it says that it does not know a feature
        return None
    texts = answer.get("explanations") if isinstance(answer, dict) else None
    if not isinstance(texts, list):
        raise ValueError("its answer has no list of explanations")
    for one in texts:
        text = one.get("description") if isinstance(one, dict) else None
        if isinstance(text, str) and text.strip():
            return text.strip()[:MAX_CHARS]
    return None
