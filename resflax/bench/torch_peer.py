"""The CIFAR network in PyTorch: eager or compiled, channels last, on the device that JAX uses."""

from __future__ import annotations

import functools
from typing import Any

import jax

from resflax.bench.peers import require
from resflax.bench.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Contender, Program, Workload
from resflax.errors import ConfigError


def network(torch: Any, depth: int, num_classes: int) -> Any:
    """`cifar_resnet<depth>`, the shortcut without parameters."""
    nn = torch.nn

    def conv(inputs: int, width: int, stride: int = 1) -> Any:
        return nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)

    class Block(nn.Module):  # type: ignore[name-defined]  # PyTorch may be absent where types are checked
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.norm1 = conv(inputs, width, stride), nn.BatchNorm2d(width)
            self.conv2, self.norm2 = conv(width, width), nn.BatchNorm2d(width)
            self.stride, self.half = stride, (width - inputs) // 2

        def forward(self, x: Any) -> Any:
            y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
            shortcut = x
            if self.half:
                shortcut = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.half, self.half))
            return torch.relu(y + shortcut)

    blocks = (depth - 2) // 6
    layers = [conv(3, 16), nn.BatchNorm2d(16), nn.ReLU()]
    for inputs, width, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
        layers += [Block(inputs, width, stride), *(Block(width, width, 1) for _ in range(blocks - 1))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))


def contender(task: str, workload: Workload, compiled: bool) -> Contender:
    """For `train` or `infer`; `compiled`: through `torch.compile`."""
    name = "torch-compile" if compiled else "torch"
    torch = require("torch", name)
    device = _device(torch, name)
    images, labels = (torch.from_numpy(array).to(device) for array in workload.batch())
    images = images.permute(0, 3, 1, 2)  # NCHW as a view of NHWC: channels last
    autocast = functools.partial(torch.autocast, device, torch.bfloat16, workload.precision == "bfloat16")

    model = network(torch, workload.depth, workload.num_classes).to(device, memory_format=torch.channels_last)
    parameters = sum(one.numel() for one in model.parameters())

    def make() -> Program:
        called = torch.compile(model) if compiled else model
        advance = (_training if task == "train" else _inference)(torch, called, autocast, images, labels.long())
        return Program(advance, parameters)

    differs = "running variance unbiased" + ("; bfloat16 by autocast" if workload.precision == "bfloat16" else "")
    return Contender(name, make, differs)


def _device(torch: Any, name: str) -> str:
    platform = jax.devices()[0].platform
    if platform == "cpu":
        return "cpu"
    if platform != "gpu" or not torch.cuda.is_available():
        raise ConfigError(f"--against={name} must run on the {platform} that JAX uses, but torch has none; leave it out")
    return "cuda"


def _training(torch: Any, model: Any, autocast: Any, images: Any, labels: Any) -> Any:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)

    def advance(steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad()
            with autocast():
                loss = torch.nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        value = loss.item()
        _wait(torch, images)
        return value

    return advance


def _inference(torch: Any, model: Any, autocast: Any, images: Any, labels: Any) -> Any:
    model.eval()

    def advance(steps: int) -> float:
        with torch.inference_mode(), autocast():
            for _ in range(steps):
                logits = model(images)
                _wait(torch, images)
            return logits.float().mean().item()

    return advance


def _wait(torch: Any, images: Any) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()
