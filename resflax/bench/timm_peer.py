"""ImageNet networks of timm, which have the same names: channels last, eager or compiled."""

from __future__ import annotations

from resflax.bench.peers import require
from resflax.bench.torch_peer import program
from resflax.bench.torch_training import device_of_jax, differs
from resflax.bench.workload import Contender, Program, Workload
from resflax.errors import ConfigError


def contender(task: str, workload: Workload, compiled: bool) -> Contender:
    """For `train` or `infer`; `compiled`: through `torch.compile`."""
    name = "timm-compile" if compiled else "timm"
    torch, timm = require("torch", name), require("timm", name)
    device = device_of_jax(torch, name)
    if not timm.is_model(workload.model):
        raise ConfigError(
            f"--against={name} needs a --model that timm {timm.__version__} has, got {workload.model}; leave it out"
        )

    def make() -> Program:
        model = timm.create_model(workload.model, num_classes=workload.num_classes)
        return program(torch, task, model, compiled, device, workload)

    return Contender(name, make, differs(workload), optional=True)
