"""Prompts. Their white space is part of every result: golden tests pin it.

A plain prompt ends in a cue such as "Answer:" without a space, because BPE tokenizers merge a
leading space into the answer's first token. Solved questions come before it, each followed by its
answer, with an empty line between them; the same empty line then ends an answer.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from corrsteer.errors import ConfigError
from corrsteer.records import LETTERS, Example, Question

GAP = "\n\n"
REASON = " Let's think step by step."
"""Kojima et al. 2022, "Large Language Models are Zero-Shot Reasoners"."""
NEXT = ("\nQuestion:", "\nQ:")
"""Where a base model that has reasoned goes on with the next question, as lm-eval's tasks say."""
CHAT_REASON = '\nThink step by step. End with "The answer is" and your answer.'


_ESCAPED = re.compile(r"\\([\\n])")


@dataclass(frozen=True)
class Template:
    """A prompt with named fields, such as "{question}\\n{options}\\nAnswer:".

    ``{options}`` is the list of options, a line each, "A. first option". ``\\n`` typed as two
    characters is a line break, ``\\\\`` a backslash; a brace is written twice. An empty one is for
    options that stand alone, such as whole sentences. Raises ConfigError when it cannot be read.
    """

    text: str
    setting: str = "task.prompt"
    names: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", unescaped(self.text))
        try:
            parts = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise ConfigError(
                f"{self.setting}={self.text!r} cannot be read ({error}); write fields in "
                "braces, as in '{question}\\nAnswer:', and a literal brace twice"
            ) from error
        names = []
        for _, name, spec, conversion in parts:
            if name is None:
                continue
            if not name.strip() or name.isdigit() or set(".[]") & set(name) or spec or conversion:
                whole = f"{name}{'!' if conversion else ''}{conversion or ''}"
                whole += f":{spec}" if spec else ""
                raise ConfigError(
                    f"{self.setting}={self.text!r} names {{{whole}}}, which is not a field "
                    "name; write e.g. '{question}\\nAnswer:', and a literal brace twice"
                )
            names.append(name)
        if not names and (self.text or self.setting != "task.prompt"):
            raise ConfigError(
                f"{self.setting}={self.text!r} has no field, so every question would be the same; "
                "write e.g. '{question}\\nAnswer:'"
            )
        object.__setattr__(self, "names", tuple(names))

    def fill(self, question: Question) -> str:
        values: Mapping[str, str] = question.fields
        if question.options:
            values = {**values, "options": listed(question.options)}
        lacking = [name for name in self.names if name not in values]
        if lacking:
            raise ConfigError(
                f"{self.setting} names {{{lacking[0]}}}, which question '{question.id}' does not "
                f"have; its fields: {', '.join(sorted(values))}"
            )
        return self.text.format_map(values)


def listed(options: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))


def unescaped(text: str) -> str:
    """A command line cannot easily hold a line break, so backslash and n stand for one. Two
    backslashes stand for one, so that ``\\\\neq`` is LaTeX's sign and no line break."""
    return _ESCAPED.sub(lambda m: "\n" if m[1] == "n" else "\\", text)


class Prompter:
    """Makes prompts of one template, with solved questions before them.

    ``shots`` are solved questions to choose from: those of the question's own category where
    they are sorted by category, else the first ones.
    """

    def __init__(
        self, template: Template, shots: Sequence[Question], few_shot: int, cot: bool, chat: bool
    ) -> None:
        self._template, self._few_shot, self._cot, self._chat = template, few_shot, cot, chat
        self._shots = shots
        # In a chat the model ends its turn itself; reasoning may hold an empty line.
        alone = NEXT if cot else ()
        self.stop: tuple[str, ...] = () if chat else (GAP,) if few_shot else alone
        self._solved: dict[str, list[str]] = {}

    def __call__(self, question: Question) -> Example:
        texts = [*self._before(question), self._open(question)]
        return Example(
            id=question.id,
            prompt=GAP.join(texts),
            gold=question.gold,
            options=question.options,
            meta=question.meta,
            aliases=question.aliases,
            notes=question.notes,
            answer=self._answer(question),
        )

    def _open(self, question: Question) -> str:
        """A question that waits for its answer."""
        reason = (CHAT_REASON if self._chat else REASON) if self._cot else ""
        return self._template.fill(question) + reason

    def _before(self, question: Question) -> list[str]:
        if not self._few_shot:
            return []
        category = question.meta.get("category", "")
        if category not in self._solved:
            self._solved[category] = [self._closed(shot) for shot in self._chosen(category)]
        return self._solved[category]

    def _chosen(self, category: str) -> Sequence[Question]:
        by_category = any(q.part == "shots" and q.meta.get("category") for q in self._shots)
        pool = [q for q in self._shots if not by_category or q.meta.get("category") == category]
        if len(pool) < self._few_shot:
            where = f" of category '{category}'" if by_category else ""
            raise ConfigError(
                f"task.few_shot={self._few_shot}: there are {len(pool)} solved questions{where}; "
                f"type task.few_shot={len(pool)}"
            )
        return pool[: self._few_shot]

    def _closed(self, shot: Question) -> str:
        """A question with its answer, as a model should write it."""
        if shot.answer is None:
            raise ConfigError(
                f"task.few_shot={self._few_shot}: this task has no right answers to show; "
                "type task.few_shot=0"
            )
        if (answer := self._answer(shot)) is None:
            raise ConfigError(
                f"task.cot=true with task.few_shot={self._few_shot}: this task has no worked "
                "answers to show; type task.few_shot=0 or task.cot=false"
            )
        return self._open(shot) + ("\n" if self._chat else " ") + answer

    def _answer(self, question: Question) -> str | None:
        """A right answer as a model should write it; None where there is none to show."""
        if not self._cot or question.answer is None:
            return question.answer
        if not question.solution:
            return None
        worked = "\n".join(line for line in question.solution.split("\n") if line.strip())
        return f"{worked} The answer is {question.answer}."
