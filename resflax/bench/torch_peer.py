"""CIFAR's network and ImageNet's with bottlenecks in PyTorch: eager or compiled, channels last, on the device of JAX."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

from resflax.bench.peers import require
from resflax.bench.torch_training import device_of_jax, differs, make_step
from resflax.bench.workload import Contender, Program, Workload, bottleneck_depth
from resflax.models.imagenet import COUNTS


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


def large_network(torch: Any, depth: int, num_classes: int) -> Any:
    """`resnet<depth>` with bottlenecks, the stride on their 3x3 (v1.5); modules are named as in torchvision."""
    nn = torch.nn

    def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> Any:
        return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)

    class Block(nn.Module):  # type: ignore[name-defined]
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            outputs = 4 * width
            self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
            self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
            projected = inputs != outputs
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)) if projected else None

        def forward(self, x: Any) -> Any:
            y = torch.relu_(self.bn1(self.conv1(x)))
            y = torch.relu_(self.bn2(self.conv2(y)))
            y = self.bn3(self.conv3(y))
            return torch.relu_(y + (x if self.downsample is None else self.downsample(x)))

    layers = [("conv1", conv(3, 64, 7, 2)), ("bn1", nn.BatchNorm2d(64)), ("relu", nn.ReLU(inplace=True))]
    layers += [("maxpool", nn.MaxPool2d(3, 2, padding=1))]
    inputs = 64
    for index, count in enumerate(COUNTS[depth]):
        width, strides = 64 * 2**index, [1 if index == 0 else 2, *[1] * (count - 1)]
        blocks = [Block(inputs if block == 0 else 4 * width, width, stride) for block, stride in enumerate(strides)]
        layers.append((f"layer{index + 1}", nn.Sequential(*blocks)))
        inputs = 4 * width
    layers += [("avgpool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(inputs, num_classes))]
    return nn.Sequential(collections.OrderedDict(layers))


def contender(task: str, workload: Workload, compiled: bool) -> Contender:
    """For `train` or `infer`; `compiled`: through `torch.compile`."""
    name = "torch-compile" if compiled else "torch"
    torch = require("torch", name)
    device = device_of_jax(torch, name)
    large = bottleneck_depth(workload.model)
    model = large_network(torch, large, workload.num_classes) if large else network(torch, workload.depth, workload.num_classes)
    return Contender(name, lambda: program(torch, task, model, compiled, device, workload), differs(workload))


def program(torch: Any, task: str, model: Any, compiled: bool, device: str, workload: Workload) -> Program:
    """Any network of PyTorch, channels last, for `train` or `infer`."""
    model = model.to(device, memory_format=torch.channels_last)
    called = torch.compile(model) if compiled else model
    make = make_step if task == "train" else _make_forward
    step = make(torch, called, device, workload)

    def advance(steps: int) -> float:
        for _ in range(steps):
            result = step()
            if task == "infer":
                _wait(torch, device)
        _wait(torch, device)
        return float(result.float().mean().item())

    return Program(advance, sum(one.numel() for one in model.parameters()))


def _make_forward(torch: Any, model: Any, device: str, workload: Workload) -> Callable[[], Any]:
    """`forward() -> logits`, of one batch that lies on the device."""
    images = torch.from_numpy(workload.batch()[0]).to(device).permute(0, 3, 1, 2)  # NCHW as a view of NHWC: channels last
    model.eval()

    def forward() -> Any:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, workload.precision == "bfloat16"):
            return model(images)

    return forward


def _wait(torch: Any, device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
