"""python -m resflax.summary: the table of models, or the layers of one."""

from __future__ import annotations

from collections.abc import Sequence

from resflax.cli import Parser, run
from resflax.models.zoo import MODELS, check_model, create_model, list_models


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    parser = Parser(prog="python -m resflax.summary", description=__doc__)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a name of the table; without it the table is shown")
    parser.add_argument("--list", default="*", metavar="PATTERN", help="show only the names that match")
    parser.add_argument("--input", metavar="HxWxC", help="size of an image; default: the table's, or 32x32x3")
    parser.add_argument("--num_classes", type=int, metavar="N", help="default: the table's, or 10")
    arguments = parser.parse_args(argv)
    if arguments.model is None:
        for line in model_table(arguments.list):
            print(line)
        return 0
    check_model(arguments.model)
    row = MODELS.get(arguments.model)
    shape = row.input_shape if row else (32, 32, 3)
    if arguments.input:
        sizes = arguments.input.lower().split("x")
        if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
            parser.error(f"--input must read HEIGHTxWIDTHxCHANNELS, as in 32x32x3, got {arguments.input!r}")
        height, width, channels = map(int, sizes)
        shape = (height, width, channels)
    num_classes = arguments.num_classes or (row.num_classes if row else 10)
    for line in layer_table(arguments.model, shape, num_classes):
        print(line)
    return 0


def model_table(pattern: str) -> list[str]:
    """A line a model: name, parameters, multiply-adds, input, paper."""
    names = list_models(pattern)
    width = max((len(name) for name in names), default=0)
    lines = [f"{'model':{width}}  {'parameters':>12}  {'multiply-adds':>15}  {'input':>11}  paper"]
    for name in names:
        row = MODELS[name]
        size = "x".join(map(str, row.input_shape))
        lines.append(f"{name:{width}}  {row.parameters:>12,}  {row.multiply_adds:>15,}  {size:>11}  {row.paper}")
    return lines


def layer_table(name: str, shape: tuple[int, int, int], num_classes: int) -> list[str]:
    """A line a layer: name, output shape, parameters, multiply-adds, activations, receptive field; then the sums."""
    from resflax.models.profile import profile

    layers = profile(create_model(name, num_classes), shape)
    width = max(len(layer.name) for layer in layers)
    header = f"{'layer':{width}}  {'output':>14}  {'parameters':>12}  {'multiply-adds':>15}  {'activations':>12}  {'field':>6}"
    lines = [header]
    for layer in layers:
        output = "x".join(map(str, layer.output_shape))
        field = str(layer.receptive_field) if layer.receptive_field else ""
        lines.append(
            f"{layer.name:{width}}  {output:>14}  {layer.parameters:>12,}  {layer.multiply_adds:>15,}  "
            f"{layer.activations:>12,}  {field:>6}"
        )
    parameters, operations, activations = (
        sum(getattr(layer, key) for layer in layers) for key in ("parameters", "multiply_adds", "activations")
    )
    lines.append(f"{'total':{width}}  {'':>14}  {parameters:>12,}  {operations:>15,}  {activations:>12,}")
    return lines


if __name__ == "__main__":
    run(main)
