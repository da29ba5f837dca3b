"""python -m resflax.export: writes a network for use elsewhere; the file is compared with the network before it appears."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from resflax.cli import Parser, prepare_jax, run

FORMATS = ("stablehlo", "onnx", "safetensors")


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    parser = Parser(prog="python -m resflax.export", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", metavar="DIR", help="of a training run")
    source.add_argument("--checkpoint", metavar="FILE", help="a weight file, .safetensors")
    parser.add_argument("--step", type=int, metavar="N", help="of the workdir; default: the newest intact checkpoint")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--output", required=True, metavar="FILE", help="replaced once the new file has been checked")
    parser.add_argument("--fold", action="store_true", help="normalisations go into the convolutions before them")
    arguments = parser.parse_args(argv)
    if arguments.step is not None and arguments.checkpoint:
        parser.error("--step needs --workdir, a weight file has one step")
    if arguments.fold and arguments.format == "safetensors":
        parser.error("--fold needs --format=stablehlo or onnx, a weight file holds the network as it was trained")
    report = export(
        arguments.format,
        arguments.output,
        workdir=arguments.workdir,
        checkpoint=arguments.checkpoint,
        step=arguments.step,
        fold=arguments.fold,
    )
    print(f"{arguments.output}: {report['model']}, within {report['difference']:.1e} of the network's largest output")
    return 0


def export(
    format: str,
    output: str,
    *,
    workdir: str | None = None,
    checkpoint: str | None = None,
    step: int | None = None,
    fold: bool = False,
) -> dict[str, Any]:
    """Writes a network to a file of another format.

    Programs (`stablehlo`, `onnx`) map uint8[batch, H, W, C], images at the network's size, to its logits, float32[batch,
    classes], for any batch; preprocessing and weights are inside. They are computed in float32, whatever the run used.

    Args:
      format: `stablehlo`, `onnx` or `safetensors` (a weight file, with the variables as they are).
      output: the file; for `stablehlo` its metadata go to `<output>.json`.
      workdir: of a training run; either this or `checkpoint`.
      checkpoint: a weight file.
      step: of the workdir's checkpoint; None: the newest that is intact.
      fold: put normalisations into the convolutions before them, in a program.

    Returns:
      `model`, its name, and `difference`, the largest that was found, relative to the network's largest output.

    Raises:
      ConfigError: jax2onnx is missing, or the program would be too large for one file.
      DataError: the file disagrees with the network; what was at `output` is still there.
      StorageError: a file cannot be read or written, or is damaged.
    """
    jax = prepare_jax()

    from resflax.build import load
    from resflax.files import write_bytes, write_json
    from resflax.weights import folding, network, onnx, program, safetensors, stablehlo
    from resflax.weights.checked import write_checked

    if format == "onnx":
        onnx.libraries()
    if workdir is not None:
        model, variables, metadata = _open_run(workdir, step)
    else:
        assert checkpoint is not None
        model, variables, metadata = load(checkpoint)
    metadata = {name: value for name, value in metadata.items() if name != "layout"}  # what is written is unrolled
    shape = network.input_shape(metadata)
    with jax.enable_x64(False):
        expected = _forward(model, variables, metadata)
        if format == "safetensors":
            difference = write_checked(
                output,
                lambda path: safetensors.write_weights(path, variables, metadata),
                lambda path: _forward(*network.load_weights(path)),
                expected,
                shape,
            )
        else:
            exported = program.make_program(expected, shape, metadata, folding.fold if fold else None)
            translator: Any = {"stablehlo": stablehlo, "onnx": onnx}[format]
            difference = write_checked(
                output, lambda path: write_bytes(path, translator.serialize(exported)), translator.load, expected, shape
            )
            if format == "stablehlo":
                write_json(f"{output}.json", exported.metadata)
    return {"model": metadata["model"], "difference": difference}


def _open_run(workdir: str, step: int | None) -> tuple[Any, Any, dict[str, Any]]:
    """The network of a run, unrolled and in float32; its variables; the metadata of its weight file."""
    from resflax.build import find_checkpoint, make_model, restore_variables
    from resflax.files import Workdir, read_json
    from resflax.nn import unstack_blocks
    from resflax.version import __version__

    saved = find_checkpoint(workdir, step, lambda text: print(text, file=sys.stderr))
    config, _, variables = restore_variables(saved)
    kwargs = {name: value for name, value in config.model.kwargs.items() if name != "repeat"}
    precision = dataclasses.replace(config.precision, compute="float32")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, kwargs=kwargs), precision=precision)
    known = dict(saved.metadata)
    of_run = {name: known.pop(name) for name in ("config", "config_hash", "dataset_fingerprint")}
    result = Workdir(workdir).result
    record = read_json(result) if result.exists() else {}
    if record.get("steps") == saved.step:  # an earlier step is not what was scored
        of_run["result"] = {name: value for name, value in record.items() if name not in of_run}
    metadata = {
        **known,
        "model": config.model.name,
        "num_classes": len(known["class_names"]),
        "kwargs": kwargs,
        "batch_norm": {"epsilon": config.batch_norm.epsilon},
        "source": f"resflax {__version__}, run {of_run['config_hash']} on {config.data.name}, step {saved.step}",
        "run": {"step": saved.step, **of_run},
    }
    return make_model(config, metadata["num_classes"]), unstack_blocks(variables), metadata


def _forward(model: Any, variables: Any, metadata: Mapping[str, Any]) -> Any:
    """`uint8[B, H, W, C] -> float32[B, outputs]`, with the preprocessing, compiled."""
    import jax
    import numpy as np

    from resflax.data.preprocess import Preprocessing

    preprocessing = Preprocessing.from_dict(metadata["preprocessing"])
    single = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), variables)
    return jax.jit(lambda images: model.apply(single, preprocessing(images), train=False))


if __name__ == "__main__":
    run(main)
