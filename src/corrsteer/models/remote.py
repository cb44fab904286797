"""A model on an NDIF server, read and steered through nnsight.

The weights stay on the server; here are only the config and the tokenizer. A request carries
token ids and steering vectors and brings back token ids, the residuals at the token source, or a
number or two per text. Every answer of a batch under one plan is one request, so a batch costs one
prompt pass per plan: there is no shared prompt cache, and a large ``batch_size`` is what makes it
fast.

The key comes from NDIF_API_KEY or from nnsight's own config file, never from a setting, so it
cannot get into a run's record. What the server sends is read without unpickling code.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from corrsteer.errors import ConfigError, ModelError
from corrsteer.models import reading
from corrsteer.models.loaded import LoadedModel
from corrsteer.models.protocol import STEERING, Prepared, check_settings, chosen_device
from corrsteer.models.spec import Model
from corrsteer.steering.protocol import Intervention

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# The server's checkpoint brings its own generation settings, which a request overrides one by
# one: the largest logit and nothing else.
_GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
}


@dataclass(frozen=True)
class NDIF:
    """Run on an NDIF server. ``host`` is its address; null: NDIF_HOST, or nnsight's own config.

    ``device`` is where residuals are encoded here: ``auto`` (a GPU if there is one), ``cpu``,
    ``cuda:1``. ``timeout_s``: how long the server may be silent before a request is given up.
    """

    host: str | None = None
    device: str = "auto"
    batch_size: int = 128
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if self.host is not None and not self.host.startswith(("http://", "https://")):
            raise ConfigError(
                f"backend.host={self.host!r} must start with http:// or https://, such as"
                " backend.host=https://ndif.example.org."
            )
        if self.host is not None and "@" in self.host:
            raise ConfigError("backend.host holds a password: set NDIF_API_KEY instead.")
        check_settings(self.device, self.batch_size)
        if not self.timeout_s > 0:
            raise ConfigError(f"backend.timeout_s={self.timeout_s}: it must be above 0.")

    def key(self, model: Model) -> dict[str, Any]:
        """What identifies the model's computation in a cache key. The dtype is the server's."""
        return {
            "model": model.fingerprint(weights=False),
            "dtype": "served",
            **reading.key(model),
        }

    def supports(self) -> frozenset[str]:
        return STEERING

    def load(self, model: Model) -> RemoteModel:
        """Config and tokenizer. Raises ModelError when they cannot be had; the server is first
        asked when something is to be computed."""
        folder = model.folder(weights=False)
        import torch
        from nnsight import CONFIG, TransformersModel, register
        from nnsight.modeling import huggingface

        # Operators and gates are sent along by value: servers do not have this package.
        register("corrsteer")

        # Otherwise the Hub is asked how the name is spelt.
        path = str(folder) if model.is_local else model.path
        huggingface._ID_CACHE.setdefault(path, path)
        try:
            wrapped = TransformersModel(path, task="text-generation", revision=model.revision)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"model.path={model.path!r} cannot be read ({' '.join(str(error).split())}); its"
                " config.json and tokenizer.json are needed here too."
            ) from error
        device = torch.device(chosen_device(self.device))
        server = Server(
            host=self.host or os.environ.get("NDIF_HOST") or CONFIG.API.HOST,
            key=os.environ.get("NDIF_API_KEY") or CONFIG.API.APIKEY,
            timeout_s=self.timeout_s,
        )
        return RemoteModel(wrapped, model, self.batch_size, device, server)


@dataclass(frozen=True)
class Server:
    """Where requests go. The key is left out of ``repr``: it must not get into a log."""

    host: str
    key: str | None = field(repr=False)
    timeout_s: float


class RemoteModel(LoadedModel):
    """A model on a server. Made by :meth:`NDIF.load`."""

    def __init__(
        self, wrapped: Any, model: Model, batch_size: int, device: torch.device, server: Server
    ) -> None:
        super().__init__(wrapped, model, batch_size)
        self._device = device
        self._server = server
        self._logged: set[str] = set()

    def _prepare(self, intervention: Intervention | None) -> Prepared:
        from nnsight import register

        how = super()._prepare(intervention)
        for function in (how.apply, how.opens):
            if function is not None:  # the server does not have its package either
                register(function.__module__)
        return how

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def _entry(self) -> torch.device:
        import torch

        return torch.device("cpu")  # where requests are written

    def _answers(
        self,
        inputs: dict[str, torch.Tensor],
        interventions: Sequence[Prepared],
        options: dict[str, Any],
    ) -> Iterator[tuple[torch.Tensor, Sequence[int], None]]:
        options = {**_GREEDY, "pad_token_id": self._pad, **options}
        if self._eos:
            options["eos_token_id"] = self._eos
        for how in interventions:
            with self._sent(inputs["input_ids"].shape[0], "answers") as request:
                if how.acts(options["max_new_tokens"]):
                    answers = self._steered(inputs, how, {**options, **request})
                else:
                    answers = self._unsteered(inputs, {**options, **request})
            yield *answers, None

    def _unsteered(
        self, inputs: dict[str, torch.Tensor], options: dict[str, Any]
    ) -> tuple[torch.Tensor, Sequence[int]]:
        import nnsight

        start = inputs["input_ids"].shape[1]
        # nnsight finds the traced block by its lines: each "with" needs its own.
        with self._wrapped.generate(**options) as tracer:  # noqa: SIM117
            with tracer.invoke(inputs):
                tokens = nnsight.save(tracer.result[:, start:])
        return tokens, []

    @contextmanager
    def _sent(self, samples: int, what: str) -> Iterator[dict[str, Any]]:
        """One request, with its failures in plain words and, the first time, its size logged."""
        from corrsteer.models.request import FAILURES, Request, explain

        server = self._server
        request = Request(self._wrapped, server.host, server.key, server.timeout_s)
        try:
            yield {"backend": request}
        except NameError as error:  # what was to be saved is not in the result
            raise ModelError(
                f"the result of the server {server.host} lacks what was asked for"
                f" ({' '.join(str(error).split())}): it is not an NDIF server, or runs another"
                " version"
            ) from None
        except FAILURES as error:
            text = explain(error, server.host, self._model.path, server.timeout_s)
            # Some servers repeat a key that they refuse.
            raise ModelError(text.replace(server.key, "...") if server.key else text) from None
        level = logging.DEBUG if what in self._logged else logging.INFO
        self._logged.add(what)
        megabytes = request.received / 1e6 / samples
        log.log(level, "%s of %d samples: %.3g MB per sample", what, samples, megabytes)
