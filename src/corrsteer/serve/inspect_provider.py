"""The entry point of Inspect (inspect_ai): ``inspect eval TASK --model corrsteer/RUN``.

Read whenever Inspect looks for models, so that it imports nothing of ours until this one is asked
for.
"""

from __future__ import annotations

from typing import Any

from inspect_ai.model import modelapi


@modelapi(name="corrsteer")  # type: ignore[untyped-decorator]  # Inspect is not followed
def corrsteer() -> Any:
    from corrsteer.serve.inspect_model import SteeredAPI

    return SteeredAPI
