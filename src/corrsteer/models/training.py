"""Fine-tuning a copy of the model on answers, by transformers' Trainer, with peft for a LoRA.

What is read is what is tested: the very ids, positions and left padding of the evaluation. The loss
is on the answer and its end. Every epoch begins from what the one before left, weights and moments
of the optimizer, and from a seed of its own; so training that was killed goes on at its last epoch
and ends, on a CPU, at the same bytes.

Cost: about three passes over each prompt with its answer per epoch, and memory for a copy of the
model in float32, for its activations and, of all that is trained, for three times that.
Imports torch and transformers: only for use behind a loaded model.
"""

from __future__ import annotations

import gc
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from corrsteer.models import weights
from corrsteer.models.recipe import BIAS, Epoch, Recipe
from corrsteer.steering.adapter import LORA
from corrsteer.steering.hooks import blocks
from corrsteer.steering.positions import where

if TYPE_CHECKING:
    from corrsteer.models.local import LocalModel

IGNORED = -100
"""Label of a position whose prediction is no part of the loss."""
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")

Row = tuple[Sequence[int], Sequence[int]]
"""Ids of a prompt, and of the answer that is to be written after it."""


class Biased(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """A frozen model with a vector for each of some layers, at first zero, that is added to the
    block's output where ``acting`` [B, T] is set: what a plan of these vectors does."""

    def __init__(self, model: Any, layers: Sequence[int]) -> None:
        super().__init__()
        self.model, self.config = model.requires_grad_(False), model.config
        config, homes = model.config.get_text_config(), blocks(model, "the model")
        names = {n: torch.nn.Parameter(torch.zeros(config.hidden_size)) for n in layers}
        self.vectors = torch.nn.ParameterDict({str(n): vector for n, vector in names.items()})
        for n, vector in names.items():
            homes[n].register_forward_hook(self._adding(vector))

    def forward(self, acting: torch.Tensor, **inputs: Any) -> Any:
        self.acting = acting[..., None]
        return self.model(**inputs)

    def _adding(self, vector: torch.Tensor) -> Callable[..., Any]:
        def hook(module: Any, args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (output[0] + self.acting * vector, *output[1:])
            return output + self.acting * vector

        return hook


def trained(
    model: LocalModel,
    recipe: Recipe,
    rows: Sequence[Row],
    epochs: int,
    show: Callable[[int], None],
    done: int = 0,
    state: bytes = b"",
) -> Iterator[Epoch]:
    """The epochs after the first ``done``, whose ``state`` is given. ``show`` is told how many
    answers of these epochs were read."""
    with _own_numbers(recipe.seed):
        net, config = _net(model, recipe)
        net.to(model.device)
        own = {name: p for name, p in net.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(own.values(), lr=recipe.lr, weight_decay=0.0)
        if done:
            _restore(own, optimizer, load_tensors(state))
    for number in range(done + 1, epochs + 1):
        began = time.monotonic()
        seed = (recipe.seed * 1_000_003 + number) % 2**32  # NumPy takes no more
        order = np.random.default_rng((recipe.seed, number)).permutation(len(rows))
        read = (number - 1 - done) * len(rows)
        with _own_numbers(seed):
            loss = _epoch(model, recipe, net, optimizer, [rows[i] for i in order], seed, show, read)
        arrays = {
            name.replace(".default.", ".").removeprefix("vectors."): p.detach().cpu().numpy().copy()
            for name, p in own.items()
        }
        steps = -(-len(rows) // recipe.batch) * number
        seconds = time.monotonic() - began
        kept = save_tensors(_state(own, optimizer))
        yield Epoch(number, steps, loss, seconds, arrays, config, kept)


def batch_of(model: LocalModel, recipe: Recipe, some: Sequence[Row]) -> dict[str, torch.Tensor]:
    """What the model reads, padded as in the evaluation, and the labels of the answers."""
    inputs = model._pad_left([[*prompt, *answer] for prompt, answer in some])
    labels = torch.full_like(inputs["input_ids"], IGNORED)
    for row, (_, answer) in zip(labels, some, strict=True):
        row[len(row) - len(answer) :] = torch.tensor(answer, device=row.device)
    batch = {**inputs, "labels": labels}
    if recipe.kind == BIAS:
        last = torch.tensor([[len(prompt) - 1] for prompt, _ in some], device=labels.device)
        end = inputs["attention_mask"].sum(1, keepdim=True) - 1
        acts = where(recipe.positions).within(inputs["position_ids"], last, end)
        batch["acting"] = acts & inputs["attention_mask"].bool()
    return batch


def _net(model: LocalModel, recipe: Recipe) -> tuple[Any, dict[str, Any]]:
    """A fresh copy of the model in float32, of which what is trained asks for gradients."""
    module: Any = weights.load(model._model, "float32", None)
    module.config.use_cache = False
    if recipe.kind == BIAS:
        return Biased(module, recipe.layers), {}
    if recipe.kind != LORA:
        return module, {}
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with weights.quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # peft corrects it itself
        net = get_peft_model(module, lora)
    return net, _plain(net.peft_config["default"].to_dict())


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without what another process would write otherwise: the order of sets, and where the model
    lies."""
    made = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    return {**made, "base_model_name_or_path": None, "inference_mode": True}


def _epoch(
    model: LocalModel,
    recipe: Recipe,
    net: Any,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[Row],
    seed: int,
    show: Callable[[int], None],
    read: int,
) -> float:
    """Goes through the rows once, in their order. Returns the mean loss of its steps."""
    from transformers import (
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        get_constant_schedule,
    )

    class Shown(TrainerCallback):  # type: ignore[misc]  # transformers is not followed
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            show(read + min(len(rows), state.global_step * recipe.batch))

    with tempfile.TemporaryDirectory() as nowhere, weights.quiet():
        settings = TrainingArguments(
            output_dir=nowhere,
            per_device_train_batch_size=recipe.batch,
            num_train_epochs=1,
            learning_rate=recipe.lr,
            weight_decay=0.0,
            seed=seed,
            train_sampling_strategy="sequential",
            use_cpu=model.device.type == "cpu",
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        if settings.n_gpu > 1:  # else the batch would be split over all GPUs
            settings._n_gpu = 1
        trainer = Trainer(
            net,
            settings,
            data_collator=lambda some: batch_of(model, recipe, some),
            train_dataset=list(rows),
            callbacks=[Shown()],
            optimizers=(optimizer, get_constant_schedule(optimizer)),
        )
        trainer.remove_callback(PrinterCallback)
        gc.freeze()  # accelerate collects garbage after an epoch: a second for all of ours
        try:
            return float(trainer.train().training_loss)
        finally:
            gc.unfreeze()


def _state(own: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {f"weight {name}": p.detach().cpu().contiguous() for name, p in own.items()}
    for name, p in own.items():
        for moment, value in optimizer.state[p].items():  # none of what was never used
            tensors[f"{moment} {name}"] = value.detach().cpu().contiguous()
    return tensors


def _restore(
    own: Mapping[str, Any], optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    for name, p in own.items():
        p.data.copy_(tensors[f"weight {name}"])
        for moment in _MOMENTS:
            if (value := tensors.get(f"{moment} {name}")) is not None:
                optimizer.state[p][moment] = value if moment == "step" else value.to(p.device)


@contextmanager
def _own_numbers(seed: int) -> Iterator[None]:
    """Random numbers of its own, whatever was drawn before; afterwards the caller's go on."""
    kept = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
