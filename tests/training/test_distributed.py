"""What the environment says about the other processes of a job; JAX is asked, nothing is started."""

import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import jax
import pytest
from jax._src.clusters import ClusterEnv, cloud_tpu_cluster

from resflax.errors import ConfigError, TemporaryError
from resflax.training.distributed import initialize

ADDRESS = "host-0:1234"
PATIENCE = {"heartbeat_timeout_seconds": 120}
POD = {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": ADDRESS, "JOB_COMPLETION_INDEX": "1"}


@pytest.fixture
def join(monkeypatch):
    """Calls `initialize` in a given environment; returns the arguments that JAX gets, or None."""
    for name in os.environ:
        if name.startswith(("JAX_COORD", "JAX_NUM", "JAX_PROC", "SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "KUBE", "JOB_")):
            monkeypatch.delenv(name)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *job, **options: calls.append((job, options)))

    def run(environment, *flags):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        initialize(*(flags or (None, None, None)))
        return calls[0] if calls else None

    return run


@pytest.fixture
def tpu_vm(monkeypatch):
    """Makes this a Cloud TPU VM whose metadata server answers with the given attributes; returns the list of questions."""
    servers = []

    def start(**attributes):
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path.rpartition("/")[2])
                found = attributes.get(asked[-1].replace("-", "_"))
                self.send_response(404 if found is None else 200)
                self.end_headers()
                self.wfile.write((found or "").encode())

            def log_message(self, *_):
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[0].serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{servers[0].server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # JAX repeats questions
        return asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"JOB_COMPLETION_INDEX": "0"},
        {"JOB_COMPLETION_INDEX": "3", "KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {"JAX_NUM_PROCESSES": "1", "JOB_COMPLETION_INDEX": "0"},
        {**POD, "JAX_NUM_PROCESSES": "1", "JOB_COMPLETION_INDEX": "0"},
        {"JAX_NUM_PROCESSES": "", "JAX_COORDINATOR_ADDRESS": "", "JAX_PROCESS_ID": ""},
        {"JAX_NUM_PROCESSES": "1", "SLURM_STEP_NUM_TASKS": "2"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {"TPU_WORKER_HOSTNAMES": "", "MEGASCALE_NUM_SLICES": "1"},
        {"TPU_PROCESS_ADDRESSES": "local", "TPU_WORKER_HOSTNAMES": "a,b"},
    ],
    ids=repr,
)
def test_one_process_stays_alone(join, environment):
    assert join(environment) is None


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_STEP_NUM_TASKS": "2"},
        {"SLURM_STEP_NUM_TASKS": "2", "JAX_COORDINATOR_ADDRESS": ADDRESS},  # JAX takes the address, and SLURM's numbers
        {"OMPI_COMM_WORLD_SIZE": "2"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
        {"TPU_WORKER_HOSTNAMES": "a,b", "KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"},
        {"TPU_PROCESS_ADDRESSES": "a:8476,b:8476"},
        {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"},
    ],
    ids=repr,
)
def test_what_jax_finds_by_itself_is_left_to_it(join, environment):
    assert join(environment) == ((), PATIENCE)


@pytest.mark.parametrize(
    ("environment", "index"),
    [
        (POD, 1),
        ({**POD, "JAX_PROCESS_ID": "0"}, 0),
        ({**POD, "JAX_PROCESS_ID": ""}, 1),
        ({**POD, "SLURM_STEP_NUM_TASKS": "8", "TPU_WORKER_HOSTNAMES": "a,b"}, 1),
    ],
    ids=repr,
)
def test_variables_say_it_all(join, environment, index):
    assert join(environment) == ((ADDRESS, 2, index), {"cluster_detection_method": None, **PATIENCE})


def test_in_a_pod_nobody_asks_the_api_server(join):
    job, options = join({**POD, "KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert (job, options) == ((ADDRESS, 2, 1), {"cluster_detection_method": "deactivate", **PATIENCE})


def test_flags_win_over_the_environment(join):
    environment = {**POD, "SLURM_STEP_NUM_TASKS": "8", "TPU_WORKER_HOSTNAMES": "a,b"}
    assert join(environment, "other:1", 4, 3)[0] == ("other:1", 4, 3)


def test_flags_of_one_process_win_too(join):
    assert join(POD, "other:1", 1, 0) is None


@pytest.mark.parametrize(
    ("environment", "flags", "says"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, (), "got no JAX_COORDINATOR_ADDRESS and no JAX_PROCESS_ID; give"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, (), "got no JAX_COORDINATOR_ADDRESS; give"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": ADDRESS}, (), "got no JAX_PROCESS_ID; give"),
        ({"JAX_COORDINATOR_ADDRESS": ADDRESS, "JOB_COMPLETION_INDEX": "1"}, (), "got no JAX_NUM_PROCESSES; give"),
        ({"JAX_PROCESS_ID": "1"}, (), "got no JAX_COORDINATOR_ADDRESS and no JAX_NUM_PROCESSES; give"),
        ({**POD, "JAX_NUM_PROCESSES": "two"}, (), "JAX_NUM_PROCESSES must be a whole number, at least 1, got 'two'"),
        ({**POD, "JAX_NUM_PROCESSES": "0"}, (), "JAX_NUM_PROCESSES must be a whole number, at least 1, got '0'"),
        ({**POD, "JAX_COORDINATOR_ADDRESS": "host-0"}, (), "JAX_COORDINATOR_ADDRESS must read HOST:PORT, got 'host-0'"),
        ({**POD, "JAX_COORDINATOR_ADDRESS": ":12"}, (), "JAX_COORDINATOR_ADDRESS must read HOST:PORT, got ':12'"),
        ({**POD, "JAX_PROCESS_ID": "-1"}, (), "JAX_PROCESS_ID must be a whole number, at least 0, got '-1'"),
        ({**POD, "JOB_COMPLETION_INDEX": "2"}, (), "JOB_COMPLETION_INDEX must be less than JAX_NUM_PROCESSES, got 2 of 2"),
        ({}, ("host", 2, 0), "--coordinator must read HOST:PORT, got 'host'"),
        ({}, (ADDRESS, 2, 2), "--process_id must be less than --num_processes, got 2 of 2"),
        ({}, (ADDRESS, 2, -1), "--process_id must be a whole number, at least 0, got -1"),
        ({}, (ADDRESS, 0, 0), "--num_processes must be a whole number, at least 1, got 0"),
        (POD, (ADDRESS, None, None), "got no --num_processes and no --process_id; give"),
    ],
)
def test_what_is_wrong_is_named(join, environment, flags, says):
    with pytest.raises(ConfigError) as caught:
        join(environment, *flags)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"SLURM_STEP_NUM_TASKS": "2"}, "find each other, as SLURM_STEP_NUM_TASKS says that there are several, but no host"),
        (POD, "the processes must find each other, but no host; check the coordinator's address"),
    ],
)
@pytest.mark.parametrize(("raised", "kind", "code"), [(RuntimeError, TemporaryError, 75), (ValueError, ConfigError, 2)])
def test_processes_that_do_not_meet_are_told_why_they_were_sought(join, monkeypatch, environment, says, raised, kind, code):
    def fail(*job, **options):
        raise raised("no host.\nTraceback of another process")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(kind) as caught:
        join(environment)
    assert says in str(caught.value)
    assert caught.value.exit_code == code


def found_by_jax():
    """Address, number and index, as `jax.distributed.initialize()` finds them."""
    return ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 5)[:3]


def test_a_tpu_pod_is_known_from_its_metadata(join, tpu_vm):
    tpu_vm(agent_worker_number="1", worker_network_endpoints="127.0.0.1,10.0.0.2", tpu_env="ZONE: 'z'")
    assert join({}) == ((), PATIENCE)
    assert found_by_jax() == ("127.0.0.1:8482", 2, 1)


def test_slices_of_one_host_are_known_from_their_metadata(join, tpu_vm):
    slices = "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '127.0.0.1:8080'"
    tpu_vm(agent_worker_number="0", worker_network_endpoints="127.0.0.2", tpu_env=slices)
    assert join({}) == ((), PATIENCE)
    assert found_by_jax() == ("127.0.0.1:8482", 2, 1)


@pytest.mark.parametrize(
    "attributes",
    [{"agent_worker_number": "0", "worker_network_endpoints": "127.0.0.1", "tpu_env": ""}, {}],
    ids=["Cloud TPU", "Compute Engine"],
)
def test_a_tpu_vm_with_one_host_stays_alone(join, tpu_vm, attributes):
    asked = tpu_vm(**attributes)
    assert join({}) is None
    assert asked


@pytest.mark.parametrize(
    "environment",
    [{"TPU_SKIP_MDS_QUERY": "1"}, {"TPU_WORKER_HOSTNAMES": "localhost"}, POD, {"SLURM_STEP_NUM_TASKS": "2"}],
    ids=repr,
)
def test_metadata_are_not_asked_for_what_variables_say(join, tpu_vm, environment):
    asked = tpu_vm(agent_worker_number="1", worker_network_endpoints="127.0.0.1,10.0.0.2", tpu_env="")
    join(environment)
    assert not asked


def test_an_ordinary_machine_asks_nobody(join, tpu_vm, monkeypatch):
    asked = tpu_vm(agent_worker_number="1", worker_network_endpoints="127.0.0.1,10.0.0.2", tpu_env="")
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", False)
    assert join({}) is None
    assert not asked


def test_a_tpu_vm_without_metadata_server_says_so(join, tpu_vm, monkeypatch):
    tpu_vm()
    monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:1")
    with pytest.raises(ConfigError, match="set TPU_SKIP_MDS_QUERY=1"):
        join({})


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({"TPU_WORKER_HOSTNAMES": "127.0.0.1,b", "TPU_WORKER_ID": "1"}, ("127.0.0.1:8482", 2, 1)),
        (
            {
                "TPU_WORKER_HOSTNAMES": "c,d",
                "TPU_WORKER_ID": "1",
                "MEGASCALE_NUM_SLICES": "2",
                "MEGASCALE_SLICE_ID": "1",
                "MEGASCALE_COORDINATOR_ADDRESS": "127.0.0.1",
            },
            ("127.0.0.1:8482", 4, 3),
        ),
    ],
    ids=["one slice", "two slices"],
)
def test_jax_finds_the_processes_of_a_tpu_on_gke(join, tpu_vm, environment, job):
    tpu_vm()
    assert join(environment) == ((), PATIENCE)
    assert found_by_jax() == job
