"""Many hosts: one process a host runs the same program; process 0 alone writes logs and records."""

from __future__ import annotations

import os
import secrets

import jax
import numpy as np
from etils import epath

from resflax.errors import ConfigError, StorageError
from resflax.files import storage, write_bytes


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the processes of a job; does nothing for a single one. Call it before any device is used.

    With `coordinator` ("HOST:PORT", the address of process 0) the three arguments say it all. Without it the environment is
    asked; a SLURM step, Open MPI and a TPU pod are recognised, and JAX finds the rest there.

    Raises `ConfigError` when only some of the three are given, or the job does not come together.
    """
    if jax.distributed.is_initialized():
        return
    given = (coordinator, num_processes, process_id)
    if all(value is None for value in given):
        if not _environment_has_peers():
            return
    elif any(value is None for value in given):
        raise ConfigError("--coordinator, --num_processes and --process_id must be given together; give all three, or none")
    elif not 0 <= (process_id or 0) < (num_processes or 0):
        raise ConfigError(f"--process_id must be in 0..num_processes - 1, got {process_id} of {num_processes}")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"the processes must find each other, but {reason}; check the coordinator's address") from error


def _environment_has_peers() -> bool:
    """Whether a scheduler says that this process is one of several."""
    # Not SLURM_NTASKS: an allocation has it too, where a program started without srun is alone and would wait for ever.
    counts = [os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")]
    if any(count.isdecimal() and int(count) > 1 for count in counts):
        return True
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def is_primary() -> bool:
    """Whether this process writes."""
    return jax.process_index() == 0


def from_primary(value: int) -> int:
    """Process 0's value, on every process."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def agree(signal: int, pace: int) -> tuple[int, int]:
    """The highest signal number any process received, and process 0's pace: all must take the same next step."""
    if jax.process_count() == 1:
        return signal, pace
    from jax.experimental import multihost_utils

    gathered = multihost_utils.process_allgather(np.array([signal, pace], np.int32))
    return int(gathered[:, 0].max()), int(gathered[0, 1])


def check_shared(root: epath.Path) -> None:
    """Raises `StorageError` on each process that does not see what process 0 writes to `root`."""
    if jax.process_count() == 1:
        return
    nonce = from_primary(secrets.randbelow(2**31))
    marker = root / ".shared"
    if is_primary():
        write_bytes(marker, str(nonce).encode())
    from_primary(0)  # everybody has come this far, so the marker is written
    with storage("read", marker):
        seen = marker.read_text() if marker.exists() else None
    if seen != str(nonce):
        raise StorageError(f"{root} must be storage that all hosts share, but process {jax.process_index()} sees another one")
    from_primary(0)
    if is_primary():
        marker.unlink()
