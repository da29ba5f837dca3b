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
from typing import Any

from resflax.bench.forms import LAYOUTS, check_layout, describe, in_form, is_form
from resflax.bench.outcome import figures, outcome, ratio
from resflax.bench.peers import INPUTS, ONNX, PACKAGES, PEERS, USE_TORCH, check_peers, default_peers, form_of, make_peer
from resflax.bench.process import in_new_process
from resflax.bench.timing import interleave, measure
from resflax.bench.workload import PRECISIONS, Contender, Workload
from resflax.cli import Parser, prepare_jax, run
from resflax.errors import ConfigError, DataError
from resflax.models.zoo import check_model, model_options

MODEL = "cifar_resnet20"
WORK = {
    "train": "forward, backward and SGD with momentum and weight decay; synthetic images in device memory, no augmentation",
    "infer": "forward in evaluation mode, every call waited for; synthetic images in device memory",
    "compile": "a training step traced, lowered and compiled, each time in a new process, the persistent cache off",
    "input": "JPEG files of 1000x750 and of 500x375, in the page cache, a random part resized to 224x224, as uint8 batches",
    "input-cifar": "50,000 images of 32x32 in memory, padded by 4, cropped, mirrored and normalised, as float32 batches",
    "start": "from the start of a process to the end of its first training step, each time in a new process",
    "checkpoint": "training steps, the state saved every so many of them; synthetic images in device memory",
}
FRAMES = "images from a folder one after another: read, decoded, preprocessed and classified alone, normalisations folded"
HEADLINE = ("images_per_second", "step_seconds", "compile_seconds", "start_seconds", "stall_seconds", "checkpoint_share")
GRADIENTS = "gradients of the layers and of a network on this device against float32 on the CPU"
Measurement = dict[str, Any]  # {"batch_size": int, "contenders": {name: row}}; ours is the first row


def main(argv: Sequence[str]) -> int:
    """The command; the last line of stdout is a JSON object. Returns the exit code."""
    parsed = _parser().parse_args(argv)
    if parsed.task == "gradients":
        return check_gradients(parsed.output)
    if parsed.task == "frames":
        return time_frames(parsed)
    absent = {"model": MODEL, "precision": PRECISIONS[0], "steps": 1, "repeat": None}  # a task's parser knows only what it uses
    arguments = argparse.Namespace(**{**absent, **vars(parsed)})
    workload = Workload(arguments.model, arguments.batch_size, arguments.precision, arguments.repeat)
    check_model(workload.model)
    if workload.repeat is not None:
        check_layout(workload.model, workload.repeat)
    against = _names(arguments.against, default_peers(arguments.task, workload.model))
    check_peers(arguments.task, against, workload.model)
    if USE_TORCH & {*against}:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves PyTorch its part of a GPU's memory
    _without_cache()
    own = {name: getattr(arguments, name) for name in ("images", "every_steps") if hasattr(arguments, name)}
    result = benchmark(arguments.task, workload, against, arguments.steps, arguments.repeats, **own)
    print(json.dumps(result))
    if arguments.output:  # after the result was shown: it took minutes
        from resflax.files import write_json

        write_json(arguments.output, result)
    return 0


def _parser() -> Parser:
    """A subcommand a task, each with the options that it has a use for."""
    every, network, timed, trained, started, saved = (Parser(add_help=False) for _ in range(6))
    every.add_argument("--batch_size", type=_count, default=128, metavar="N", help="default: 128")
    every.add_argument("--repeats", type=_count, default=5, metavar="N", help="that are timed (default: 5)")
    every.add_argument("--output", metavar="FILE", help="also write the result there")
    network.add_argument("--model", default=MODEL, metavar="NAME", help=f"default: {MODEL}")
    network.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of activations (default: float32)")
    timed.add_argument("--steps", type=_count, default=20, metavar="N", help="of a repeat (default: 20)")
    every.add_argument("--against", metavar="A,B", help="peers, or nothing; default: the first of the list below, if a name")
    layouts = ", ".join(LAYOUTS)
    trained.add_argument("--repeat", choices=LAYOUTS, metavar="LAYOUT", help=f"how equal blocks run: {layouts}")
    started.add_argument("--images", type=_count, default=50_000, metavar="N", help="of the data set (default: 50,000)")
    saved.add_argument("--steps", type=_count, default=100, metavar="N", help="of a repeat (default: 100)")
    saved.add_argument("--every_steps", type=_count, default=100, metavar="N", help="between two saves (default: 100)")
    parser = Parser(prog="python -m resflax.benchmark", description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    options = {
        "train": (every, network, timed, trained),
        "infer": (every, network, timed),
        "compile": (every, network, trained),
        "input": (every, timed),
        "input-cifar": (every, timed),
        "start": (every, network, started),
        "checkpoint": (every, network, saved),
    }
    for task, parents in options.items():
        peers = f"Peers: {', '.join(PEERS[task])}" if PEERS[task] else None
        tasks.add_parser(task, parents=parents, help=WORK[task], description=WORK[task], epilog=peers)
    frames = tasks.add_parser("frames", help=FRAMES, description=FRAMES)
    frames.add_argument("--frames", metavar="FOLDER", help="searched through for images; default: 64 generated JPEG files")
    of = frames.add_mutually_exclusive_group()
    of.add_argument("--workdir", metavar="DIR", help="of a training run")
    of.add_argument("--checkpoint", metavar="FILE", help="a weight file, or hf:ORGANISATION/REPOSITORY")
    of.add_argument("--model", default="resnet50", metavar="NAME", help="with random weights (default: resnet50)")
    frames.add_argument("--repeats", type=_count, default=5, metavar="N", help="passes over them that are timed (default: 5)")
    frames.add_argument("--output", metavar="FILE", help="also write the result there")
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


def time_frames(arguments: argparse.Namespace) -> int:
    """Prints the rate and the latency of single frames, see `resflax.bench.frames`; returns the exit code."""
    trained = arguments.workdir or arguments.checkpoint
    if not trained:
        check_model(arguments.model)
    _without_cache()
    from resflax.bench.frames import measure_frames, random_classifier
    from resflax.bench.image_files import FILES, write_photographs
    from resflax.build import open_run, open_weights
    from resflax.data.decode import find_images
    from resflax.files import write_json
    from resflax.weights.inference import compile_inference

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with TemporaryDirectory() as folder:
        if not arguments.frames:
            write_photographs(Path(folder), FILES)
        paths = find_images([arguments.frames or folder])
        if trained:
            network = open_run(trained) if arguments.workdir else open_weights(trained)
            read, probabilities = network.read, network.probabilities
        else:
            read, probabilities = random_classifier(arguments.model)
        measured = measure_frames(paths, read, functools.partial(compile_inference, probabilities), arguments.repeats)
    network_of = {} if trained else {"model": arguments.model}
    found = {"benchmark": "frames", **measured, **network_of, "work": FRAMES, "load_before": load, **_machine(())}
    print(json.dumps(found))
    if arguments.output:
        write_json(arguments.output, found)
    return 0


def _names(text: str | None, default: Sequence[str]) -> list[str]:
    """The parts of `a,b`, each once; the default where nothing was said."""
    return list(default if text is None else dict.fromkeys(name for name in text.split(",") if name))


def benchmark(
    task: str, workload: Workload, against: Sequence[str] = (), steps: int = 20, repeats: int = 5, **own: int
) -> dict[str, Any]:
    """Measures one task.

    Args:
      task: `train`, `infer`, `compile`, `input`, `input-cifar`, `start` or `checkpoint`.
      workload: the network and its batches; the two of input use the batch size alone.
      against: peers, see `resflax.bench.peers`; `compile` has none.
      steps: of a repeat; a `compile` is one.
      repeats: that are timed.
      own: options of the task alone: `images` of `start`, `every_steps` of `checkpoint`.

    Returns:
      What the command prints, see `docs/performance.md`.

    Raises:
      ConfigError: a peer's package is missing, or it cannot use the device.
      DataError: what a contender computed is not finite.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # beside other work timings are worth little
    measurements = _TASKS[task](workload, against, steps, repeats, **own)
    ours = next(iter(measurements[-1]["contenders"].values()))
    return {
        "benchmark": task,
        **{name: ours[name] for name in HEADLINE if name in ours},
        **({} if task in INPUTS else {"model": workload.model, "precision": workload.precision}),
        "batch_size": workload.batch_size,
        "work": WORK[task],
        "measurements": measurements,
        "steps": steps,
        **own,
        "repeats": repeats,
        "load_before": load,
        **_machine([*(PACKAGES[name] for name in against if name in PACKAGES), *(["torch"] if USE_TORCH & {*against} else [])]),
    }


def _machine(packages: Sequence[str]) -> dict[str, Any]:
    """Where it was measured, and with what; `packages` are those of the peers."""
    import jax

    from resflax.results.record import git_commit, versions

    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "device_count": 1,
        "cores": os.cpu_count(),
        "versions": {**versions(), **{name: _version(name) for name in packages}},
        "git_commit": git_commit(),
    }


def _version(package: str) -> str:
    """Of what provides the package, which may be called otherwise: tensorflow-cpu."""
    import importlib.metadata

    distributions = importlib.metadata.packages_distributions().get(package, [package])
    return importlib.metadata.version(package if package in distributions else distributions[0])


def _train(workload: Workload, against: Sequence[str], steps: int, repeats: int) -> list[Measurement]:
    from resflax.build.measure import build_run, our_training

    def ours(workload: Workload) -> Contender:
        with TemporaryDirectory() as folder:
            return our_training(build_run(workload, Path(folder), steps * (repeats + 1) + 1), workload.fused)

    contenders = [ours(workload)]
    for name in against:
        if is_form(name):
            form = ours(in_form(workload, name))
            contenders.append(dataclasses.replace(form, name=name, differs=describe(name), optional=True))
        else:
            contenders.append(make_peer(name, "train", workload))
    return [_measured(contenders, workload.batch_size, steps, repeats)]


def _infer(workload: Workload, against: Sequence[str], steps: int, repeats: int) -> list[Measurement]:
    from resflax.build.inference import onnxruntime_inference, our_inference

    def peer(name: str, workload: Workload) -> Contender:
        return onnxruntime_inference(workload) if name == ONNX else make_peer(name, "infer", workload)

    found = []
    for size in sorted({1, workload.batch_size}):
        sized = dataclasses.replace(workload, batch_size=size)
        contenders = [our_inference(sized), *(peer(name, sized) for name in against)]
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

    found = []
    for count, *size in (
        (image_files.LARGE_FILES, image_files.LARGE_WIDTH, image_files.LARGE_HEIGHT),
        (image_files.FILES, image_files.WIDTH, image_files.HEIGHT),  # the headline
    ):
        with TemporaryDirectory() as text:
            folder = Path(text)
            image_files.write_photographs(folder, count, *size)
            contenders = image_files.contenders(folder, workload.batch_size, against)
            measured = _measured(contenders, workload.batch_size, steps, repeats)
            about = {"files": count, "mean_file_bytes": image_files.mean_bytes(folder)}
            found.append({"size": "x".join(map(str, size)), **about, **measured})
    return found


def _input_cifar(workload: Workload, against: Sequence[str], steps: int, repeats: int) -> list[Measurement]:
    from resflax.bench import array_input

    measured = _measured(array_input.contenders(workload.batch_size, against), workload.batch_size, steps, repeats)
    return [{"examples": array_input.EXAMPLES, **measured}]


def _start(workload: Workload, against: Sequence[str], steps: int, repeats: int, images: int = 50_000) -> list[Measurement]:
    from resflax.bench.start import measure_start

    return [{"batch_size": workload.batch_size, "contenders": measure_start(workload, images, against, repeats)}]


def _checkpoint(
    workload: Workload, against: Sequence[str], steps: int, repeats: int, every_steps: int = 100
) -> list[Measurement]:
    from resflax.bench.saving import costs
    from resflax.build.measure import build_run, saving_contenders

    if steps % every_steps:
        raise ConfigError(f"--steps must be a multiple of --every_steps, got {steps} and {every_steps}; change one of them")
    with TemporaryDirectory() as folder:
        run = build_run(workload, Path(folder), steps * (repeats + 1) + 1)
        with saving_contenders(run, Path(folder), every_steps, against) as (contenders, stalls):
            timings = measure(contenders, steps, repeats)
    rows, added = outcome(contenders, timings, workload.batch_size), costs(timings, stalls, steps, every_steps)
    return [
        {"batch_size": workload.batch_size, "contenders": {name: {**row, **added.get(name, {})} for name, row in rows.items()}}
    ]


_TASKS: dict[str, Callable[..., list[Measurement]]] = {
    "train": _train,
    "infer": _infer,
    "compile": _compile,
    "input": _input,
    "input-cifar": _input_cifar,
    "start": _start,
    "checkpoint": _checkpoint,
}


def _measured(contenders: Sequence[Contender], batch_size: int, steps: int, repeats: int) -> Measurement:
    timings = measure(contenders, steps, repeats)
    return {"batch_size": batch_size, "contenders": outcome(contenders, timings, batch_size)}


def _without_cache() -> None:
    prepare_jax().config.update("jax_enable_compilation_cache", False)


if __name__ == "__main__":
    run(main)
