"""What lets ndif 0.1.2 run without a GPU; imported by the server's own environment only.

ndif's actors load onto CUDA devices and synchronise them. These do the same work on the CPU;
everything between the client's request and the model is ndif's own code.
"""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import ray
from ndif.services.ray.deployments.controller.controller import _ControllerActor
from ndif.services.ray.deployments.modeling.base import BaseModelDeployment
from ndif.services.ray.sandbox.host import Pool, Sandbox, spawn
from ndif.services.ray.sandbox.model import SandboxHost
from nnsight.modeling.huggingface import HuggingFaceModel
from nnsight.modeling.mixins.remotable import Remotable


def _accept_trust_remote_code(name: str) -> None:
    """ndif passes ``trust_remote_code``, which nnsight 0.8.1 reads from the key instead."""
    original = getattr(Remotable, name).__func__

    def call(cls: type, *args: Any, trust_remote_code: Any = None, **kwargs: Any) -> Any:
        return original(cls, *args, **kwargs)

    setattr(Remotable, name, classmethod(call))


for _name in ("describe_checkpoint", "max_tp_size", "estimate_bytes"):
    _accept_trust_remote_code(_name)


class _Controller(_ControllerActor):
    """Named in this module, so that the process ray starts for it imports this module."""


@ray.remote(num_cpus=0, max_restarts=-1, resources={"head": 1})
class Controller(_Controller):
    """ndif's controller, where the corrected calls above hold."""


class _OnCpu(BaseModelDeployment):
    """A model in memory; a replica that has to go is removed, there is no GPU to park it from."""

    CACHEABLE = False

    def load_from_disk(self) -> HuggingFaceModel:
        model = HuggingFaceModel.from_model_key(
            self.model_key, dispatch=True, dtype=self.dtype_name, device="cpu", **self.kwargs
        )
        model._module.requires_grad_(False)
        model._module.eval()
        return model

    def cleanup(self) -> None:
        self.kill_switch.clear()
        self.kill_reason = None
        self.execution_ident = None
        self.model.interleaver.cancel()
        gc.collect()


@ray.remote(num_cpus=0, max_restarts=-1)
class TrustedModel(_OnCpu):
    """Runs the client's code beside the model, as for keys tagged "trusted"."""


class _PatientPool(Pool):
    """Starting a sandbox takes 4 s, but more than ndif's 30 s on a machine with much to do."""

    def _spawn(self) -> Sandbox:
        return spawn(timeout=300, model_key=self.model_key)

    def acquire(self, timeout: float = 300) -> Sandbox:
        return super().acquire(timeout)


class _Sandboxed(SandboxHost, _OnCpu):
    """Runs every request in a process of its own, as for all other keys.

    ndif asks the request whether it is trusted, and without a database of keys all are.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pool = _PatientPool(size=2, model_key=self.model_key)
        self.execution_sandbox = None

    def interrupt(self) -> None:
        if self.execution_sandbox is not None:
            self.execution_sandbox.stop()
        super().interrupt()

    def execution_scope(self, request: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def execute(self, request: Any) -> tuple[bytes, float | None]:
        return self.run_in_runner(request, None)

    def cleanup(self) -> None:
        self.discard_sandbox()
        super().cleanup()


@ray.remote(num_cpus=0, max_restarts=-1)
class SandboxedModel(_Sandboxed):
    """Runs the client's code in a sandbox."""
