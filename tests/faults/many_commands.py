"""Runs many commands in one process and says of each how it ended: `python -m tests.faults.many_commands < COMMANDS.json`.

What happens behind their backs is seen by an audit hook (PEP 578): globals that a pickle asks for, modules that are imported,
programs that are started. The memory they take is the growth of the process' largest resident set.
"""

import contextlib
import importlib
import io
import json
import resource
import sys
import time
import traceback

from resflax.errors import ResflaxError

WATCHED = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")
FORBIDDEN = {"torch", "joblib", "pickle5", "dill", "cloudpickle"}


def watch():
    """The list in which the hook notes what it sees."""
    seen = []

    def hook(event, arguments):
        imported = event == "import" and str(arguments[0]).partition(".")[0] in FORBIDDEN
        if event in WATCHED or imported:
            seen.append(f"{event} {arguments[:2]}")

    sys.addaudithook(hook)
    return seen


def peak():
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(arguments):
    """Exit code, message, and whether there would have been a traceback."""
    command, *rest = arguments
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            return importlib.import_module(f"resflax.{command}").main(rest), output.getvalue(), ""
        except ResflaxError as error:
            return error.exit_code, str(error), ""
        except BaseException:  # noqa: BLE001
            return 1, "", traceback.format_exc()


def main():
    seen = watch()
    for arguments in json.load(sys.stdin):
        before, start, noted = peak(), time.perf_counter(), len(seen)
        code, message, trace = run(arguments)
        result = {
            "code": code,
            "message": message,
            "traceback": trace,
            "seconds": time.perf_counter() - start,
            "grown": peak() - before,
            "seen": seen[noted:],
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
