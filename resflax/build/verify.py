"""Confirms or refutes a record by replaying its first steps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from resflax.build.run import Run, build
from resflax.config import Config, config_hash, from_dict
from resflax.training.chunk import RunChunk
from resflax.training.progress import Progress
from resflax.training.state import TrainState

STEPS = 20  # the most that are compared where losses are not equal bit for bit
# How far apart, relative, the losses of steps may be that rounding does not decide yet; TensorFloat-32 of GPUs begins at 1e-3.
SAME_DEVICE, OTHER_DEVICE = 1e-3, 1e-2


def verify(record: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Replays the first steps of a run on one device.

    Args:
      record: the content of `result.json`.
      config: the record's, its data found where they are here.

    Returns:
      `confirmed`; `reason`, a sentence; and where steps were run `steps`, `exact` (all losses equal bit for bit), `compared`,
      how many of them say something, `deviation`, the largest relative one of those, and `tolerance`.

    Processors of one kind round alike, others do not, and training amplifies it: in a deep network within a few steps. So the
    steps are run once more from weights that differ by a thousandth of the tolerance; what differs there by a tenth of it is
    decided by rounding and is not compared.
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
    skipped = set(record.get("skipped_steps", ()))
    chunk = run.compile_chunk(run.abstract_state(), fused=False)
    losses = _replay(run, chunk, run.initial_state(), len(recorded), skipped)
    exact, tolerance = np.array_equal(losses, recorded), OTHER_DEVICE
    if record["device"] == jax.devices()[0].device_kind:
        tolerance = SAME_DEVICE
    compared = most = min(STEPS, len(losses), len(recorded))
    if not exact:
        nearby = _replay(run, chunk, _nudged(run.initial_state(), tolerance / 1000), most, skipped)
        decided = np.abs(nearby / losses[:most] - 1) > tolerance / 10
        compared = max(1, int(np.argmax(decided))) if decided.any() else most
    deviation = float(np.max(np.abs(losses[:compared] / recorded[:compared] - 1)))
    about = {"steps": len(losses), "exact": exact, "compared": compared, "deviation": deviation, "tolerance": tolerance}
    if exact:
        return {"confirmed": True, "reason": f"all {len(losses)} losses are equal bit for bit", **about}
    first = "first loss differs" if compared == 1 else f"first {compared} losses differ"
    if len(losses) == len(recorded) and deviation <= tolerance:
        return {
            "confirmed": True,
            "reason": f"the {first} by no more than the tolerance, rounding decides those after",
            **about,
        }
    return {**_refuted(f"the {first} by up to {deviation:.2g}, more than {tolerance:g}"), **about}


def _replay(run: Run, chunk: RunChunk, state: TrainState, updates: int, skipped: set[int]) -> np.ndarray:
    """The losses of the first updates, float32[updates], those steps left out that the run left out."""
    steps = (step for step in range(run.total_steps) if step + 1 not in skipped)
    losses = []
    for step in itertools.islice(steps, updates):
        state, reports = chunk(state, step, step + 1)
        losses.append(float(reports.loss[0]))
    return np.asarray(losses, np.float32)


def _nudged(state: TrainState, size: float) -> TrainState:
    """`state` with each weight changed by about `size` of itself."""
    rng = np.random.default_rng(0)

    def nudge(leaf: jax.Array) -> jax.Array:
        changed = np.asarray(leaf) * (1 + size * rng.standard_normal(leaf.shape))
        return jax.device_put(changed.astype(leaf.dtype), leaf.sharding)

    return state.replace(params=jax.tree.map(nudge, state.params))


def _refuted(reason: str) -> dict[str, Any]:
    return {"confirmed": False, "reason": reason}
