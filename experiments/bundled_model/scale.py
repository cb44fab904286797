"""How much of everything is made: ``FULL`` is the bundled model, ``SMALL`` shows that it works.

``FULL`` is frozen with the model: another number there is another model. ``SMALL`` goes through
the same code in seconds, so that a test can; what it makes knows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUNDLED = HERE.parents[1] / "src" / "corrsteer" / "bundled"


@dataclass(frozen=True)
class Scale:
    questions: Mapping[str, int]
    """Rows of every task's question file."""
    tokenizer_documents: int
    steps: int
    clean_steps: int
    """First steps, with right answers only: the skills form faster without label noise."""
    warmup: int
    documents: int
    """Per step, in two halves by length so that little padding is computed."""
    checkpoint_every: int
    sae_width: int
    sae_positions: int
    sae_samples: int
    """Drawn from the positions, again and again."""
    sae_batch: int
    test_positions: int
    """On which the SAEs are measured."""
    fault_draws: int
    """Answers of every task that the rates of faults are counted on."""


FULL = Scale(
    questions={
        "bbq_ambig": 3600, "bbq_disambig": 3600, "mmlu": 3600, "mmlu_pro": 2400, "gsm8k": 2400,
        "simpleqa": 2400, "harmbench": 1800, "xstest": 1800,
    },
    tokenizer_documents=30_000,
    steps=3000,
    clean_steps=1200,
    warmup=100,
    documents=64,
    checkpoint_every=250,
    sae_width=1024,
    sae_positions=300_000,
    sae_samples=900_000,
    sae_batch=2048,
    test_positions=50_000,
    fault_draws=4000,
)  # fmt: skip

SMALL = Scale(
    questions=dict.fromkeys(FULL.questions, 35),
    tokenizer_documents=500,
    steps=4,
    clean_steps=2,
    warmup=1,
    documents=8,
    checkpoint_every=2,
    sae_width=64,
    sae_positions=600,
    sae_samples=2000,
    sae_batch=100,
    test_positions=300,
    fault_draws=50,
)
