"""One mesh axis, `data`: batches are split over it, everything else is on every device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resflax.errors import ConfigError
from resflax.types import Tree


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices`; None: all there are."""
    return Mesh(np.asarray(devices if devices is not None else jax.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def shard_batch(batch: Tree, mesh: Mesh) -> Tree:
    """Inside `jit`: keeps the first axis of every leaf split over the devices."""
    return jax.lax.with_sharding_constraint(batch, batch_sharded(mesh))


def put(tree: Tree, sharding: NamedSharding) -> Any:
    """Moves host arrays onto the devices."""
    return jax.device_put(tree, sharding)


def local_rows(batch_size: int) -> tuple[int, int]:
    """The rows, start and stop, of a global batch that this process feeds: its contiguous share."""
    share = batch_size // jax.process_count()
    return jax.process_index() * share, (jax.process_index() + 1) * share


def put_rows(batch: Tree, sharding: NamedSharding) -> Any:
    """Moves this process' rows of a batch onto its devices and returns the global arrays."""
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def check_mesh(key: str, batch_size: int, group_size: int | None, mesh: Mesh) -> None:
    """Raises `ConfigError` unless a batch, and its statistics groups, fall evenly onto the devices.

    Of the number of groups and the number of devices one must divide the other: a group that spans part of two devices
    makes every device gather the whole batch.
    """
    devices = mesh.size
    if batch_size % devices:
        raise ConfigError(f"{key} must be a multiple of the {devices} devices, got {batch_size}; change the batch size")
    groups = batch_size // group_size if group_size else 1
    if groups % devices and devices % groups:
        raise ConfigError(
            f"of the {groups} statistics groups ({key} / config.batch_norm.group_size = {batch_size} / {group_size}) and "
            f"the {devices} devices one must divide the other; change the batch size or the group"
        )
