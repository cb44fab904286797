"""Where an intervention acts: positions of a prompt and of its answer.

A text of P prompt tokens and N answer tokens is written in N steps: step 0 reads the prompt and
chooses the first token, step n reads the n-th token and chooses the next; the last token is read
by none. The tokens that a step is read at last, the last prompt token and all tokens of the answer
but the last one, are its *generation positions*.

==========  ========================================================================================
generation  the generation positions
decode      those of them that were generated: nothing acts on the prompt, so the first token of an
            answer, and all of an answer of one token, are those of the unsteered model
first_k     the first k of them: first_1 is the last prompt token
prompt      every prompt token, the last one among them
all         both
==========  ========================================================================================

BOS, and whatever a chat template writes, are prompt tokens like others: hooks of other tools steer
them, too. Padding never counts. Costs nothing; torch is not imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corrsteer.errors import ConfigError

if TYPE_CHECKING:
    import torch

GENERATION = "generation"
NAMES = (GENERATION, "all", "prompt", "decode", "first_k")
NEEDS = frozenset(f"positions={name}" for name in NAMES)
"""What a backend supports that can act at all of them."""
ON_PROMPTS = frozenset({"positions=all", "positions=prompt"})
"""Those of them that act on the prompt before its last token, so that it is read again."""


@dataclass(frozen=True)
class Where:
    """At the generation positions of the steps from ``first`` on and before ``stop`` (None: to the
    end); ``prompt``: and at every prompt token."""

    first: int = 0
    stop: int | None = None
    prompt: bool = False

    def at_step(self, n: int) -> bool:
        """Whether it acts at the generation position of step ``n``."""
        return n >= self.first and (self.stop is None or n < self.stop)

    def steps(self, n: int) -> int:
        """At how many generation positions of an answer of ``n`` tokens it acts."""
        return max(0, min(n, n if self.stop is None else self.stop) - self.first)

    def of(self, step: torch.Tensor) -> torch.Tensor:
        """Bool: whether it acts at the positions ``step`` tokens behind the last prompt token."""
        here = step >= self.first
        if self.stop is not None:
            here = here & (step < self.stop)
        return here | (step <= 0) if self.prompt else here

    def within(self, position: torch.Tensor, last: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """Bool: whether it acts at ``position`` of a text whose last prompt token is at ``last``
        and whose last token is at ``end``, which is no generation position. The tensors are
        broadcast."""
        written = position < end
        if self.prompt:  # also of a prompt without an answer
            written = written | (position <= last)
        return self.of(position - last) & written


def where(positions: str) -> Where:
    """Raises ConfigError for a name that is none."""
    if positions == GENERATION:
        return Where()
    if positions == "all":
        return Where(prompt=True)
    if positions == "prompt":
        return Where(stop=1, prompt=True)
    if positions == "decode":
        return Where(first=1)
    if isinstance(positions, str) and re.fullmatch(r"first_[1-9][0-9]{0,8}", positions):
        return Where(stop=int(positions.removeprefix("first_")))
    raise ConfigError(
        f"positions={positions!r} is unknown: use generation, all, prompt, decode or first_k with"
        " a whole number for k, such as positions=first_3"
    )


def needed(positions: str) -> str:
    """Which of ``NEEDS`` it takes; a name of its own for one that is unknown."""
    return "positions=" + re.sub(r"^first_[0-9]+$", "first_k", positions)
