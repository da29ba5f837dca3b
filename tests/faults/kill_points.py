"""`python -m tests.faults.kill_points FOLDER CASES`: saves that are killed right before a file operation, for all of them.

Nothing in the package knows of it: an audit hook counts what Python does to files under the folder. JAX is imported once, and
each case runs in a fork of this process, which starts no backend itself.
"""

import json
import os
import shutil
import signal
import sys
import threading
import traceback
from pathlib import Path

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# name: (steps that are there, what `keep_last` is, whether a damaged step and a killed process's debris are there too)
SCENARIOS = {
    "first save, keep 1": (0, 1, False),
    "first save, keep 3": (0, 3, False),
    "later save, keep 1": (1, 1, False),
    "later save, keep 3": (3, 3, False),
    "after a kill and a loss, keep 1": (1, 1, True),
}


def operation(root, event, arguments):
    """What the audit event does to a file under `root`, in words; None if nothing."""
    if event == "open":
        path, _, flags = arguments
        if not (isinstance(flags, int) and flags & WRITING):
            return None
    elif event in ("os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate"):
        path = arguments[0]
        if event in ("os.rmdir", "os.remove") and arguments[1] != -1:  # relative to a folder that is being removed
            return f"{event} {path}"
    else:
        return None
    if not str(path).startswith(str(root)):
        return None
    return f"{event} {os.path.relpath(str(arguments[1] if event == 'os.rename' else path), root)}"


def watch(root, log, kill_before):
    """Writes a line a file operation to `log`; kills this process before operation `kill_before`, counted from 0."""
    lines, lock, count = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), threading.Lock(), 0

    def hook(event, arguments):
        nonlocal count
        if (words := operation(root, event, arguments)) is None:
            return
        with lock:
            if count == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            os.write(lines, f"{words}\n".encode())

    sys.addaudithook(hook)


def state(step):
    """Two leaves that differ from step to step."""
    import jax.numpy as jnp

    return {"kernel": jnp.arange(24.0).reshape(6, 4) * step, "step": jnp.int32(step)}


def save(root, step, keep):
    """One process's life."""
    from etils import epath

    from resflax.training.checkpoints import Checkpoints

    checkpoints = Checkpoints(epath.Path(root), keep)
    checkpoints.save(step, state(step), {"seen": step}, {})
    checkpoints.close()


def fork(function, *arguments):
    """The wait status of a fork of this process that calls `function`."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        function(*arguments)
        os._exit(0)
    except BaseException:  # noqa: BLE001  # a fork must not go on as if it were its parent
        traceback.print_exc()
        os._exit(1)


def prepare(folder, there, keep, broken):
    """The workdir that a scenario starts from."""
    for step in range(1, there + 1):
        save(folder, step, keep)
    if broken:
        shutil.copytree(folder / "1", folder / "2")
        (folder / "2" / "manifest.json").unlink()
        shutil.copytree(folder / "2", folder / "3")
        (folder / "3.unfinished").touch()


def killed(root, log, step, keep, kill_before):
    """A save that does not end."""
    watch(root, log, kill_before)
    save(root, step, keep)


def attempt(folder, name, kill_before):
    """A scenario in a folder of its own: how its process ended, and the operations it had done."""
    there, keep, _ = SCENARIOS[name]
    root = folder / name / str(kill_before)
    shutil.copytree(folder / name / "base", root)
    log = root.with_suffix(".log")
    status = fork(killed, root, log, there + 1, keep, kill_before)
    return status, log.read_text().splitlines()


def main(folder, cases):
    """Of all kill points `cases`, evenly spread, are tried, all of them if it is 0; `found.json` says what came of it."""
    import resflax.training.checkpoints  # noqa: F401

    counts = {}
    for name, (there, keep, broken) in SCENARIOS.items():
        (folder / name / "base").mkdir(parents=True)
        if there:
            assert fork(prepare, folder / name / "base", there, keep, broken) == 0
        status, operations = attempt(folder, name, -1)
        assert status == 0
        counts[name] = len(operations)
    points = [(name, point) for name in counts for point in range(counts[name])]
    tried = range(0, len(points) * cases, len(points)) if cases else range(len(points))
    chosen = [points[index // cases if cases else index] for index in tried]
    found = {"counts": counts, "tried": [[name, point, *attempt(folder, name, point)] for name, point in chosen]}
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
