"""What needs no access to the model: an instruction, solved examples in the prompt, and answers
restricted to the option letters. Rows of a comparison, with validation and prices of their own.

Cost: nothing to fit; a longer prompt to answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from corrsteer.errors import ConfigError, DataError, check_known
from corrsteer.methods.protocol import Fitted, Observed
from corrsteer.stages.answers import answers, check_prompts, stopping
from corrsteer.stages.bench import Bench, prefixed
from corrsteer.steering.arms import BASELINE, STEERED, Arm, baseline
from corrsteer.tasks.prompts import GAP

INSTRUCTION, FEW_SHOT, CONSTRAINED = "instruction", "few-shot", "constrained"
VARIANTS = (INSTRUCTION, FEW_SHOT, CONSTRAINED)


@dataclass(frozen=True)
class Prompted:
    """``variant`` "instruction": ``text`` before every prompt; "few-shot": the first ``shots``
    questions of the selection split with right answers as a model should write them, an empty line
    then ending an answer; "constrained": the likeliest option letter, the text that is put in front
    being none. None of them has a dial.

    Unrelated prompts have the same text before them; they are not restricted to letters, nor ended
    by an empty line."""

    name: ClassVar[str] = "Prompt"
    needs: ClassVar[frozenset[str]] = frozenset()
    unread: ClassVar[frozenset[str]] = frozenset({"ablations", "selector"})
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

    @property
    def decoding(self) -> str | None:
        return "constrained" if self.variant == CONSTRAINED else None

    def share(self, bench: Bench) -> Sequence[Fitted]:
        return [self.fit(bench)]

    def fit(self, bench: Bench) -> Fitted:
        arm = self._arm(bench)
        if arm.prefix:
            asking = stopping(bench.asking, arm.stop)
            told = {n: prefixed(asking.splits[n], arm.prefix) for n in ("validation", "test")}
            check_prompts(bench, replace(asking, splits=told))
        # No feature is looked at, so none is collected.
        selection = answers(bench, bench.asking, "selection", [baseline()])[BASELINE]
        return Fitted(arm, Observed([], selection, [], bench.collect))

    def _arm(self, bench: Bench) -> Arm:
        if self.variant == CONSTRAINED:
            return Arm(STEERED, STEERED, decoding=self.decoding)
        if self.variant == INSTRUCTION:
            return Arm(STEERED, STEERED, prefix=self.text)
        solved, chat = bench.selection[: self.shots], bench.spec.chat_template
        texts = bench.asking.right_texts(solved)
        if texts is None:
            raise DataError(
                f"strategy.variant=few-shot: task {bench.asking.task.name} has no right answers to"
                " show, only a way to score them; type strategy=instruction"
            )
        pairs, between = zip(solved, texts, strict=True), "\n" if chat else " "
        prefix = GAP.join(f"{e.prompt}{between}{text}" for e, text in pairs)
        # As the task's own solved questions end an answer (corrsteer.tasks.prompts.Prompter).
        return Arm(STEERED, STEERED, prefix=prefix, stop=() if chat else (GAP,))
