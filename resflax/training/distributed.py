"""Many hosts: one process a host runs the same program; process 0 alone writes logs and records."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from resflax.errors import ConfigError, StorageError, TemporaryError
from resflax.files import storage, write_bytes
from resflax.training.moments import phase


class Job(NamedTuple):
    """What JAX must know; `coordinator_address` is "HOST:PORT" of process 0."""

    coordinator_address: str
    num_processes: int
    process_id: int


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None, silence: float = 60) -> None:
    """Joins the processes of a job; does nothing for a single one. Call it before any device is used.

    The three arguments say it all, `coordinator` being "HOST:PORT" of process 0. Without them the environment is asked:
    first JAX_NUM_PROCESSES, JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID (or, in a pod of an Indexed Job,
    JOB_COMPLETION_INDEX), then SLURM, Open MPI and the variables or the metadata of a TPU pod, where JAX finds the rest.

    After `silence` seconds without a word from a process `resflax.training.watchdog` ends the others; JAX does later.

    Raises `ConfigError` when what is said is wrong or incomplete, `TemporaryError` when the job does not come together.
    """
    if jax.distributed.is_initialized():
        return
    flags = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    variables = _variables()
    if any(value is not None for value in flags.values()):
        job = _complete(flags)
    elif variables.get("JAX_NUM_PROCESSES") is None and (scheduler := _scheduler()):
        _join(None, silence, f", as {scheduler} says that there are several")
        return
    elif variables:
        job = _complete(variables)
    else:
        return
    if job.num_processes > 1:
        _join(job, silence)


def _variables() -> dict[str, str | None]:
    """What JAX's variables say, if anything; the index of a pod is set by Kubernetes."""
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if not any(os.environ.get(name) for name in names):
        return {}
    if not os.environ.get("JAX_PROCESS_ID") and "JOB_COMPLETION_INDEX" in os.environ:
        names = (*names[:2], "JOB_COMPLETION_INDEX")
    return {name: os.environ.get(name) or None for name in names}


def _complete(given: Mapping[str, str | int | None]) -> Job:
    """The job that three named values say: address, number, index; of a single process the number is enough."""
    (address_name, address), (number_name, number), (index_name, index) = given.items()
    if number is not None and _whole(number_name, number, 1) == 1:
        return Job("", 1, 0)
    if address is None or number is None or index is None:
        missing = " and no ".join(name for name, value in given.items() if value is None)
        raise ConfigError(f"{', '.join(given)} must be given together, got no {missing}; give all three, or none")
    host, _, port = str(address).rpartition(":")
    if not (host and port.isdecimal()):
        raise ConfigError(f"{address_name} must read HOST:PORT, got {address!r}; name process 0 and a port that is free there")
    job = Job(str(address), _whole(number_name, number, 1), _whole(index_name, index, 0))
    if job.process_id >= job.num_processes:
        raise ConfigError(f"{index_name} must be less than {number_name}, got {index} of {number}; count from 0")
    return job


def _whole(name: str, value: str | int, least: int) -> int:
    if not str(value).isdecimal() or int(value) < least:
        raise ConfigError(f"{name} must be a whole number, at least {least}, got {value!r}; correct it")
    return int(value)


def _join(job: Job | None, silence: float, because: str = "") -> None:
    """Calls JAX, which finds a job that is not given."""
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from `resflax.training.signals`
    patience = int(min(max(100, 2 * silence), 1e6))  # JAX's way to end a process is abort: it comes second
    try:
        if job is None:
            jax.distributed.initialize(heartbeat_timeout_seconds=patience)
        else:
            # JAX still finds out which GPU of the host is meant; in a pod it would ask the API server for nothing.
            detection = "deactivate" if "KUBERNETES_SERVICE_HOST" in os.environ else None
            jax.distributed.initialize(*job, cluster_detection_method=detection, heartbeat_timeout_seconds=patience)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        # JAX raises ValueError where the environment does not say who the others are, else they were not there in time.
        kind = ConfigError if isinstance(error, ValueError) else TemporaryError
        raise kind(
            f"the processes must find each other{because}, but {reason}; check the coordinator's address, or give "
            "--coordinator, --num_processes and --process_id"
        ) from error


def _scheduler() -> str | None:
    """What says that this process is one of several that JAX can find by itself; None for a single process."""
    # Not SLURM_NTASKS: an allocation has it too, where a program started without srun is alone and would wait for ever.
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES"):
        count = os.environ.get(name, "1")
        if count.isdecimal() and int(count) > 1:
            return name
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if name in os.environ:
            return name if "," in os.environ[name] else None
    return "the metadata of the TPU VM" if _in_tpu_pod() else None


def _in_tpu_pod() -> bool:
    """Whether a Cloud TPU VM is one of several; asks its metadata server, and nobody on other machines."""
    if "TPU_SKIP_MDS_QUERY" in os.environ:  # JAX sets it where it finds no TPU chip
        return False
    from jax._src.clusters import GceTpuCluster  # JAX says it nowhere in public

    try:
        return GceTpuCluster.is_env_present() and GceTpuCluster.get_process_count() > 1
    except OSError as error:
        raise ConfigError(
            f"the metadata server of the TPU VM must answer, but {error}; where there is none, set TPU_SKIP_MDS_QUERY=1"
        ) from error


def is_primary() -> bool:
    """Whether this process writes."""
    return jax.process_index() == 0


def from_primary(value: int) -> int:
    """Process 0's value, on every process."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    with phase("wait"):
        return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


class Agreement(NamedTuple):
    """What all processes know after a chunk of steps."""

    signal: int  # the highest number that any process received, 0: none
    pace: int  # process 0's
    host_seconds: np.ndarray  # float[processes]


def agree(signal: int, pace: int = 0, host_seconds: float = 0.0) -> Agreement:
    """Gathers what each process says, so that all take the same next step."""
    gathered = np.array([[signal, pace, host_seconds]], np.float32)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        with phase("wait"):
            gathered = multihost_utils.process_allgather(gathered[0])
    return Agreement(int(gathered[:, 0].max()), int(gathered[0, 1]), gathered[:, 2])


def total(value: int) -> int:
    """The sum, modulo 2^64, of a number of each process."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    halves = np.array([value], np.uint64).view(np.uint32)  # JAX would cut 64 bits to 32
    with phase("wait"):
        gathered = np.asarray(multihost_utils.process_allgather(halves), np.uint32)  # [processes, 2]
    return int(gathered.view(np.uint64).sum(dtype=np.uint64))


def anywhere(flag: bool) -> bool:
    """Whether `flag` is true on any process; all must ask."""
    return bool(agree(int(flag)).signal)


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
