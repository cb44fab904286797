"""What needs no access to the model: an instruction, solved examples in the prompt, and answers
restricted to the option letters. Rows of a comparison, with validation and prices of their own.

Cost: nothing to fit; a longer prompt to answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from corrsteer.errors import ConfigError, check_known
from corrsteer.methods.protocol import Fitted, observe
from corrsteer.stages.bench import Bench
from corrsteer.steering.arms import STEERED, Arm

INSTRUCTION, FEW_SHOT, CONSTRAINED = "instruction", "few-shot", "constrained"
VARIANTS = (INSTRUCTION, FEW_SHOT, CONSTRAINED)


@dataclass(frozen=True)
class Prompted:
    """``variant`` "instruction": ``text`` before every prompt; "few-shot": the first ``shots``
    questions of the selection split with their right answers; "constrained": the likeliest option
    letter, the text that is put in front being none. None of them has a dial.

    Unrelated prompts have the same text before them, and are not restricted to letters."""

    name: ClassVar[str] = "Prompt"
    needs: ClassVar[frozenset[str]] = frozenset()
    variant: str = INSTRUCTION
    text: str = ""
    shots: int = 0

    def __post_init__(self) -> None:
        check_known("strategy.variant", self.variant, VARIANTS)
        if self.variant == INSTRUCTION and not self.text.strip():
            raise ConfigError("strategy.text is empty: type strategy.text='Read carefully.'")
        if self.variant == FEW_SHOT and (type(self.shots) is not int or self.shots < 1):
            raise ConfigError(
                f"strategy.shots={self.shots}: it must be a whole number, at least 1, such as"
                " strategy.shots=3"
            )

    @property
    def learns_from(self) -> str:
        return f"{self.shots} gold answers" if self.variant == FEW_SHOT else "nothing"

    def share(self, bench: Bench) -> Sequence[Fitted]:
        return [self.fit(bench)]

    def fit(self, bench: Bench) -> Fitted:
        observed = observe(bench)
        if self.variant == CONSTRAINED:
            return Fitted(Arm(STEERED, STEERED, decoding="constrained"), observed)
        prefix = self.text
        if self.variant == FEW_SHOT:
            between = "\n" if bench.spec.chat_template else " "
            solved = bench.selection[: self.shots]
            prefix = "\n\n".join(f"{e.prompt}{between}{e.gold}" for e in solved)
        return Fitted(Arm(STEERED, STEERED, prefix=prefix), observed)
