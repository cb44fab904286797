"""Training SAEs of many layers in step, from one stream of residuals.

sae_lens does it (``MultiSAETrainer``: its losses, its optimiser, its metadata). Here is what feeds
it: *rounds*, each a buffer of residuals that is filled by the model, shuffled and trained on once.
The rows of a round follow from the seed alone, and a checkpoint stands at the end of a round, so a
job that was killed goes on from there as if nothing had happened.

Cost: a position costs each layer six products of width x features. Memory: see
:meth:`corrsteer.saes.recipe.TrainSAE.memory`. A checkpoint takes three times the weights on disk.
sae_lens and torch are imported by the functions that need them.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrsteer.errors import DataError
from corrsteer.saes.recipe import READ, TrainSAE

if TYPE_CHECKING:
    import torch

STATE = "state.json"
WEIGHTS = "sae_weights.safetensors"  # sae_lens's name
CHECKPOINTS_EVERY = 60.0  # seconds
NORM_BATCHES = 4  # batches whose mean norm scales the inputs; folded into the saved weights
Residuals = Callable[[Sequence[list[int]]], "torch.Tensor"]
"""Rows of tokens -> [N, L, M] float32, at the positions that count."""
Point = dict[str, float]
"""How far training is: samples, and by layer ``loss 3``, ``l0 3``, ``explained 3``, ``dead 3``."""


@dataclass(frozen=True)
class Stream:
    """Where residuals come from: ``rows`` of tokens, in an order made of ``seed``, again and again
    in another order, and ``read``, which runs the model over some of them."""

    rows: Sequence[list[int]]
    read: Residuals
    seed: int

    def fill(self, buffer: torch.Tensor, start: int) -> tuple[torch.Tensor, int]:
        """Fill ``buffer`` [N, L, M] from row ``start`` on. Returns (the order to take its positions
        in, [N] long, and the row after the last one that was read)."""
        import torch

        filled, n = 0, start
        while filled < len(buffer):
            if not filled and n > start + len(self.rows):
                raise DataError("no position of the text counts: give longer texts as job.text.")
            some: list[list[int]] = []
            while not some or sum(map(len, some)) + len(self._row(n)) <= READ:
                some.append(self._row(n))
                n += 1
            x = self.read(some)[: len(buffer) - filled]
            buffer[filled : filled + len(x)] = x
            filled += len(x)
        generator = torch.Generator().manual_seed(_seed(self.seed, start))
        return torch.randperm(len(buffer), generator=generator).to(buffer.device), n

    def _row(self, n: int) -> list[int]:
        """The n-th row of the stream."""
        turn, at = divmod(n, len(self.rows))
        return self.rows[_order(len(self.rows), self.seed, turn)[at]]


@lru_cache(maxsize=2)  # a round may end one turn and begin the next
def _order(rows: int, seed: int, turn: int) -> list[int]:
    import torch

    generator = torch.Generator().manual_seed(_seed(seed, turn))
    order: list[int] = torch.randperm(rows, generator=generator).tolist()
    return order


def _seed(seed: int, n: int) -> int:
    return seed * 1_000_003 + n


def train(
    recipe: TrainSAE,
    stream: Stream,
    layers: Sequence[int],
    d_model: int,
    *,
    model_name: str,
    device: str,
    checkpoints: Path,
    show: Callable[[int, Point, bool], None],
) -> tuple[dict[int, Any], list[Point]]:
    """Trained SAEs by layer, and how training went: a point at the end of every round.

    ``checkpoints`` is a folder of this training alone; the newest one in it is continued.
    ``show(samples, point, known)`` is told of every round; ``known``: it was trained before.
    """
    import torch
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.multi_sae_trainer import MultiSAETrainer

    _, size = recipe.memory(len(layers), d_model)
    steps = recipe.steps
    config = SAETrainerConfig(
        total_training_samples=steps * recipe.batch,
        train_batch_size_samples=recipe.batch,
        lr=recipe.lr,
        lr_end=recipe.lr / 10,
        lr_warm_up_steps=min(max(1, steps // 20), 1000),
        lr_decay_steps=steps // 5,
        dead_feature_window=max(10, steps // 10),
        feature_sampling_window=max(10, steps // 5),
        n_batches_for_norm_estimate=NORM_BATCHES,
        checkpoint_path=str(checkpoints),
        device=device,
    )
    points: list[Point] = []
    row, saved = 0, time.monotonic()

    class Trainer(MultiSAETrainer):  # type: ignore[misc]  # sae_lens is not followed
        def _update_pbar(self, step_outputs: Mapping[str, Any], pbar: Any, *_: Any) -> None:
            """Called after every step."""
            nonlocal saved
            done = self.n_training_samples
            if done % size and done < config.total_training_samples:
                return
            points.append(_point(self, step_outputs, done))
            show(done, points[-1], False)
            if time.monotonic() - saved > CHECKPOINTS_EVERY:
                self.keep()
                saved = time.monotonic()

        def keep(self) -> None:
            name = f"{self.n_training_samples}"
            shutil.rmtree(checkpoints / name, ignore_errors=True)
            self.save_checkpoint(checkpoint_name=name)
            state = json.dumps({"row": row, "points": points})
            (checkpoints / name / f".{STATE}").write_text(state, encoding="utf-8")
            os.replace(checkpoints / name / f".{STATE}", checkpoints / name / STATE)
            for old in checkpoints.iterdir():
                if old.is_dir() and old.name != name:
                    shutil.rmtree(old, ignore_errors=True)

    def batches(fresh: bool) -> Iterator[dict[int, torch.Tensor]]:
        nonlocal row
        buffer = torch.empty(size, len(layers), d_model, device=device)

        def batch(part: torch.Tensor) -> dict[int, torch.Tensor]:
            return {n: buffer[part, i] for i, n in enumerate(layers)}

        while True:
            order, row = stream.fill(buffer, row)
            parts = order.split(recipe.batch)
            if fresh:  # what the trainer estimates the mean norm from is trained on as well
                yield from map(batch, islice(cycle(parts), NORM_BATCHES))
                fresh = False
            yield from map(batch, parts)

    saes = {
        f"layer_{n}": _make(recipe, n, d_model, model_name, stream.seed, device) for n in layers
    }
    names = {f"layer_{n}": n for n in layers}
    with _quiet():
        trainer = Trainer(config, saes, names, data_provider=iter(()))
        there = newest(checkpoints)
        if there is not None:
            trainer.load_checkpoint(there)
            state = json.loads((there / STATE).read_text(encoding="utf-8"))
            row, points = state["row"], state["points"]
            show(trainer.n_training_samples, points[-1], True)
        trainer.data_provider = batches(fresh=there is None)
        trained = trainer.fit()
    return {n: trained[f"layer_{n}"] for n in layers}, points


def newest(checkpoints: Path) -> Path | None:
    """The checkpoint that was finished last."""
    whole = [f.parent for f in checkpoints.glob(f"*/{STATE}")]
    return max(whole, key=lambda folder: int(folder.name), default=None)


def step_seconds(recipe: TrainSAE, d_model: int, device: str) -> float:
    """Seconds of one step of one layer, from a trial on random numbers. Half of the features count
    as dead, whose own loss is what makes later steps slower."""
    import torch
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = SAETrainerConfig(1, recipe.batch, lr_end=1e-4, device=device)
    sae = _make(recipe, 0, d_model, "", 0, device)
    trainer = SAETrainer(config, sae, iter(()))
    trainer.n_forward_passes_since_fired[::2] = 1e9
    x = torch.randn(recipe.batch, d_model, device=device)
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        trainer.step(x).loss.item()
        seconds.append(time.monotonic() - began)
    return min(seconds)


def save(saes: Mapping[int, Any], out: Path, work: Path, dtype: str) -> None:
    """The SAEs in sae_lens's format, each in its folder of ``out``, where it appears whole."""
    import torch
    from safetensors.torch import load_file, save_file

    for layer, sae in saes.items():
        made, there = work / f"layer_{layer}", out / f"layer_{layer}"
        shutil.rmtree(made, ignore_errors=True)
        sae.to("cpu").save_inference_model(made)
        if dtype != "float32":  # cfg.json keeps float32, so that sae_lens computes in that
            weights = load_file(made / WEIGHTS)
            save_file({k: w.to(getattr(torch, dtype)) for k, w in weights.items()}, made / WEIGHTS)
        shutil.rmtree(there, ignore_errors=True)
        made.rename(there)


def _make(
    recipe: TrainSAE, layer: int, d_model: int, model_name: str, seed: int, device: str
) -> Any:
    """An untrained SAE of a layer; the same whichever other layers there are."""
    import torch
    from sae_lens import (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        JumpReLUTrainingSAE,
        JumpReLUTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.saes.sae import SAEMetadata

    sae_class, config_class = {
        "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
        "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
        "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig),
    }[recipe.architecture]
    own: dict[str, Any] = {"k": recipe.k}
    if recipe.architecture == "batchtopk":
        # Its threshold follows the batches; at sae_lens's own rate short runs end far from k.
        own["topk_threshold_lr"] = 0.1
    if recipe.architecture == "jumprelu":
        own = {
            "jumprelu_sparsity_loss_mode": "quadratic",
            "target_l0": float(recipe.k),
            "l0_coefficient": 0.3,
            "l0_warm_up_steps": recipe.steps // 10,
            "jumprelu_bandwidth": 0.5,
            "jumprelu_init_threshold": 0.1,
        }
    metadata = SAEMetadata(
        model_name=model_name,
        hook_name=f"blocks.{layer}.hook_resid_post",
        context_size=recipe.context,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(seed, layer))
        return sae_class(
            config_class(
                d_in=d_model,
                d_sae=recipe.features(d_model),
                normalize_activations="expected_average_only_in",
                metadata=metadata,
                device=device,
                **own,
            )
        )


def _point(trainer: Any, outputs: Mapping[str, Any], done: int) -> Point:
    """What the last step says of every layer."""
    point: Point = {"samples": done}
    for name, output in outputs.items():
        own = trainer.trainers[name]
        said = own.build_train_step_log_dict(output=output, n_training_samples=done)
        layer = name.removeprefix("layer_")
        point[f"loss {layer}"] = said["losses/overall_loss"]
        point[f"l0 {layer}"] = said["metrics/l0"]
        point[f"explained {layer}"] = said["metrics/explained_variance"]
        point[f"dead {layer}"] = said["sparsity/dead_features"] / own.sae.cfg.d_sae
    return point


@contextmanager
def _quiet() -> Iterator[None]:
    """Without sae_lens's progress bars: the run has lines of its own."""
    from sae_lens.training import activation_scaler, multi_sae_trainer

    modules = activation_scaler, multi_sae_trainer
    bars = [module.tqdm for module in modules]
    for module, bar in zip(modules, bars, strict=True):
        module.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        for module, bar in zip(modules, bars, strict=True):
            module.tqdm = bar
