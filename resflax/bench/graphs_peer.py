"""The CIFAR network in PyTorch with its whole training step in one CUDA graph: no launch of a kernel waits for Python."""

from __future__ import annotations

from typing import Any

import jax

from resflax.bench import torch_peer
from resflax.bench.peers import GRAPHS, require
from resflax.bench.torch_training import device_of_jax, differs, make_step
from resflax.bench.workload import Contender, Program, Workload
from resflax.errors import ConfigError

WARM_UP = 11  # steps before the capture, as PyTorch's documentation of CUDA graphs takes where gradients are involved


def contender(workload: Workload) -> Contender:
    """For `train`, on a GPU; `ConfigError` elsewhere."""
    platform = jax.devices()[0].platform
    if platform != "gpu":
        raise ConfigError(f"--against={GRAPHS} needs a GPU with CUDA, but JAX runs on the {platform}; leave it out")
    torch = require("torch", GRAPHS)
    device = device_of_jax(torch, GRAPHS)
    model = torch_peer.network(torch, workload.depth, workload.num_classes)
    return Contender(GRAPHS, lambda: captured(torch, model, device, workload), differs(workload), optional=True)


def captured(torch: Any, model: Any, device: str, workload: Workload) -> Program:
    """A step is one replay; parameters, momenta, statistics and the loss are updated in place."""
    model = model.to(device, memory_format=torch.channels_last)
    # A cache of casts would outlive the capture that filled it.
    step = make_step(torch, model, device, workload, cache_casts=False)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def advance(steps: int) -> float:
        for _ in range(steps):
            graph.replay()
        torch.cuda.synchronize()
        return float(loss.item())

    return Program(advance, sum(one.numel() for one in model.parameters()))
