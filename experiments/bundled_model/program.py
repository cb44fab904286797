"""The one place where the bundled model meets the program that it is made for.

Measuring wants the accuracy that a run of the program reports as unsteered, so its own settings,
tasks, scorers and backend are used, built from ``conf/`` as a run builds them. Nothing that is
frozen with the model goes through here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from corrsteer import config
from corrsteer.models.protocol import Backend
from corrsteer.models.spec import Model
from corrsteer.tasks.protocol import Task
from corrsteer.tasks.splits import split_questions

CONF = Path(__file__).resolve().parents[2] / "conf"
SEED = 0
TASKS = {
    "bbq (ambiguous)": ["task=bbq", "task.context=ambig"],
    "bbq (disambiguated)": ["task=bbq", "task.context=disambig"],
    "mmlu": ["task=mmlu"],
    "mmlu_pro": ["task=mmlu_pro"],
    "gsm8k": ["task=gsm8k"],
    "simpleqa": ["task=simpleqa"],
    "harmbench": ["task=harmbench"],
    "xstest": ["task=xstest"],
}


@dataclass(frozen=True)
class Question:
    """One question of a test split: its prompt, its right answer, its options (perhaps none)."""

    prompt: str
    gold: str
    options: tuple[str, ...]
    example: Any
    """The program's own record of it, for its scorer."""


@dataclass(frozen=True)
class Exam:
    """The test split of a task."""

    questions: tuple[Question, ...]
    max_new_tokens: int
    scorer: Any

    def rates(self, answers: Sequence[str]) -> tuple[float, float]:
        """Share of right answers, and of invalid ones; an answer per question."""
        pairs = zip(self.questions, answers, strict=True)
        scores = [self.scorer(question.example, answer) for question, answer in pairs]
        right = sum(score.value >= 0.5 for score in scores)
        invalid = sum(score.invalid for score in scores)
        return round(right / len(scores), 4), round(invalid / len(scores), 4)


def exams(data: Path) -> dict[str, Exam]:
    """Name -> test split of seed 0 of that task's questions in ``data``, as a run would ask it."""
    found = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for name, choices in TASKS.items():
            cfg = compose("config", choices)
            cfg.task.data = str(data / cfg.task.name)
            task = config.instantiate(cfg.task, Task)
            sizes = {split: cfg.splits[split] for split in ("selection", "validation", "test")}
            splits = split_questions(task.questions(), sizes, seed=SEED)
            questions = tuple(
                Question(example.prompt, example.gold, tuple(example.options), example)
                for example in task.ask(splits, chat=False)[0]["test"]
            )
            found[name] = Exam(questions, task.max_new_tokens, task.scorer)
    return found


def answers(model: Path, exams: dict[str, Exam]) -> dict[str, list[str]]:
    """Name -> greedy answers of the model in that folder. Two minutes for 12,000 questions."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config")
        cfg.model.path = str(model)
        loaded = config.instantiate(cfg.backend, Backend).load(config.instantiate(cfg.model, Model))
    found = {}
    for name, exam in exams.items():
        prompts = [question.prompt for question in exam.questions]
        (given,) = loaded.generate(prompts, [None], max_new_tokens=exam.max_new_tokens)
        found[name] = [answer.text for answer in given]
    return found
