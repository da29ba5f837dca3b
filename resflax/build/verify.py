"""Confirms or refutes a record by replaying its first steps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from resflax.build.run import Run, build
from resflax.config import Config, config_hash, from_dict
from resflax.training.progress import Progress

STEPS = 20  # that are compared where the hardware is another one
# How far apart, relative, the losses of those steps may be. Rounding differs between devices and between numbers of cores, and
# training amplifies it; TensorFloat-32 of GPUs begins at about 1e-3.
SAME_DEVICE, OTHER_DEVICE = 1e-3, 1e-2


def verify(record: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Replays the first steps of a run on one device.

    Args:
      record: the content of `result.json`.
      config: the record's, its data found where they are here.

    Returns:
      `confirmed`; `reason`, a sentence; and where steps were run `steps`, `exact` (all losses equal bit for bit), `deviation`
      (the largest relative one of the first steps) and `tolerance`.
    """
    recorded = np.asarray(record["first_losses"], np.float32)
    digest = Progress(first_losses=list(record["first_losses"])).loss_digest()
    if config_hash(from_dict(record["config"])) != record["config_hash"]:
        return _refuted("the configuration is not the one whose hash the record states")
    if digest != record["loss_digest"]:
        return _refuted("the losses are not those whose digest the record states")
    run = build(config, jax.devices()[:1])
    if run.fingerprint != record["dataset_fingerprint"]:
        return _refuted(f"the data have the fingerprint {run.fingerprint}, the record's had {record['dataset_fingerprint']}")
    if (run.init or {}).get("digest") != record.get("init", {}).get("digest"):
        return _refuted(f"the weights of config.init.weights={config.init.weights} are not those that the record names")
    if run.teacher is not None and run.teacher.provenance["digest"] != record["distill"]["digest"]:
        return _refuted(f"the teacher of config.distill.weights={config.distill.weights} is not the one that the record names")
    losses = np.asarray(_replay(run, len(recorded), set(record.get("skipped_steps", ()))), np.float32)
    exact = np.array_equal(losses, recorded)
    compared = min(STEPS, len(losses), len(recorded))
    deviation = float(np.max(np.abs(losses[:compared] / recorded[:compared] - 1)))
    tolerance = SAME_DEVICE if record["device"] == jax.devices()[0].device_kind else OTHER_DEVICE
    about = {"steps": len(losses), "exact": exact, "deviation": deviation, "tolerance": tolerance}
    if exact:
        return {"confirmed": True, "reason": f"all {len(losses)} losses are equal bit for bit", **about}
    if len(losses) == len(recorded) and deviation <= tolerance:
        return {"confirmed": True, "reason": f"the first {compared} losses agree within the tolerance", **about}
    return {**_refuted(f"the first {compared} losses differ by up to {deviation:.2g}, more than {tolerance:g}"), **about}


def _replay(run: Run, updates: int, skipped: set[int]) -> list[float]:
    """The losses of the first updates, those steps left out that the run left out."""
    state = run.initial_state()
    chunk = run.compile_chunk(state, fused=False)
    steps = (step for step in range(run.total_steps) if step + 1 not in skipped)
    losses = []
    for step in itertools.islice(steps, updates):
        state, reports = chunk(state, step, step + 1)
        losses.append(float(reports.loss[0]))
    return losses


def _refuted(reason: str) -> dict[str, Any]:
    return {"confirmed": False, "reason": reason}
