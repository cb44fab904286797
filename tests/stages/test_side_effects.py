"""Side effects against sums done by hand, on models and SAEs small enough to look through."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from corrsteer.errors import ConfigError
from corrsteer.records import Divergence
from corrsteer.report.record import Readings
from corrsteer.stages.activity import activity
from corrsteer.stages.divergence import summary
from corrsteer.stages.side_effects import SideEffects, compared, off_target, text_summary
from corrsteer.steering.arms import Arm, baseline, steered
from corrsteer.steering.plan import Plan, PlanEntry

STANDARD = {"unrelated": 10, "new_tokens": 4, "texts": 3, "answers": 5, "draws": 2}


@pytest.mark.parametrize(("name", "value"), [("draws", 0), ("texts", -1), ("new_tokens", 1.5)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"side_effects.{name}={value}: .* at least"):
        SideEffects(**{**STANDARD, name: value})


def plan_at(*layers, length=1.0):
    return Plan(tuple(PlanEntry(n, 0, 0.5, 1.0, np.full(2, length, np.float32)) for n in layers))


def test_the_plan_is_compared_with_the_first_random_features():
    plan, others = plan_at(0), [Arm(f"random_{n}", "random", plan_at(n)) for n in range(1, 6)]
    direction = Arm("direction_1", "direction", plan_at(9))
    arms = compared([baseline(), direction, *others, steered(plan)], draws=2)
    assert arms == [steered(plan), others[0], others[1]]
    assert arms[0].intervention is plan


def answered(*texts):
    return pd.DataFrame({"id": [str(n) for n in range(len(texts))], "answer": texts})


def test_off_target_counts_answers_that_are_not_the_same_to_the_letter():
    read = Readings(arms={})
    changed = off_target(
        {
            "baseline": answered("a", "b", "c", "d"),
            "steered": answered("a", "B", "c ", "d"),
            "random_1": answered("a", "b", "c", "d"),
        },
        "everyday",
        read,
    )
    assert (changed.n, changed.source, list(changed.arms)) == (
        4,
        "everyday",
        ["steered", "random_1"],
    )
    assert (changed.arms["steered"].changed, changed.arms["steered"].rate) == (2, 0.5)
    low, high = changed.arms["steered"].ci
    assert low < 0.5 < high and changed.arms["random_1"].changed == 0
    assert changed.text is read


def test_off_target_pairs_by_id():
    frames = {"baseline": answered("a", "b"), "steered": answered("a", "b")[::-1]}
    with pytest.raises(AssertionError, match="steered"):
        off_target(frames, "x", Readings(arms={}))


def test_divergence_is_per_position_whatever_the_length_of_texts():
    parts = [Divergence(2.0, 1, 10), Divergence(1.0, 0, 30)]
    moved = summary({"steered": parts, "random_1": [Divergence(0.0, 0, 10)] * 2}, "x", seed=0)
    arm = moved.arms["steered"]
    assert (moved.n_texts, moved.n_positions, moved.source) == (2, 40, "x")
    assert arm.kl == pytest.approx(3 / 40) and arm.top1_changed == pytest.approx(1 / 40)
    assert arm.kl_ci[0] <= arm.kl <= arm.kl_ci[1]
    assert moved.arms["random_1"].kl_ci == (0.0, 0.0)


def test_the_interval_of_the_divergence_covers_a_ratio_of_sums():
    """Against a plain bootstrap of the ratio, over texts of very different lengths."""
    rng = np.random.default_rng(0)
    positions = rng.integers(5, 60, 80)
    kl = positions * rng.gamma(2.0, 0.05, 80)
    parts = [Divergence(float(k), 0, int(p)) for k, p in zip(kl, positions, strict=True)]
    low, high = summary({"steered": parts}, "x", seed=0).arms["steered"].kl_ci
    picks = rng.integers(80, size=(20_000, 80))
    ends = np.quantile(kl[picks].sum(1) / positions[picks].sum(1), [0.025, 0.975])
    assert [low, high] == pytest.approx(ends.tolist(), rel=0.06)


def test_how_answers_read():
    answers = pd.DataFrame(
        {
            "tokens": [[1, 2, 1, 2, 1, 2, 1, 2], [1, 2, 3, 4, 5], [7]],
            "n_tokens": [8, 5, 1],
            "degenerate": pd.array(["loop", None, None], dtype="string"),
        }
    )
    read = text_summary(answers, [-8.0, -5.0, -1.0])
    # 5 four-grams, of which 2 are distinct; 2 of 2; and one answer that is too short.
    assert read.repetition == pytest.approx((3 / 5 + 0) / 2) and read.repetition_n == 2
    assert read.perplexity == pytest.approx(math.e)
    assert (read.n, read.n_tokens, read.degenerate) == (3, 14, 1)


class Steps:
    """A stand-in for a model: residuals [N, 2] that the plan moves by its vector."""

    def __init__(self, residuals, batch):
        self.residuals, self.batch = residuals, batch

    def batches(self, prompts):
        rows = list(range(len(prompts)))
        return [rows[i : i + self.batch] for i in range(0, len(rows), self.batch)]

    def replay(self, prompts, answers, layers, source, *, intervention=None):
        assert source == "generated"
        rows = [i for prompt in prompts for i in range(3 * int(prompt), 3 * int(prompt) + 3)]
        vectors = intervention.vectors() if intervention else {}
        none = np.zeros(2, np.float32)
        moved = {n: self.residuals[rows] + torch.tensor(vectors.get(n, none)) for n in layers}
        return SimpleNamespace(layers=moved, sample=torch.tensor([0] * len(rows)))


def test_attention_sinks_are_no_position_of_the_activity():
    """The first of each text of three; a plan that makes others longer changes nothing of that."""
    residuals = torch.tensor([[1.0, 0.0], [0.5, 0.5], [1.0, 1.0]] * 4)
    residuals[::3] *= 100
    sae = SimpleNamespace(encode=lambda x: (x - 0.7).clamp(min=0))
    plan = plan_at(1, length=50)
    rows = activity(Steps(residuals, 1), {0: sae, 1: sae}, list("0123"), [()] * 4, plan, {1})
    assert [row.n_positions for row in rows] == [8, 8]
    assert [row.l0_before for row in rows] == [1, 1]  # of 2 and 0; 4/3 with the sinks
    assert [row.l0_after for row in rows] == [1, 2]


def test_activity_counts_features_that_come_and_go():
    residuals = torch.tensor(np.random.default_rng(0).normal(size=(12, 2)), dtype=torch.float32)
    weights = torch.tensor([[1.0, -1.0, 0.5], [0.0, 1.0, -1.0]])
    sae = SimpleNamespace(encode=lambda x: (x @ weights).clamp(min=0))
    plan = plan_at(1, length=0.7)
    rows = activity(Steps(residuals, 3), {0: sae, 1: sae}, list("0123"), [()] * 4, plan, {1})
    assert [(row.layer, row.steered, row.n_positions) for row in rows] == [
        (0, False, 12), (1, True, 12),
    ]  # fmt: skip
    was, now = residuals @ weights > 0, (residuals + 0.7) @ weights > 0
    assert rows[0].l0_before == rows[0].l0_after == was.float().sum(1).mean()
    assert rows[0].new == rows[0].lost == 0
    assert rows[1].l0_after == pytest.approx(now.float().sum(1).mean().item())
    assert rows[1].new == pytest.approx((now & ~was).float().sum(1).mean().item())
    assert rows[1].lost == pytest.approx((was & ~now).float().sum(1).mean().item()) != 0
