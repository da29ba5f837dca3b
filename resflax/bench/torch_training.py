"""A training step in PyTorch on the device that JAX uses: channels last, SGD, bfloat16 by autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from resflax.bench.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Workload
from resflax.errors import ConfigError


def device_of_jax(torch: Any, name: str) -> str:
    """PyTorch's name of the platform that JAX uses; `ConfigError` where it has none. `name` is the peer's."""
    platform = jax.devices()[0].platform
    if platform == "cpu":
        return "cpu"
    if platform != "gpu" or not torch.cuda.is_available():
        raise ConfigError(f"--against={name} must run on the {platform} that JAX uses, but torch has none; leave it out")
    return "cuda"


def differs(workload: Workload) -> str:
    """What a PyTorch network does otherwise than ours."""
    return "running variance unbiased" + ("; bfloat16 by autocast" if workload.precision == "bfloat16" else "")


def make_step(torch: Any, model: Any, device: str, workload: Workload, cache_casts: bool = True) -> Callable[[], Any]:
    """`step() -> loss`, a step on one batch that lies on the device; `model` does too.

    Args:
      torch: the package.
      model: a network, compiled or not.
      device: of PyTorch.
      workload: gives batch and precision.
      cache_casts: whether autocast keeps casts of parameters within a step.
    """
    images, labels = (torch.from_numpy(array).to(device) for array in workload.batch())
    images, labels = images.permute(0, 3, 1, 2), labels.long()  # NCHW as a view of NHWC: channels last
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
    reduced = workload.precision == "bfloat16"
    torch.backends.cudnn.benchmark = True  # convolutions are chosen by timing them, as XLA does
    model.train()

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, reduced, cache_enabled=cache_casts):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step
