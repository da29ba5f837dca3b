"""Launch files: their commands are what resflax understands, and where a cluster is played by stand-ins, they train."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest
import yaml

import resflax.benchmark
import resflax.train
from resflax import files
from resflax.bench.forms import FORMS
from resflax.bench.workload import Workload
from resflax.config import apply_overrides, load_config, validate
from resflax.config.files import load_experiment
from resflax.training import distributed
from tests.conftest import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = ("gpu.sh", "slurm.sh", "tpu.sh")
MANIFESTS = ("indexed_job.yaml", "jobset.yaml")
TINY = (
    "--config=quickstart",
    "--config.model.name=cifar_resnet8",
    "--config.model.kwargs.width=8",
    "--config.batch_norm.group_size=8",
    "--config.log_every_steps=1",
    "--config.eval_every_steps=0",
    "--config.total_steps=4",
)


class Machine:
    """A folder with programs that stand in for a cluster's; they come first in PATH, and write what they were told to `log`."""

    def __init__(self, folder):
        self.log, self.programs = folder / "log", folder / "bin"
        self.programs.mkdir()
        self.log.touch()
        own = ("SLURM_", "JAX_NUM", "JOB_", "TPU_NAME", "ZONE", "ACCELERATOR_TYPE", "RUNTIME_VERSION")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        self.environment = {
            **clean,
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "LOG": str(self.log),
        }
        self.add("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        for name in ("gcloud", "srun", "scontrol"):
            self.add(name, f'#!/bin/sh\necho {name} "$@" >> "$LOG"\n')

    def add(self, name, text):
        path = self.programs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *command, **variables):
        return subprocess.Popen(
            command, env={**self.environment, **variables}, cwd=self.log.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, *command, **variables):
        process = self.start(*command, **variables)
        output, errors = process.communicate(timeout=240)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def dry_run(self, *command):
        """The commands that a script would run, as words; none of them was run."""
        done = self.run(*command, DRY_RUN="1")
        assert (done.returncode, done.stderr, self.log.read_text()) == (0, "", "")
        return [shlex.split(line) for line in done.stdout.splitlines()]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def understood(monkeypatch):
    """What `resflax.train` makes of a command's words: the validated configuration and the workdir."""
    runs = []

    def note(*run):
        runs.append(run)
        return dict.fromkeys(resflax.train.SUMMARY)

    monkeypatch.setattr(resflax.train, "train_and_evaluate", note)
    monkeypatch.setattr(resflax.train, "prepare_jax", lambda float64: None)
    monkeypatch.setattr(distributed, "initialize", lambda *flags: None)

    def parse(words):
        assert words[:2] == ["-m", "resflax.train"]
        assert resflax.train.main(words[2:]) == 0
        return runs.pop()

    return parse


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def assert_one_job(workdir, steps=4):
    record = json.loads((workdir / "result.json").read_text())
    assert (record["process_count"], record["device_count"], record["steps"]) == (2, 4, steps)


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_executable_and_parses(script):
    assert os.access(LAUNCH / script, os.X_OK)
    assert subprocess.run(["bash", "-n", LAUNCH / script], capture_output=True).stderr == b""


def test_readme_shows_commands_that_are_understood(machine, understood):
    blocks = re.findall(r"```bash\n(.*?)```", (LAUNCH / "README.md").read_text(), re.DOTALL)
    models = []
    for words in (shlex.split(line, comments=True) for block in blocks for line in block.splitlines()):
        files = [index for index, word in enumerate(words) if word.startswith("launch/")]
        assert all((ROOT / words[index]).is_file() for index in files)
        if words[0] != "kubectl":
            commands = machine.dry_run("bash", str(ROOT / words[files[0]]), *words[files[0] + 1 :])
            if words[-1].startswith("--"):
                models.append(understood(train_words(commands[-1]))[0].model.name)
    assert models == ["cifar_resnet56", "cifar_resnet56", "cifar_resnet14"]


def train_words(command):
    """The words from `-m resflax.train` on, of a command of `srun` or within one of `gcloud`."""
    if command[0] == "gcloud":
        (remote,) = [word.removeprefix("--command=") for word in command if word.startswith("--command=")]
        words = shlex.split(remote)
        command = words[: words.index(">>")]
    return command[command.index("-m") :]


# SLURM


def test_slurm_runs_the_arguments_in_a_step(machine, understood):
    (command,) = machine.dry_run("bash", str(LAUNCH / "slurm.sh"), *TINY, "--workdir=a b/$c", "--config.seed=7")
    assert command[:2] == ["srun", "--kill-on-bad-exit=0"]
    config, workdir = understood(train_words(command))
    assert (config.seed, config.total_steps, workdir) == (7, 4, "a b/$c")


def test_slurm_has_a_task_for_each_gpu_and_time_to_save():
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE))
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert re.fullmatch(r"TERM@\d{3,}", options["signal"])
    assert options.keys() >= {"requeue", "time", "open-mode"}
    assert not options.keys() & {"gpus-per-task", "gpu-bind"}


@pytest.mark.parametrize(
    ("code", "starts", "again"),
    [*((code, 0, False) for code in (0, 1, 2, 65, 130)), (143, 0, True), (143, 99, True), (75, 19, True), (75, 20, False)],
)
def test_slurm_requeues_what_was_terminated_after_saving_and_some_times_what_hung(machine, code, starts, again):
    machine.add("srun", f"#!/bin/sh\nexit {code}\n")
    job = {"SLURM_JOB_ID": "321", "SLURM_CPUS_PER_TASK": "4"} | ({"SLURM_RESTART_COUNT": str(starts)} if starts else {})
    done = machine.run("bash", str(LAUNCH / "slurm.sh"), *TINY, **job)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
    assert machine.log.read_text() == ("scontrol requeue 321\n" if again else "")


def test_slurm_does_not_requeue_what_scancel_ends(machine):
    machine.add("srun", '#!/bin/sh\necho started >> "$LOG"\nsleep 2\nexit 143\n')
    job = machine.start("bash", str(LAUNCH / "slurm.sh"), *TINY, SLURM_JOB_ID="321")
    wait_for(lambda: "started" in machine.log.read_text(), job)
    os.killpg(job.pid, signal.SIGTERM)  # its own session: the shell and srun
    assert job.wait(timeout=10) == -signal.SIGTERM
    assert machine.log.read_text() == "started\n"


SRUN = """#!{python}
import os, subprocess, sys
command = [word for word in sys.argv[1:] if word != "--cpus-per-task=2" and word != "--kill-on-bad-exit=0"]
step = {{"SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"}}
tasks = [
    subprocess.Popen(command, env={{**os.environ, **step, "SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)}})
    for index in range(2)
]
with open(os.environ["LOG"], "a") as log:
    print(*(task.pid for task in tasks), file=log, flush=True)
sys.exit(max(task.wait() for task in tasks))
"""


def wait_for(condition, job):
    deadline = time.monotonic() + 120
    while not condition() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition(), "\n".join(job.communicate(timeout=60))


@pytest.mark.long
def test_slurm_trains_one_job_that_is_signalled_requeued_and_finished(machine, tmp_path):
    machine.add("srun", SRUN.format(python=sys.executable))
    workdir = tmp_path / "run"
    # JAX chooses the port 61440 + job % 4096.
    variables = {"SLURM_JOB_ID": str(os.getpid() % 4096), "SLURM_CPUS_PER_TASK": "2", "SLURM_NTASKS": "2"}
    command = ("bash", str(LAUNCH / "slurm.sh"), *TINY, f"--workdir={workdir}")
    command += ("--config.total_steps=100", "--config.checkpoint.every_steps=5")

    job = machine.start(*command, **variables)
    wait_for((workdir / "checkpoints" / "5" / "manifest.json").exists, job)
    for task in machine.log.read_text().split():  # as --signal=TERM does: the tasks, not the shell
        os.kill(int(task), signal.SIGTERM)
    _, errors = job.communicate(timeout=120)
    assert job.returncode == 143, errors
    assert machine.log.read_text().splitlines()[1:] == [f"scontrol requeue {variables['SLURM_JOB_ID']}"]
    assert not (workdir / "result.json").exists()

    done = machine.run(*command, **variables)
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stderr
    assert_one_job(workdir, steps=100)


# Cloud TPU


def test_tpu_pod_runs_the_same_command_on_all_workers(machine, understood):
    (command,) = machine.dry_run(str(LAUNCH / "tpu.sh"), "train", *TINY, "--workdir=gs://bucket/a b$c")
    assert command[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "resflax"]
    assert "--worker=all" in command
    config, workdir = understood(train_words(command))
    assert (config.total_steps, workdir) == (4, "gs://bucket/a b$c")


def test_tpu_other_actions(machine):
    script = str(LAUNCH / "tpu.sh")
    (create,) = machine.dry_run(script, "create", "--spot")
    assert create[4] == "create"
    assert create[-1] == "--spot"
    build, copy, install = machine.dry_run(script, "install")
    assert build[:4] == ["python", "-m", "pip", "wheel"]
    (wheel,) = [word for word in copy if word.endswith(".whl")]
    assert wheel == f"dist/resflax-{resflax.__version__}-py3-none-any.whl"
    (remote,) = [word.removeprefix("--command=") for word in install if word.startswith("--command=")]
    assert shlex.split(remote)[-1] == f"./{wheel.removeprefix('dist/')}[tpu,gcs]"
    for line in (copy, install):
        assert "--worker=all" in line
    (stop,) = machine.dry_run(script, "stop")
    pattern = shlex.split(stop[-1])[-1]
    assert re.match(pattern, "venv/bin/python -m resflax.train --workdir=x")
    assert not re.search(pattern, "bash -c " + stop[-1])  # the shell that looks for it
    assert machine.dry_run(script, "log")[0][4] == "ssh"
    assert machine.dry_run(script, "delete") == [shlex.split("gcloud compute tpus tpu-vm delete resflax --zone=us-west4-a")]


@pytest.mark.parametrize("arguments", [(), ("trian",)])
def test_tpu_says_how_it_is_used(machine, arguments):
    done = machine.run(str(LAUNCH / "tpu.sh"), *arguments)
    assert (done.returncode, done.stdout, machine.log.read_text()) == (2, "", "")
    assert done.stderr.count("launch/tpu.sh") == 5


GCLOUD = """#!{python}
import os, subprocess, sys
(command,) = [word.removeprefix("--command=") for word in sys.argv if word.startswith("--command=")]
workers = [
    subprocess.Popen(["bash", "-c", command], cwd=f"worker{{index}}", env={{**os.environ, "JAX_PROCESS_ID": str(index)}})
    for index in range(2)
]
sys.exit(max(worker.wait() for worker in workers))
"""


@pytest.mark.long
def test_tpu_workers_train_one_job(machine, tmp_path):
    machine.add("gcloud", GCLOUD.format(python=sys.executable))
    for index in range(2):
        machine.add(tmp_path / f"worker{index}" / "venv/bin/python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    # In place of a pod's metadata, see tests/training/test_distributed.py.
    pod = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    workdir = tmp_path / "a run"
    done = machine.run(str(LAUNCH / "tpu.sh"), "train", *TINY, f"--workdir={workdir}", **pod)
    assert done.returncode == 0, done.stderr
    assert_one_job(workdir)
    assert '"steps": 4' in done.stdout  # the log is shown
    assert '"steps": 4' in (tmp_path / "worker0" / "train.log").read_text()
    assert machine.run(str(LAUNCH / "tpu.sh"), "train", "--config=quickstrt", **pod).returncode == 2


# Kubernetes


class Manifest:
    """The parts of a manifest, and what Kubernetes makes of its names."""

    def __init__(self, name):
        documents = {document["kind"]: document for document in yaml.safe_load_all((LAUNCH / "kubernetes" / name).read_text())}
        self.jobset = documents.get("JobSet")
        if self.jobset:
            (replicated,) = self.jobset["spec"]["replicatedJobs"]
            assert replicated["replicas"] == 1
            self.job = replicated["template"]["spec"]
            self.job_name = f"{self.jobset['metadata']['name']}-{replicated['name']}-0"
            self.network = self.jobset["spec"]["network"]["subdomain"]
        else:
            job, service = documents["Job"], documents["Service"]
            assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
            assert service["spec"]["clusterIP"] == "None"
            assert service["spec"]["publishNotReadyAddresses"] is True
            self.job, self.job_name = job["spec"], job["metadata"]["name"]
            self.network = service["metadata"]["name"]
            assert job["spec"]["template"]["spec"]["subdomain"] == self.network
        self.pod = self.job["template"]["spec"]
        (self.container,) = self.pod["containers"]
        self.words = [*self.container["command"], *self.container["args"]]
        self.environment = {one["name"]: one["value"] for one in self.container["env"]}


@pytest.fixture(params=MANIFESTS)
def manifest(request):
    return Manifest(request.param)


def test_pods_are_the_processes_of_one_job(manifest):
    job = manifest.job
    assert job["completionMode"] == "Indexed"
    assert str(job["completions"]) == str(job["parallelism"]) == manifest.environment["JAX_NUM_PROCESSES"]
    host, port = manifest.environment["JAX_COORDINATOR_ADDRESS"].split(":")
    assert host == f"{manifest.job_name}-0.{manifest.network}"
    assert 1024 < int(port) < 32768


def test_pods_run_what_resflax_understands(manifest, understood):
    assert manifest.words[0] == "python"
    _, workdir = understood(manifest.words[1:])
    (mount,) = [one["mountPath"] for one in manifest.container["volumeMounts"] if one["name"] == "shared"]
    assert workdir.startswith(mount + "/")
    assert manifest.environment["TFDS_DATA_DIR"].startswith(mount + "/")
    volumes = {volume["name"]: volume for volume in manifest.pod["volumes"]}
    assert volumes.keys() == {one["name"] for one in manifest.container["volumeMounts"]}
    assert "persistentVolumeClaim" in volumes["shared"]


def test_a_preempted_pod_restarts_the_job_after_saving(manifest):
    assert manifest.pod["restartPolicy"] == "Never"  # podFailurePolicy is refused with any other
    assert manifest.pod["terminationGracePeriodSeconds"] >= 120
    actions = {}
    for rule in manifest.job["podFailurePolicy"]["rules"]:
        for condition in rule.get("onPodConditions", ()):
            actions[condition["type"], condition["status"]] = rule["action"]
        if codes := rule.get("onExitCodes"):
            assert (codes["containerName"], codes["operator"]) == (manifest.container["name"], "In")
            actions |= dict.fromkeys(codes["values"], rule["action"])
    if manifest.jobset:  # the Job fails as a whole, and this the JobSet takes for no failure
        assert actions == {("DisruptionTarget", "True"): "FailJob", 143: "FailJob"}
        assert manifest.job["backoffLimit"] == 0
        (rule,) = manifest.jobset["spec"]["failurePolicy"]["rules"]
        assert rule == {"action": "RestartJobSetAndIgnoreMaxRestarts", "onJobFailureReasons": ["PodFailurePolicy"]}
        assert manifest.jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    else:
        assert actions == {("DisruptionTarget", "True"): "Ignore", 143: "Ignore", 65: "FailJob"}


@pytest.mark.long
def test_pods_train_one_job(manifest, machine, tmp_path):
    workdir = tmp_path / "run"
    pods = [
        machine.start(
            *manifest.words,
            *TINY,
            f"--workdir={workdir}",
            **{**manifest.environment, "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "TFDS_DATA_DIR": str(tmp_path)},
            JOB_COMPLETION_INDEX=str(index),
            KUBERNETES_SERVICE_HOST="192.0.2.1",  # leads nowhere: nobody may ask the API server
        )
        for port in [free_port()]
        for index in range(manifest.job["completions"])
    ]
    outputs = [pod.communicate(timeout=240) for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0], outputs
    assert outputs[1][1] == ""
    assert_one_job(workdir)


@pytest.fixture
def queue(machine):
    """`[(module, arguments), ...]` of what `make gpu` runs."""
    commands = machine.dry_run("bash", str(LAUNCH / "gpu.sh"))
    assert [words[:2] for words in commands] == [["python3", "-m"]] * len(commands)
    return [(words[2].removeprefix("resflax."), words[3:]) for words in commands]


def options_of(arguments):
    return dict(one.removeprefix("--").split("=", 1) for one in arguments if one.startswith("--"))


def test_the_gpu_queue_asks_for_what_there_is(queue):
    modules = [module for module, _ in queue]
    assert modules[:2] == ["benchmark", "reproduce"]  # gradients before anything that relies on them
    assert modules[-3:] == ["reproduce", "reproduce", "report"]
    assert queue[0][1][0] == "gradients"
    for module, arguments in queue:
        if module != "reproduce":
            continue
        experiment, options = arguments[0], options_of(arguments)
        assert 0 < int(options["budget_minutes"]) <= 30
        assert options["workdir"] == "runs/gpu"
        assert options["at_once"] == "1"
        module, _ = load_experiment(str(ROOT / experiment))
        listed = getattr(module, "ROWS", None) or module.PUBLISHED
        for row in options["rows"].split(",") if "rows" in options else listed:
            config, _ = load_config(f"{ROOT / experiment}:{row}")
            validate(apply_overrides(config, ["data.name=cifar10.npz"]))


def test_the_gpu_queue_measures_what_there_is(queue, monkeypatch):
    """Every benchmark is understood, peers and forms included, and leaves a record of its own."""
    asked = []
    monkeypatch.setattr(resflax.benchmark, "_without_cache", lambda: None)
    monkeypatch.setattr(resflax.benchmark, "check_gradients", lambda output: 0)
    monkeypatch.setattr(resflax.benchmark, "benchmark", lambda task, workload, *_, **own: asked.append((task, workload)) or {})
    monkeypatch.setattr(files, "write_json", lambda path, value: None)
    monkeypatch.setitem(os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    measured = [arguments for module, arguments in queue if module == "benchmark"]
    for arguments in measured:
        assert resflax.benchmark.main(arguments) == 0
    records = [options_of(arguments)["output"] for arguments in measured]
    assert len(set(records)) == len(records)
    assert ("train", Workload("resnet50", 256, "bfloat16")) in asked
    assert ("train", Workload("cifar_resnet20", 128)) in asked
    assert {task for task, _ in asked} == {"train", "infer", "checkpoint", "start"}
    tried = {
        part
        for arguments in measured
        for name in options_of(arguments).get("against", "").split(",")
        for part in name.split("+")
    }
    undecided = {name for name, form in FORMS.items() if not name.startswith(("loop", "fused", "scan_remat", "latency"))}
    assert undecided | {"torch-graphs", "timm-compile"} <= tried


def test_the_gpu_queue_trains_side_by_side_where_it_is_told_to(machine, monkeypatch):
    monkeypatch.setitem(machine.environment, "AT_ONCE", "3")
    commands = machine.dry_run("bash", str(LAUNCH / "gpu.sh"))
    told = [words[2].removeprefix("resflax.") for words in commands if "--at_once=3" in words]
    assert told == ["reproduce"] * 4


def test_the_gpu_queue_says_what_it_needs(machine):
    done = machine.run("bash", str(LAUNCH / "gpu.sh"), DATA="nowhere.npz")
    assert done.returncode == 2
    assert "DATA must name CIFAR-10 as an .npz, but there is no nowhere.npz" in done.stderr
