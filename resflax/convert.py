"""python -m resflax.convert: weights from torchvision, timm, Keras, BiT or the Hugging Face hub, and back under torch's names.

No number changes on the way, every tensor finds its place or the file is refused, and nothing in it is ever executed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resflax.cli import Parser, prepare_jax, run

SOURCES = ("torchvision", "timm", "keras", "bit")
TARGETS = ("torchvision", "timm")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    parser = Parser(prog="python -m resflax.convert", description=__doc__)
    add = parser.add_argument
    add("file", metavar="FILE", help="weights; a folder with timm's model.safetensors and config.json; or hf:ORGANISATION/NAME")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--from", dest="source", choices=SOURCES, help="whose names FILE has")
    way.add_argument("--to", dest="target", choices=TARGETS, help="FILE is a weight file of resflax, wanted under these names")
    add("--output", required=True, metavar="FILE", help="a .safetensors file; --to=timm: or a folder, with a config.json")
    add(
        "--model", metavar="NAME", help="of which network the weights are, see python -m resflax.summary; default: as FILE says"
    )
    add("--num_classes", type=int, metavar="N", help="of the classifier, default: as many as FILE has; 0: without a classifier")
    add("--class_names", metavar="FILE", help="a text file, a class a line")
    add("--image_size", type=int, metavar="N", help="of the images the network was made for; default: as its authors say")
    add("--crop_ratio", type=float, metavar="R", help="the part of the shorter side that is seen; default: as its authors say")
    add("--interpolation", choices=INTERPOLATIONS, help="of the resizing; default: as its authors say")
    arguments = parser.parse_args(argv)
    if arguments.image_size is not None and arguments.image_size < 1:
        parser.error(f"--image_size must be at least 1, got {arguments.image_size}")
    if arguments.crop_ratio is not None and not 0 < arguments.crop_ratio <= 1:
        parser.error(f"--crop_ratio must be above 0 and at most 1, got {arguments.crop_ratio:g}")
    if arguments.num_classes is not None and arguments.num_classes < 0:
        parser.error(f"--num_classes must be at least 0, got {arguments.num_classes}")
    if arguments.target:
        _out(parser, arguments)
    elif arguments.source or arguments.file.startswith("hf:"):
        _in(parser, arguments)
    else:
        parser.error("--from or --to must say whose names are meant")
    return 0


def _in(parser: Parser, arguments: Any) -> None:
    prepare_jax()
    from resflax.weights.foreign import difference_to_torch, read_foreign
    from resflax.weights.hub import PREFIX, read_hub, read_timm_folder
    from resflax.weights.preparation import change_preparation
    from resflax.weights.safetensors import write_weights

    path, wanted = Path(arguments.file), (arguments.model, arguments.num_classes)
    if arguments.file.startswith(PREFIX):
        variables, metadata = read_hub(arguments.file, *wanted)
    elif arguments.source == "timm" and path.is_dir():
        variables, metadata = read_timm_folder(path, *wanted)
    else:
        variables, metadata = read_foreign(path, arguments.source, *wanted)
    if arguments.class_names is not None:
        names = _lines(arguments.class_names)
        if len(names) != metadata["num_classes"]:
            parser.error(f"--class_names must have {metadata['num_classes'] or 0} lines, a class each, got {len(names)}")
        metadata = {**metadata, "class_names": names}
    changes = {key: getattr(arguments, key) for key in ("image_size", "crop_ratio", "interpolation")}
    metadata = change_preparation(metadata, **changes)
    write_weights(arguments.output, variables, metadata)
    _report(arguments.output, variables, metadata)
    why = difference_to_torch(metadata) if arguments.source in TARGETS else None
    if why:
        print(f"resflax: {why}; be sure that {arguments.file} was made for the same network", file=sys.stderr)


def _out(parser: Parser, arguments: Any) -> None:
    given = ("model", "num_classes", "class_names", "image_size", "crop_ratio", "interpolation")
    for key in given:
        if getattr(arguments, key) is not None:
            parser.error(f"--{key} is for the way in, but a weight file says it itself; leave it out")
    prepare_jax()
    from resflax.weights.foreign import difference_to_torch, write_foreign
    from resflax.weights.hub import write_timm_folder
    from resflax.weights.network import load_weights

    _, variables, metadata = load_weights(arguments.file)
    output = Path(arguments.output)
    if arguments.target == "timm" and (output.is_dir() or not output.suffix):
        write_timm_folder(output, variables, metadata)
    else:
        write_foreign(output, variables, metadata, arguments.target)
    _report(arguments.output, variables, metadata)
    why = difference_to_torch(metadata)
    if why:
        print(f"resflax: {why}; a network that reads these names may compute something else", file=sys.stderr)


def _report(path: str, variables: Any, metadata: Any) -> None:
    from resflax.tree import parameter_count

    height, width = metadata["preprocessing"]["image_size"]
    classes = "no classifier" if metadata["num_classes"] is None else f"{metadata['num_classes']} classes"
    print(
        f"{path}: {metadata['model']}, {classes}, {parameter_count(variables['params']):,} parameters, {height}x{width} images"
    )


def _lines(path: str) -> list[str]:
    from resflax.files import require_file, storage

    require_file(path)
    with storage("read", path):
        return [line.strip() for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


if __name__ == "__main__":
    run(main)
