"""Re-estimated statistics are the mean over all batches of what each batch's activations have, computed directly."""

import dataclasses

import jax
import numpy as np
import pytest

from resflax.build import build
from resflax.config import BatchNormConfig
from tests import micro


@pytest.mark.parametrize("variance", ["biased", "unbiased"])
@pytest.mark.parametrize("group", [4, pytest.param(8, marks=pytest.mark.long)])
def test_reestimation_is_a_direct_computation(group, variance, tmp_path):
    config = micro.config(
        micro.write_npz(tmp_path), batch_norm=BatchNormConfig(group_size=group, running_variance=variance, reestimate=True)
    )
    run = build(dataclasses.replace(config, optim=dataclasses.replace(config.optim, accumulate=1)), jax.devices()[:1])
    params = run.initial_state().params
    found = run.reestimate(params)
    inputs = {
        "stem_norm": "stem_conv",
        "stage1/block1/norm1": "stage1/block1/conv1",
        "stage3/block1/norm2": "stage3/block1/conv2",
    }
    sums = {name: [] for name in inputs}
    host_batch, resident = run.train.training_batches(), run.resident(run.train)
    for step in range(60 // 8):
        images = run.train.materialise(host_batch(step), resident)["image"]
        variables = {"params": params, "batch_stats": run.initial_state().batch_stats}
        _, changed = run.model.apply(
            variables, images, train=True, mutable=["batch_stats", "intermediates"], capture_intermediates=True
        )
        for norm, conv in inputs.items():
            node = changed["intermediates"]
            for part in conv.split("/"):
                node = node[part]
            activations = np.asarray(node["__call__"][0], np.float64)
            groups = activations.reshape(len(images) // group, -1, activations.shape[-1])
            sums[norm].append((groups.mean(axis=1).mean(axis=0), groups.var(axis=1, ddof=variance == "unbiased").mean(axis=0)))
    for norm, values in sums.items():
        node = found
        for part in norm.split("/"):
            node = node[part]
        mean, var = (np.mean(one, axis=0) for one in zip(*values, strict=True))
        np.testing.assert_allclose(node["mean"], mean, atol=1e-6)
        np.testing.assert_allclose(node["var"], var, rtol=1e-5)
