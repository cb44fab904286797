"""Any task of lm-evaluation-harness, by its name: what it asks, how it scores, its own few-shot.

EleutherAI, github.com/EleutherAI/lm-evaluation-harness, MIT; an optional extra, imported when the
questions are asked for. Rows come from the data set that the task names, from the Hugging Face Hub
or its cache; lm-eval writes each prompt, with description and solved questions. Its answers and
scores differ from a run of lm-eval itself as follows:

- ``multiple_choice`` is answered with the option that is likeliest per character, what lm-eval
  calls acc_norm, or with ``task.metric=acc`` by the sum. An option follows its context after white
  space, even where the task's target_delimiter has none; without a context it begins the text,
  where lm-eval lets it begin with that delimiter.
- ``generate_until`` is answered greedily, once, whatever its generation_kwargs say; it ends at
  their ``until``, and at ``task.max_new_tokens`` instead of their max_gen_toks. The task's filters
  and metric then score the text.
- Solved questions never include the question itself, where both come from one split.

Python that a task's YAML names by ``!function`` is run: a folder given as ``include_path`` must be
one that you trust. Data sets that are scripts are not run. The index of all tasks takes lm-eval
about 10 s, once a process.
"""

from __future__ import annotations

import copy
import importlib.metadata
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import Any

from corrsteer.errors import ConfigError, DataError
from corrsteer.records import NAMES, Example, Question, Score, chosen
from corrsteer.tasks.base import Task
from corrsteer.tasks.harness import LeavingOut, in_a_line, load

log = logging.getLogger(__name__)

ROWS = 10_000
"""Of a part with more, as many rows are taken, evenly spaced: every prompt is made beforehand."""
SEED = 1234  # of solved questions, lm-eval's own default


@dataclass(frozen=True)
class OwnScore:
    """Scores as the task of lm-eval does. :meth:`LMEval.questions` fills ``task`` in."""

    task: LMEval | None = field(default=None, repr=False, compare=False)

    def __call__(self, example: Example, text: str) -> Score:
        assert self.task is not None
        return self.task.score(example, text)

    @property
    def version(self) -> str:
        """What has to be the same for two results to be comparable."""
        assert self.task is not None
        return self.task.rules


@dataclass(frozen=True, kw_only=True)
class LMEval(Task):
    """``name``: the task's. ``include_path``: a folder with YAML tasks of your own, searched
    first. ``filter``, ``metric``: which filter's text and which metric is the score; None takes
    the first filter, and exact_match, acc or the first metric. ``few_shot`` None: as many solved
    questions as the task says."""

    few_shot: Any = None  # int | None; the base class knows int alone
    include_path: str | None = None
    filter: str | None = None
    metric: str | None = None

    def __post_init__(self) -> None:
        asked = self.few_shot
        object.__setattr__(self, "few_shot", asked or 0)
        super().__post_init__()
        object.__setattr__(self, "few_shot", asked)
        if self.name in ("", "lm_eval"):
            raise ConfigError(
                "task=lm_eval needs the name of a task: type task.name=NAME, e.g. "
                "task.name=arc_easy; `lm-eval ls tasks` lists all"
            )
        if self.data not in ("bundled", "hub"):
            raise ConfigError(
                f"data={self.data}: a task of lm-eval names its data set itself; leave out data, "
                "or describe your rows with task=custom"
            )
        object.__setattr__(self, "data", "lm_eval")
        if self.shuffle_options:
            raise ConfigError(
                "task.shuffle_options=true: lm-eval writes the prompts of its tasks, options and"
                " all; leave it out"
            )
        if self.cot:
            raise ConfigError(
                "task.cot=true: lm-eval writes the prompts of its tasks; choose one that asks for "
                "reasoning, e.g. task.name=gsm8k_cot, and leave out task.cot"
            )
        for key in ("filter", "metric"):
            if getattr(self, key) is not None and not isinstance(self.scorer, OwnScore):
                raise ConfigError(
                    f"task.{key}={getattr(self, key)} is for the task's own score: leave "
                    "out task.scorer, or task." + key
                )

    @cached_property
    def harness(self) -> Any:
        """The task of lm-eval, loaded and checked."""
        return load(self.name, self.include_path)

    @property
    def shots(self) -> int:
        """How many questions the splits set aside: none, lm-eval draws solved questions itself."""
        return 0

    @property
    def is_choice(self) -> bool:
        return bool(self.harness.OUTPUT_TYPE == "multiple_choice")

    def questions(self) -> list[Question]:
        # What only the loaded task can say.
        if self.few_shot is None:
            object.__setattr__(self, "few_shot", self.harness.config.num_fewshot or 0)
        if isinstance(self.scorer, OwnScore):
            self._check_own_score()
            object.__setattr__(self, "scorer", replace(self.scorer, task=self))
        return super().questions()

    def rows(self) -> Iterator[Question]:
        harness, config = self.harness, self.harness.config
        if self.few_shot and not hasattr(harness, "sampler"):
            raise ConfigError(
                f"task.few_shot={self.few_shot}: task {self.name} of lm-eval has no solved "
                "questions; type task.few_shot=0"
            )
        kwargs = config.generation_kwargs or {}
        if not self.is_choice and (kwargs.get("do_sample") or kwargs.get("temperature")):
            log.warning("task %s asks for sampled answers; here they are greedy", self.name)
        delimiter = config.target_delimiter
        if self.is_choice and not delimiter[-1:].isspace():
            log.warning(
                "task %s joins context and option with %r; here a space is put between them",
                self.name,
                delimiter,
            )
        sampler = getattr(harness, "sampler", None)
        for part, (docs, rows) in self._parts.items():
            # The order in which lm-eval draws them, so that its own prompts come out.
            harness.set_fewshot_seed(SEED)
            leaving_out = sampler and self._shots_from == getattr(config, _SPLIT[part])
            for n in rows:
                doc = docs[n]
                if leaving_out:
                    harness.sampler = LeavingOut(sampler, doc)
                try:
                    yield self._question(f"{part}-{n}", doc, part)
                except DataError:
                    raise
                except Exception as error:
                    raise DataError(
                        f"row {part}-{n} of task {self.name}: lm-eval cannot make a question from "
                        f"it with task.few_shot={self.few_shot}: {in_a_line(error)}; "
                        "choose another task or another task.few_shot"
                    ) from error
                finally:
                    if sampler:
                        harness.sampler = sampler

    def ask(
        self, splits: Mapping[str, Sequence[Question]], *, chat: bool
    ) -> tuple[dict[str, tuple[Example, ...]], tuple[str, ...]]:
        """The base class's, but for solved questions: lm-eval has put them into the context."""
        bare = copy.copy(self)
        object.__setattr__(bare, "few_shot", 0)
        asked, stop = Task.ask(bare, splits, chat=chat)
        until = (self.harness.config.generation_kwargs or {}).get("until") or []
        own = [] if self.is_choice else [until] if isinstance(until, str) else list(until)
        return asked, tuple(dict.fromkeys([*own, *stop]))

    def decoding(self, wanted: str, questions: Sequence[Question]) -> str:
        if not self.is_choice:
            if wanted in ("auto", "free"):
                return "free"
            raise ConfigError(
                f"decoding={wanted}: task {self.name} of lm-eval is answered with a text of its "
                "own; type decoding=free"
            )
        if wanted == "free" and isinstance(self.scorer, OwnScore):
            raise ConfigError(
                f"decoding=free: task {self.name} of lm-eval scores options, not texts; type "
                "decoding=loglikelihood, or task.scorer=choice to read the texts"
            )
        return "loglikelihood" if wanted == "auto" else wanted

    def score(self, example: Example, text: str) -> Score:
        """The task's own score of one answer."""
        if self.is_choice:
            letter = _letter(text, example.options)
            return Score(float(letter in (example.gold, *example.aliases)), letter)
        doc = self._doc(example.id)
        try:
            filtered, values = self._processed(doc, text)
        except Exception as error:
            raise DataError(
                f"task {self.name} of lm-eval cannot score the answer to {example.id}: "
                f"{in_a_line(error)}; type another task.metric, or e.g. task.scorer=exact"
            ) from error
        if self._metric not in values:
            raise ConfigError(self._no_metric(values))
        value = values[self._metric]
        if not _is_score(value):
            raise ConfigError(
                f"task.metric={self._metric} of task {self.name} is {str(value)[:60]}, not a "
                f"number from 0 to 1; {_others(values)}"
            )
        parsed = _parsed(filtered)
        # A score above 0 was read from something, even where nothing is left of the text.
        return Score(float(value), parsed if parsed is not None or not value else "")

    @property
    def rules(self) -> str:
        by = f"{self._metric} after filter {self._filter}"
        if self.is_choice:
            by = {how: name for name, how in _CHOOSING.items()}.get(self.likelihood, "per token")
        version = importlib.metadata.version("lm_eval")
        return f"lm-eval {version}, {self.name} {self.harness.VERSION}, {by}"

    @cached_property
    def _parts(self) -> dict[str, tuple[Any, Sequence[int]]]:
        """Official split -> its rows and which of them are asked."""
        harness, config = self.harness, self.harness.config
        parts: dict[str, tuple[Any, Sequence[int]]] = {}
        used: set[str] = set()
        for part, read in (
            ("test", harness.test_docs),
            ("validation", harness.validation_docs),
            ("train", harness.training_docs),
        ):
            name = getattr(config, _SPLIT[part])
            # Some tasks name one split twice; its rows must not be in two of ours.
            if name is None or name in used:
                continue
            used.add(name)
            docs = read()
            n = len(docs)
            if n > ROWS:
                log.info("%s: %d of %d rows of its %s split are used", self.name, ROWS, n, part)
            parts[part] = docs, [i * n // ROWS for i in range(ROWS)] if n > ROWS else range(n)
        return parts

    @property
    def _shots_from(self) -> str | None:
        """The split that solved questions are drawn from; lm-eval's own rule."""
        config, few_shot = self.harness.config, self.harness.fewshot_cfg
        if few_shot.samples is not None and few_shot.split is None:
            return None
        splits = (few_shot.split, config.training_split, config.validation_split, config.test_split)
        return next((split for split in splits if split), None)

    def _doc(self, question_id: str) -> dict[str, Any]:
        part, _, number = question_id.rpartition("-")
        doc: dict[str, Any] = self._parts[part][0][int(number)]
        return doc

    def _question(self, question_id: str, doc: dict[str, Any], part: str) -> Question:
        harness = self.harness
        context = harness.fewshot_context(
            doc, num_fewshot=self.few_shot, gen_prefix=harness.doc_to_prefix(doc)
        )
        target = harness.doc_to_target(doc)
        if not self.is_choice:
            if harness.config.doc_to_choice is not None and isinstance(target, int):
                target = harness.doc_to_choice(doc)[target]
            golds = [str(one) for one in target] if isinstance(target, list) else [str(target)]
            options: tuple[str, ...] = ()
        else:
            options = tuple(map(str, harness.doc_to_choice(doc)))
            if not 2 <= len(options) <= len(NAMES):
                raise DataError(
                    f"row {question_id} of task {self.name} has {len(options)} options; there "
                    f"must be 2 to {len(NAMES)}: choose another task"
                )
            context += _before_space(harness.config.target_delimiter)
            targets = target if isinstance(target, list) else [target]
            golds = [self._letter_of(one, options, question_id) for one in targets]
        if not golds:
            raise DataError(f"row {question_id} of task {self.name} has no right answer")
        return Question(
            id=question_id,
            fields={"context": context},
            gold=golds[0],
            options=options,
            aliases=tuple(golds[1:]),
            part=part,
        )

    def _letter_of(self, target: Any, options: Sequence[str], question_id: str) -> str:
        """lm-eval's rule: a number is an index, and a text is that of an option."""
        if isinstance(target, int) and 0 <= target < len(options):
            return NAMES[target]
        if isinstance(target, str) and target in options:
            return NAMES[options.index(target)]
        raise DataError(
            f"row {question_id} of task {self.name}: the right answer {str(target)[:40]!r} is "
            f"not one of its {len(options)} options; choose another task"
        )

    def _processed(self, doc: dict[str, Any], text: str) -> tuple[Any, Mapping[str, Any]]:
        """The filtered text, and all metrics of it."""
        harness = self.harness
        instance = harness.construct_requests(doc, "", metadata=(self.name, 0, 1))
        instance.resps = [text]
        harness._instances = [instance]
        harness.apply_filters()
        filtered = instance.filtered_resps[self._filter]
        return filtered, harness.process_results(doc, [filtered])

    @cached_property
    def _filter(self) -> str:
        names = [f.name for f in self.harness._filters]
        if self.filter is not None and self.filter not in names:
            raise ConfigError(
                f"task.filter={self.filter}: task {self.name} has no such filter; choose one of: "
                f"{', '.join(names)}"
            )
        return self.filter or names[0]

    @cached_property
    def _metric(self) -> str:
        names = list(self.harness._metric_fn_list)
        return self.metric or next((n for n in ("exact_match", "acc") if n in names), names[0])

    def _check_own_score(self) -> None:
        """Find out before anything is generated if answers cannot be scored this way."""
        if self.is_choice:
            if self.metric is not None:
                if self.metric not in _CHOOSING:
                    raise ConfigError(
                        f"task.metric={self.metric}: the likeliest option is chosen, "
                        "task.metric=acc, or the likeliest per character, task.metric=acc_norm; "
                        "type one of them"
                    )
                object.__setattr__(self, "likelihood", _CHOOSING[self.metric])
            if self.filter is not None:
                raise ConfigError(
                    f"task.filter={self.filter}: task {self.name} has options, and filters read "
                    "texts; leave out task.filter"
                )
            return
        assert self._filter
        if self.harness.higher_is_better().get(self._metric) is False:
            raise ConfigError(
                f"task.metric={self._metric} of task {self.name} is better when lower; choose one "
                f"of: {', '.join(self.harness._metric_fn_list)}, or e.g. task.scorer=exact"
            )
        docs, rows = next(iter(self._parts.values()))
        if rows:
            part = next(iter(self._parts))
            self.score(Example(id=f"{part}-{rows[0]}", prompt="", gold=""), "1")

    def _no_metric(self, values: Mapping[str, Any]) -> str:
        return f"task.metric={self._metric}: task {self.name} has no such metric; {_others(values)}"


_CHOOSING = {"acc": "sum", "acc_norm": "per_character"}
"""lm-eval's names of how options are compared."""
_SPLIT = {"train": "training_split", "validation": "validation_split", "test": "test_split"}


def _before_space(delimiter: str) -> str:
    """What stands between a context and an option, but for the space that an option begins with."""
    return delimiter.removesuffix(" ")


def _letter(text: str, options: Sequence[str]) -> str | None:
    """The option that an answer is: "B", or "B. its text"."""
    alone = text.strip() in tuple(NAMES[: len(options)])
    return text.strip() if alone else chosen(text, options)


def _parsed(filtered: Any) -> str | None:
    """None for what lm-eval's filters give where they find nothing."""
    text = (filtered if isinstance(filtered, str) else str(filtered or "")).strip()
    return text if text and text != "[invalid]" else None


def _is_score(value: Any) -> bool:
    # NaN is in no interval; NumPy's bool is not a Real.
    return (isinstance(value, Real) or type(value).__name__ == "bool") and 0 <= float(value) <= 1


def _others(values: Mapping[str, Any]) -> str:
    usable = [name for name, value in values.items() if _is_score(value)]
    if not usable:
        return "none of its metrics is a number from 0 to 1; type e.g. task.scorer=exact"
    return f"choose one of: {', '.join(usable)}"
