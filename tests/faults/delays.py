"""python -m tests.faults.delays PLACE PROCESS CALL SECONDS [arguments of resflax.train]

Trains, but process PROCESS sleeps for SECONDS before each call of a function from the CALL-th on. Nothing in resflax knows
of it.
"""

import functools
import importlib
import itertools
import sys
import time

from resflax import cli, train

PLACES = {
    "read": "resflax.data.pipeline:training_batch",
    "step": "resflax.training.chunk:StepwiseChunk.__call__",
    "evaluate": "resflax.training.evaluation:census",
    "save": "orbax.checkpoint:AsyncCheckpointer.save",
    "restore": "orbax.checkpoint:StandardCheckpointer.restore",
}


def delay(place, call, seconds):
    module, _, names = PLACES[place].partition(":")
    *owners, name = names.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    original, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(original)
    def delayed(*arguments, **options):
        if next(calls) >= call:
            print(f"asleep at {time.monotonic()}", file=sys.stderr, flush=True)  # a clock that all processes share
            time.sleep(seconds)
        return original(*arguments, **options)

    setattr(owner, name, delayed)


def main(argv):
    place, process, call, seconds, *arguments = argv
    if f"--process_id={process}" in arguments or not any(one.startswith("--process_id") for one in arguments):
        cli.prepare_jax()
        delay(place, int(call), float(seconds))
    return train.main(arguments)


if __name__ == "__main__":
    cli.run(main)
