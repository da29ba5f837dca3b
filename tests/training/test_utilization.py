"""The share of the devices' peak: looked up, computed by hand, logged where the device is known and nowhere else."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from resflax.build import build
from resflax.config import ModelConfig
from resflax.files import Workdir, read_lines
from resflax.train import train_and_evaluate
from resflax.training.utilization import (
    PEAKS,
    Peak,
    model_flops_utilization,
    peak_operations,
    training_operations,
)
from tests import micro

# Paper in hand: stem 3x3x3x4 on 8x8, a block of width 4 on 8x8, of 8 on 4x4 and of 16 on 2x2 (two 3x3 convolutions each,
# shortcuts without parameters), then 16 x 5 classes.
MULTIPLY_ADDS = 64 * (27 * 4) + 64 * (2 * 36 * 4) + 16 * (36 * 8 + 72 * 8) + 4 * (72 * 16 + 144 * 16) + 16 * 5


@pytest.mark.parametrize(
    ("kind", "compute", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", "float32", 156e12),
        ("Tesla T4", "float32", 8.1e12),
        ("Tesla T4", "bfloat16", None),  # it has none
        ("TPU v3", "float32", 61.5e12),  # a core, of which a chip has two
        ("TPU v6 lite", "bfloat16", 918e12),
        ("NVIDIA H100 80GB HBM3", "float64", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16", None),  # a seventh of it
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "float32", None),
        ("cpu", "float32", None),
    ],
)
def test_peaks(kind, compute, peak):
    assert peak_operations(kind, compute) == peak


def test_published_peaks_are_in_operations_a_second_and_half_precision_is_never_slower():
    for kind, peak in PEAKS.items():
        assert 1e12 < peak.float32 < 1e15, kind
        assert peak.bfloat16 is None or peak.float32 <= peak.bfloat16 < 1e15, kind
        if peak.bfloat16 is not None and "NVIDIA" in kind:  # TensorFloat-32 runs at half the rate, to what is printed
            assert peak.bfloat16 / peak.float32 == pytest.approx(2, rel=0.02), kind


def test_utilization_by_hand():
    """ResNet-50's 4.089 G multiply-adds at 2,500 images a second on one A100 in bfloat16: 61.3 of 312 TFLOP/s."""
    operations = training_operations(4_089_000_000)
    assert operations == 24_534_000_000
    assert model_flops_utilization(2500, 312e12 / operations) == pytest.approx(0.19659, rel=1e-4)
    assert model_flops_utilization(2500, None) is None


@pytest.fixture
def known(monkeypatch):
    """This machine's devices, as if their maker had published peaks."""
    kind = jax.devices()[0].device_kind
    assert kind not in PEAKS
    monkeypatch.setattr("resflax.training.utilization.PEAKS", {kind: Peak(float32=2e9, bfloat16=4e9)})


def test_the_rate_at_the_peak_is_of_all_devices_and_all_blocks(known, tmp_path):
    config = micro.config(micro.write_npz(tmp_path))
    assert build(config, jax.devices()[:1]).peak_rate == pytest.approx(2e9 / (6 * MULTIPLY_ADDS))
    assert build(config, jax.devices()[:2]).peak_rate == pytest.approx(4e9 / (6 * MULTIPLY_ADDS))
    half = dataclasses.replace(config, precision=dataclasses.replace(config.precision, compute="bfloat16"))
    assert build(half, jax.devices()[:1]).peak_rate == pytest.approx(4e9 / (6 * MULTIPLY_ADDS))
    rates = [
        build(
            dataclasses.replace(config, model=ModelConfig("cifar_resnet32", {"width": 4, **layout})), jax.devices()[:1]
        ).peak_rate
        for layout in ({}, {"repeat": "scan"})
    ]
    assert rates[0] == rates[1] < 2e9 / (6 * MULTIPLY_ADDS)


def run(tmp_path, monkeypatch):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    monkeypatch.setattr("resflax.training.sharding.make_mesh", lambda devices=None: mesh)
    config = micro.config(micro.write_npz(tmp_path))
    norm = dataclasses.replace(config.batch_norm, reestimate=False)  # as in tests/test_reproduce.py: one compilation
    train_and_evaluate(dataclasses.replace(config, batch_norm=norm), str(tmp_path / "run"))
    files = Workdir(tmp_path / "run")
    return [line for line in read_lines(files.metrics) if "train_loss" in line], json.loads(files.result.read_text())


def test_a_known_device_is_logged_with_its_share(known, tmp_path, monkeypatch):
    lines, record = run(tmp_path, monkeypatch)
    assert [line["step"] for line in lines] == list(range(5, 41, 5))
    for one in (*lines, record):
        share = one["images_per_second"] * 6 * MULTIPLY_ADDS / 2e9
        assert one["model_flops_utilization"] == pytest.approx(share)


def test_an_unknown_device_has_none(tmp_path, monkeypatch):
    lines, record = run(tmp_path, monkeypatch)
    assert len(lines) == 8
    assert not any("model_flops_utilization" in line for line in lines)
    assert record["model_flops_utilization"] is None
