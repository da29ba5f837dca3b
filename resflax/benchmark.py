"""python -m resflax.benchmark: seconds of training, inference, compilation and input, beside other implementations."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from resflax.bench.outcome import figures, outcome, ratio
from resflax.bench.peers import LAYOUTS, PACKAGES, PEERS, check_layout, check_peers, default_peers, form_of, make_peer
from resflax.bench.process import in_new_process
from resflax.bench.timing import interleave, measure
from resflax.bench.workload import PRECISIONS, Contender, Workload
from resflax.cli import Parser, prepare_jax, run
from resflax.errors import DataError
from resflax.models.zoo import check_model, model_options

MODEL = "cifar_resnet20"
WORK = {
    "train": "forward, backward and SGD with momentum and weight decay; synthetic images in device memory, no augmentation",
    "infer": "forward in evaluation mode, every call waited for; synthetic images in device memory",
    "compile": "a training step traced, lowered and compiled, each time in a new process, the persistent cache off",
    "input": "JPEG files of 500x375, warm in the page cache, decoded, a random part resized to 224x224, as uint8 batches",
}
GRADIENTS = "gradients of the layers and of a network on this device against float32 on the CPU"
Measurement = dict[str, Any]  # {"batch_size": int, "contenders": {name: row}}; ours is the first row


def main(argv: Sequence[str]) -> int:
    """The command; the last line of stdout is a JSON object. Returns the exit code."""
    parsed = _parser().parse_args(argv)
    if parsed.task == "gradients":
        return check_gradients(parsed.output)
    absent = {"model": MODEL, "precision": PRECISIONS[0], "steps": 1, "repeat": None}  # a task's parser knows only what it uses
    arguments = argparse.Namespace(**{**absent, **vars(parsed)})
    workload = Workload(arguments.model, arguments.batch_size, arguments.precision, arguments.repeat)
    check_model(workload.model)
    if workload.repeat is not None:
        check_layout(workload.model, workload.repeat)
    against = _names(arguments.against, default_peers(arguments.task, workload.model))
    check_peers(arguments.task, against, workload.model)
    if any(PACKAGES.get(name) == "torch" for name in against):
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves PyTorch its part of a GPU's memory
    _without_cache()
    result = benchmark(arguments.task, workload, against, arguments.steps, arguments.repeats)
    print(json.dumps(result))
    if arguments.output:  # after the result was shown: it took minutes
        from resflax.files import write_json

        write_json(arguments.output, result)
    return 0


def _parser() -> Parser:
    """A subcommand a task, each with the options that it has a use for."""
    every, network, timed, trained = (Parser(add_help=False) for _ in range(4))
    every.add_argument("--batch_size", type=_count, default=128, metavar="N", help="default: 128")
    every.add_argument("--repeats", type=_count, default=5, metavar="N", help="that are timed (default: 5)")
    every.add_argument("--output", metavar="FILE", help="also write the result there")
    network.add_argument("--model", default=MODEL, metavar="NAME", help=f"default: {MODEL}")
    network.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of activations (default: float32)")
    timed.add_argument("--steps", type=_count, default=20, metavar="N", help="of a repeat (default: 20)")
    every.add_argument("--against", metavar="A,B", help="peers, or nothing; default: the first of the list below, if a name")
    layouts = ", ".join(LAYOUTS)
    trained.add_argument("--repeat", choices=LAYOUTS, metavar="LAYOUT", help=f"how equal blocks run: {layouts}")
    parser = Parser(prog="python -m resflax.benchmark", description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    options = {
        "train": (every, network, timed, trained),
        "infer": (every, network, timed),
        "compile": (every, network, trained),
        "input": (every, timed),
    }
    for task, parents in options.items():
        peers = f"Peers: {', '.join(PEERS[task])}" if PEERS[task] else None
        tasks.add_parser(task, parents=parents, help=WORK[task], description=WORK[task], epilog=peers)
    gradients = tasks.add_parser("gradients", help=GRADIENTS, description=GRADIENTS)
    gradients.add_argument("--output", metavar="FILE", help="also write the result there")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number at least 1, got {text!r}")
    return int(text)


def check_gradients(output: str | None) -> int:
    """Prints how far gradients are from the CPU's; raises `DataError` where they do not agree."""
    prepare_jax()
    from resflax.bench.correctness import compare
    from resflax.files import write_json

    rows = compare()
    found = {"benchmark": "gradients", "gradients": rows, **_machine(())}
    print(json.dumps(found))
    if output:
        write_json(output, found)
    wrong = [f"{one['what']} ({one['precision']}): {one['error']:.2g}" for one in rows if not one["agrees"]]
    if wrong:
        raise DataError(f"gradients must agree with those of the CPU, but these do not: {', '.join(wrong)}; do not train here")
    return 0


def _names(text: str | None, default: Sequence[str]) -> list[str]:
    """The parts of `a,b`, each once; the default where nothing was said."""
    return list(default if text is None else dict.fromkeys(name for name in text.split(",") if name))


def benchmark(task: str, workload: Workload, against: Sequence[str] = (), steps: int = 20, repeats: int = 5) -> dict[str, Any]:
    """Measures one task.

    Args:
      task: `train`, `infer`, `compile` or `input`.
      workload: the network and its batches; `input` uses the batch size alone.
      against: peers, see `resflax.bench.peers`; `compile` has none.
      steps: of a repeat; a `compile` is one.
      repeats: that are timed.

    Returns:
      What the command prints, see `docs/performance.md`.

    Raises:
      ConfigError: a peer's package is missing, or it cannot use the device.
      DataError: what a contender computed is not finite.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # beside other work timings are worth little
    measurements = _TASKS[task](workload, against, steps, repeats)
    ours = next(iter(measurements[-1]["contenders"].values()))
    return {
        "benchmark": task,
        **{name: ours[name] for name in ("images_per_second", "step_seconds", "compile_seconds") if name in ours},
        **({} if task == "input" else {"model": workload.model, "precision": workload.precision}),
        "batch_size": workload.batch_size,
        "work": WORK[task],
        "measurements": measurements,
        "steps": steps,
        "repeats": repeats,
        "load_before": load,
        **_machine([PACKAGES[name] for name in against if name in PACKAGES]),
    }


def _machine(packages: Sequence[str]) -> dict[str, Any]:
    """Where it was measured, and with what; `packages` are those of the peers."""
    import importlib.metadata

    import jax

    from resflax.results.record import git_commit, versions

    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "device_count": 1,
        "cores": os.cpu_count(),
        "versions": {**versions(), **{name: importlib.metadata.version(name) for name in packages}},
        "git_commit": git_commit(),
    }


def _train(workload: Workload, against: Sequence[str], steps: int, repeats: int) -> list[Measurement]:
    from resflax.build.measure import build_run, our_training

    def ours(workload: Workload, name: str = "resflax") -> Contender:
        with TemporaryDirectory() as folder:
            return our_training(build_run(workload, Path(folder), steps * (repeats + 1) + 1), name)

    contenders = [ours(workload)]
    for name in against:
        form = dataclasses.replace(workload, repeat=cast(Any, name))
        contenders.append(ours(form, name) if name in LAYOUTS else make_peer(name, "train", workload))
    return [_measured(contenders, workload.batch_size, steps, repeats)]


def _infer(workload: Workload, against: Sequence[str], steps: int, repeats: int) -> list[Measurement]:
    from resflax.bench.forward import our_inference

    found = []
    for size in sorted({1, workload.batch_size}):
        sized = dataclasses.replace(workload, batch_size=size)
        contenders = [our_inference(sized), *(make_peer(name, "infer", sized) for name in against)]
        found.append(_measured(contenders, size, steps, repeats))
    return found


def _compile(workload: Workload, against: Sequence[str], steps: int, repeats: int) -> list[Measurement]:
    from resflax.build.measure import compile_once

    layouts: tuple[Any, ...] = ("loop", "scan") if "repeat" in model_options(workload.model) else (None,)
    forms = {
        layout or "loop": (workload.model, layout) for layout in (layouts if workload.repeat is None else (workload.repeat,))
    }
    forms |= {name: form_of(name) for name in against}
    samples = {
        name: functools.partial(
            in_new_process, _without_cache, compile_once, dataclasses.replace(workload, model=model, repeat=layout)
        )
        for name, (model, layout) in forms.items()
    }
    timed = interleave(samples, repeats, warm_up=0)
    rows: dict[str, dict[str, Any]] = {}
    for name, times in timed.items():
        rows[name] = {}
        for part in times[0]:
            rows[name] |= figures(part, [one[part] for one in times])
        if name in against:  # how often as long as the first form
            totals = [[one["compile_seconds"] for one in sample] for sample in (timed[next(iter(timed))], times)]
            rows[name] |= ratio(*totals)
    return [{"batch_size": workload.batch_size, "contenders": rows}]


def _input(workload: Workload, against: Sequence[str], steps: int, repeats: int) -> list[Measurement]:
    from resflax.bench import image_files

    with TemporaryDirectory() as folder:
        image_files.write_photographs(Path(folder), image_files.FILES)
        contenders = image_files.contenders(Path(folder), workload.batch_size, against)
        measured = _measured(contenders, workload.batch_size, steps, repeats)
        return [{"files": image_files.FILES, "mean_file_bytes": image_files.mean_bytes(Path(folder)), **measured}]


_TASKS: dict[str, Callable[..., list[Measurement]]] = {"train": _train, "infer": _infer, "compile": _compile, "input": _input}


def _measured(contenders: Sequence[Contender], batch_size: int, steps: int, repeats: int) -> Measurement:
    timings = measure(contenders, steps, repeats)
    return {"batch_size": batch_size, "contenders": outcome(contenders, timings, batch_size)}


def _without_cache() -> None:
    prepare_jax().config.update("jax_enable_compilation_cache", False)


if __name__ == "__main__":
    run(main)
