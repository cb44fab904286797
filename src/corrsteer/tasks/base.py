"""What every task has: its data, its prompts, its scorer and the length of an answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from corrsteer import hub
from corrsteer.errors import ConfigError, DataError, check_known
from corrsteer.records import LETTERS, LIKELIHOODS, NAMES, Example, Question
from corrsteer.report.record import Asked, Data
from corrsteer.store.keys import digest
from corrsteer.tasks.options import shuffled
from corrsteer.tasks.prompts import Prompter, Template, unescaped
from corrsteer.tasks.protocol import Scorer
from corrsteer.tasks.reading import BUNDLED, data_files, is_data

if TYPE_CHECKING:
    import pandas as pd

ROOM_TO_REASON = 64


@dataclass(frozen=True)
class HubData:
    """A data set on the Hugging Face Hub, at one commit. ``licence`` is that of the data."""

    repo: str
    revision: str
    files: Sequence[str]
    licence: str
    gated: bool = False

    def __post_init__(self) -> None:
        if len(self.revision) != 40:
            raise ConfigError(
                f"task.hub.revision={self.revision!r} is not a commit: give all 40 digits, so that "
                "the rows cannot change"
            )

    def paths(self, task: str) -> list[Path]:
        """The files, from the Hub's local cache or downloaded. Raises DataError."""
        folder = hub.dataset(
            self.repo,
            revision=self.revision,
            patterns=list(self.files),
            what=f"the data of task {task}",
            licence=self.licence if self.gated else None,
        )
        return sorted(
            f
            for f in folder.rglob("*")
            if is_data(f.relative_to(folder))
            and any(fnmatch(f.relative_to(folder).as_posix(), pattern) for pattern in self.files)
        )


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Settings that all tasks share; a task adds its rows, and whatever it alone needs.

    ``data``: "bundled", "hub", or the file or folder with the benchmark's own rows.
    ``subset``: the categories to keep, one or several; None keeps all.
    ``prompt``: a template such as "{question}\\n{options}\\nAnswer:"; the text characters
    backslash and n mean a line break. ``chat_prompt`` takes its place where the model has a chat
    template; None means the same one. ``few_shot``: solved questions before each prompt. ``cot``:
    the model reasons before it answers. ``stop``: texts that end an answer.
    ``likelihood``: how options are compared that are chosen by their likelihood: "sum",
    "per_character" or "per_token" (:meth:`corrsteer.records.Weighed.by`).
    ``shuffle_options``: options are listed in an order of each question's own
    (:func:`corrsteer.tasks.options.shuffled`).
    ``max_chars``: questions whose whole prompt is longer are left out; None keeps all.
    ``max_new_tokens``: an answer is cut there; it must be long enough to hold a right one.
    """

    name: str
    scorer: Scorer
    max_new_tokens: int
    prompt: str
    chat_prompt: str | None = None
    data: str = "bundled"
    hub: HubData | None = None
    subset: str | Sequence[str] | None = None
    few_shot: int = 0
    cot: bool = False
    stop: Sequence[str] = ()
    max_chars: int | None = None
    shuffle_options: bool = False
    likelihood: str = "per_character"

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(
                f"task.max_new_tokens={self.max_new_tokens} must be at least 1, "
                "e.g. task.max_new_tokens=8"
            )
        if self.few_shot < 0:
            raise ConfigError(
                f"task.few_shot={self.few_shot} must be at least 0, e.g. task.few_shot=5"
            )
        if self.max_chars is not None and self.max_chars < 1:
            raise ConfigError(f"task.max_chars={self.max_chars} must be at least 1, or null")
        if self.cot and self.max_new_tokens < ROOM_TO_REASON:
            raise ConfigError(
                f"task.cot=true needs room to reason, and task.max_new_tokens is "
                f"{self.max_new_tokens}; type e.g. task.max_new_tokens=256"
            )
        if self.shuffle_options and self.cot and self.few_shot:
            raise ConfigError(
                "task.shuffle_options=true: worked answers name options by their letters, which"
                " would be others; type task.few_shot=0 or task.cot=false"
            )
        check_known("task.likelihood", self.likelihood, LIKELIHOODS)
        if isinstance(self.stop, str) or not all(self.stop):
            raise ConfigError(f"task.stop={self.stop!r} must be a list of texts, e.g. ['\\n\\n']")
        Template(self.prompt)
        if self.chat_prompt is not None:
            Template(self.chat_prompt, "task.chat_prompt")

    @abstractmethod
    def rows(self) -> Iterable[Question]:
        """Every row, in file order. Raises DataError naming file, line and field."""

    def metrics(self, examples: Sequence[Example], answers: pd.DataFrame) -> Mapping[str, float]:
        """What this benchmark reports besides accuracy, of one arm's scored answers."""
        return {}

    def one_answer(self, examples: Sequence[Example]) -> str | None:
        """What is right in every example, by its meaning and not its letter; None where they
        differ. Here: an option with the same text."""
        right = {dict(zip(NAMES, e.options, strict=False)).get(e.gold) for e in examples}
        return right.pop() if len(right) == 1 and len(examples) > 1 else None

    def other_half(self) -> tuple[str, Task] | None:
        """The same benchmark's questions where that answer is wrong, and what they are called; None
        where it has none."""
        return None

    def about_data(self, questions: Sequence[Question]) -> Data:
        """Where the rows are from, how many of what there are, and their content."""
        source = self.hub if self.data == "hub" else None
        return Data(
            source=self.data,
            repo=source.repo if source else None,
            revision=source.revision if source else None,
            licence=source.licence if source else None,
            subset=self.subset if isinstance(self.subset, str | None) else list(self.subset),
            rows=len(questions),
            parts=dict(Counter(q.part or "all" for q in questions)),
            categories=dict(Counter(q.meta.get("category", "") for q in questions)),
            fingerprint=digest(
                [
                    [q.id, q.part, sorted(q.fields.items()), q.options, q.gold, q.aliases]
                    + [q.answer, q.solution, sorted(q.notes.items())]
                    for q in questions
                ]
            ),
        )

    def about_prompts(
        self,
        dealt: Mapping[str, Sequence[Question]],
        *,
        chat: bool,
        decoding: str,
        stop: Sequence[str],
    ) -> Asked:
        """``dealt``: the questions by split, as :meth:`ask` gets them."""
        official = any(q.part == "shots" for q in dealt["shots"])
        template = self.chat_prompt if chat and self.chat_prompt else self.prompt
        return Asked(
            template=unescaped(template),
            chat_template=chat,
            few_shot=self.few_shot,
            shots=("official" if official else "selection") if self.shots else None,
            cot=self.cot,
            decoding=decoding,
            likelihood=self.likelihood if decoding == "loglikelihood" else None,
            max_new_tokens=self.max_new_tokens,
            stop=list(stop),
            shuffle_options=self.shuffle_options,
            max_chars=self.max_chars,
        )

    def questions(self) -> list[Question]:
        """The rows of the subset. Raises DataError when there are none, or an id comes twice."""
        rows = list(self.rows())
        seen: dict[str, Question] = {}
        for row in rows:
            if (first := seen.setdefault(row.id, row)) is not row:
                places = [place for place in (first.where, row.where) if place]
                raise DataError(
                    f"question id '{row.id}' occurs more than once; ids must be unique"
                    + (f": {' and '.join(places)}" if places else "")
                )
        if self.subset is not None:
            wanted = [self.subset] if isinstance(self.subset, str) else list(self.subset)
            categories = sorted({q.meta.get("category", "") for q in rows} - {""})
            unknown = [name for name in wanted if name not in categories]
            if unknown or not wanted:
                raise DataError(
                    f"task.subset={','.join(wanted)}: {self.name} has no category "
                    f"'{unknown[0] if unknown else ''}'; categories: "
                    f"{', '.join(categories) or 'none'}"
                )
            rows = [q for q in rows if q.meta.get("category") in wanted]
        if not any(q.part != "shots" for q in rows):
            raise DataError(f"no questions of task {self.name} in '{self.data}'")
        if self.shuffle_options and not any(q.options for q in rows):
            raise ConfigError(
                f"task.shuffle_options=true: task {self.name} has no options; leave it out"
            )
        return rows

    def arranged(self, questions: Sequence[Question], seed: int) -> Sequence[Question]:
        """The questions with their options in the order in which they are listed."""
        if not self.shuffle_options:
            return questions
        return [shuffled(q, seed, self.lists_options) if q.options else q for q in questions]

    def examples(self) -> tuple[Example, ...]:
        """Every question as a plain prompt, without solved questions before it."""
        rows = [q for q in self.questions() if q.part != "shots"]
        bare = replace(self, few_shot=0)
        return bare.ask({"all": rows, "shots": ()}, chat=False)[0]["all"]

    def files(self, *patterns: str) -> list[Path]:
        """The files with the rows, of the source that ``data`` names."""
        if self.data == "hub":
            if self.hub is None:
                raise DataError(f"task {self.name} has no data set on the Hub: type data=PATH")
            return self.hub.paths(self.name)
        if self.data == "bundled" and not (BUNDLED / self.name).is_dir():
            raise DataError(f"task {self.name} has no bundled data: type data=PATH or data=hub")
        return data_files(self.data, self.name, patterns)

    def ask(
        self, splits: Mapping[str, Sequence[Question]], *, chat: bool
    ) -> tuple[dict[str, tuple[Example, ...]], tuple[str, ...]]:
        """The splits as prompts, and the texts that end an answer.

        ``splits`` has the few-shot questions under "shots". ``chat``: the model puts each prompt
        into its chat template. Raises ConfigError when there are too few solved questions.
        """
        template = Template(self.prompt if not chat else self.chat_prompt or self.prompt)
        prompter = Prompter(template, splits["shots"], self.few_shot, self.cot, chat)
        asked = {
            name: tuple(prompter(question) for question in questions)
            for name, questions in splits.items()
            if name != "shots"
        }
        if self.max_chars is not None:
            for name, examples in asked.items():
                asked[name] = tuple(e for e in examples if len(e.prompt) <= self.max_chars)
                if not asked[name]:
                    raise DataError(
                        f"task.max_chars={self.max_chars}: all {len(examples)} prompts of the"
                        f" {name} split are longer (the shortest"
                        f" has {min(len(e.prompt) for e in examples)} characters); raise it"
                    )
        return asked, tuple(dict.fromkeys([*map(unescaped, self.stop), *prompter.stop]))

    @property
    def shots(self) -> int:
        """How many solved questions the splits must set aside."""
        return self.few_shot

    @property
    def lists_options(self) -> bool:
        """Whether the prompts show letters that an answer may be restricted to."""
        return "options" in Template(self.prompt).names

    def decoding(self, wanted: str, questions: Sequence[Question]) -> str:
        """How answers are made: free, constrained or loglikelihood. ``wanted`` may be "auto".

        Raises ConfigError where the task's questions cannot be answered so.
        """
        if not self.prompt and wanted != "loglikelihood":
            raise ConfigError(
                "task.prompt is empty, so every question would be the same: write e.g. "
                "'{question}\\nAnswer:', or type decoding=loglikelihood for options that are "
                "scored from their first token on"
            )
        most = max((len(q.options) for q in questions), default=0)
        if self.lists_options and most > len(LETTERS):
            raise ConfigError(
                f"task {self.name} has questions with {most} options, more than the letters A to "
                f"{LETTERS[-1]}: leave {{options}} out of task.prompt, and type "
                "decoding=loglikelihood"
            )
        if wanted in ("auto", "free"):
            return "free"
        if wanted == "constrained" and not self.lists_options:
            raise ConfigError(
                "decoding=constrained answers with a letter, but task.prompt lists none: write "
                "{options} in it, or type decoding=loglikelihood"
            )
        if self.cot:
            raise ConfigError(
                f"task.cot=true and decoding={wanted} cannot be combined: reasoning is free text; "
                "type decoding=free"
            )
        if not all(q.options for q in questions):
            raise ConfigError(
                f"decoding={wanted} needs answer options, but task {self.name} has questions "
                "without any; type decoding=free"
            )
        return wanted
