"""What share of the devices' arithmetic peak training reaches: Chowdhery et al. 2022, PaLM, appendix B, for images.

Model FLOPs utilization is the rate over the rate that the peak would allow. Only what the network needs counts: a
multiply-add of a convolution or dense layer is two operations, and training does each three times, once forward and
twice backward. Recomputation, normalisation and the optimizer are work that does not count, so that they lower the share.

The compiler's own count (`cost_analysis`) is not used: a loop over steps or over parts of a batch counts once whatever
its length, and the bytes it states grow with the size of a resident data set of which a step reads one batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Peak:
    """Operations a second of one device, dense, as its maker publishes them; None: not published."""

    float32: float | None  # as JAX multiplies float32 by default: TensorFloat-32 from Ampere on, one bfloat16 pass on TPUs
    bfloat16: float | None


def _tpu(chip: float, devices: int = 1) -> Peak:
    """A chip's published peak, over the number of devices that JAX sees in it."""
    return Peak(chip / devices, chip / devices)


# By `device_kind`, whole: cut-down variants (laptops, MIG slices) share the first words of their names.
PEAKS: Mapping[str, Peak] = {
    # NVIDIA H100 Tensor Core GPU Architecture, 2022, table of H100 SXM5 and PCIe.
    "NVIDIA H100 80GB HBM3": Peak(494.7e12, 989.4e12),
    "NVIDIA H100 PCIe": Peak(378e12, 756e12),
    # NVIDIA H100 and H200 data sheets, halved: they state 2:4 sparsity.
    "NVIDIA H100 NVL": Peak(417.5e12, 835.5e12),
    "NVIDIA H200": Peak(494.5e12, 989.5e12),
    "NVIDIA H200 NVL": Peak(417.5e12, 835.5e12),
    # NVIDIA A100 data sheet, 2020 and 2021: the same for all forms; older drivers leave the maker out.
    "A100-SXM4-40GB": Peak(156e12, 312e12),
    "NVIDIA A100-SXM4-40GB": Peak(156e12, 312e12),
    "NVIDIA A100-SXM4-80GB": Peak(156e12, 312e12),
    "NVIDIA A100-PCIE-40GB": Peak(156e12, 312e12),
    "NVIDIA A100 80GB PCIe": Peak(156e12, 312e12),
    # NVIDIA V100 data sheet, 2020: single precision; its tensor cores know neither TensorFloat-32 nor bfloat16.
    "Tesla V100-SXM2-16GB": Peak(15.7e12, None),
    "Tesla V100-SXM2-32GB": Peak(15.7e12, None),
    "Tesla V100-PCIE-16GB": Peak(14.0e12, None),
    "Tesla V100-PCIE-32GB": Peak(14.0e12, None),
    # NVIDIA T4 data sheet, 2019: likewise.
    "Tesla T4": Peak(8.1e12, None),
    # NVIDIA L4 data sheet, 2023, halved: 120 and 242 with sparsity.
    "NVIDIA L4": Peak(60e12, 121e12),
    # NVIDIA A10G data sheet (AWS), 2022; not the A10's.
    "NVIDIA A10G": Peak(35e12, 70e12),
    # NVIDIA Ampere GA102 and Ada GPU Architecture, appendix A, bfloat16 with float32 accumulation.
    "NVIDIA GeForce RTX 3090": Peak(35.6e12, 71e12),
    "NVIDIA GeForce RTX 4090": Peak(82.6e12, 165.2e12),
    # Google Cloud TPU documentation, "TPU architecture", a page a version; of v2 and v3 JAX sees the two cores of a chip.
    "TPU v2": _tpu(45e12, devices=2),
    "TPU v3": _tpu(123e12, devices=2),
    "TPU v4": _tpu(275e12),
    "TPU v5 lite": _tpu(197e12),
    "TPU v5e": _tpu(197e12),
    "TPU v5": _tpu(459e12),
    "TPU v5p": _tpu(459e12),
    "TPU v6 lite": _tpu(918e12),
    "TPU v6e": _tpu(918e12),
}


def peak_operations(device_kind: str, compute: str) -> float | None:
    """Operations a second of one device with activations of dtype `compute`; None: not known."""
    return getattr(PEAKS.get(device_kind), compute, None)


def training_operations(multiply_adds: int) -> int:
    """Operations that training on one image needs, of a network whose forward pass has `multiply_adds`."""
    return 3 * 2 * multiply_adds


def model_flops_utilization(images_per_second: float, peak_rate: float | None) -> float | None:
    """The share, 0 to 1, of `peak_rate`, images a second of all devices at their peak; None: not known."""
    return None if peak_rate is None else images_per_second / peak_rate
