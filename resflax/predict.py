"""python -m resflax.predict: names what is on images; files, folders and patterns."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from resflax.cli import Parser, prepare_jax, run
from resflax.errors import InputError, one_line

BATCH = 64


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code: 3 when some of the images could not be used, but see `--keep_going`."""
    parser = Parser(prog="python -m resflax.predict", description=__doc__)
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="image files, folders, or patterns in quotes; -: from stdin, one a line"
    )
    of = parser.add_mutually_exclusive_group(required=True)
    of.add_argument("--workdir", metavar="DIR", help="of a training run")
    of.add_argument("--checkpoint", metavar="FILE", help="a weight file, or hf:ORGANISATION/REPOSITORY on the Hugging Face hub")
    parser.add_argument("--step", type=int, metavar="N", help="of a workdir; default: the newest intact checkpoint")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes shown an image (default: 5)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    form.add_argument("--csv", action="store_true", help="comma-separated values with a header, one line an image")
    parser.add_argument("--gradcam", metavar="DIR", help="writes each image beside where its first class is seen in it")
    parser.add_argument("--stage", metavar="NAME", help="that Grad-CAM looks at; default: the last one before the pool")
    parser.add_argument(
        "--keep_going", action="store_true", help="exit with 0 if any image could be used, not only if all could"
    )
    arguments = parser.parse_args(argv)
    if arguments.top < 1:
        parser.error(f"--top must be at least 1, got {arguments.top}")
    failed = 0
    if arguments.step is not None and arguments.checkpoint:
        parser.error("--step needs --workdir, a weight file has one step")
    if arguments.stage and not arguments.gradcam:
        parser.error("--stage needs --gradcam, it is the stage that Grad-CAM looks at")
    show = _print_json if arguments.json else _csv_printer(arguments.top) if arguments.csv else _print_line
    used = 0
    for row in predict(
        arguments.workdir, _with_stdin(arguments.paths), arguments.top, arguments.step, arguments.checkpoint,
        arguments.gradcam, arguments.stage,
    ):  # fmt: skip
        failed += "error" in row
        used += "error" not in row
        show(row)
    return InputError.exit_code if failed and not (arguments.keep_going and used) else 0


def _with_stdin(paths: Sequence[str]) -> list[str]:
    """`paths` with the lines of stdin in the place of `-`."""
    found: list[str] = []
    for path in paths:
        lines = [os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer] if path == "-" else [path]
        found += [line for line in lines if line or path != "-"]
    if not found:
        raise InputError("stdin must name an image a line, but it is empty; check what comes before the pipe")
    return found


def _print_line(row: dict[str, Any]) -> None:
    if "error" in row:
        print(f"resflax: {one_line(row['error'])}", file=sys.stderr)
    else:
        shown = "  ".join(f"{one['class']} {100 * one['probability']:.1f} %" for one in row["predictions"])
        print(one_line(f"{row['path']}  {shown}", sys.maxsize), flush=True)


def _print_json(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


def _csv_printer(top: int) -> Callable[[dict[str, Any]], None]:
    """Prints the header now, and later a row as `path, error, gradcam, class_1, probability_1, class_2, ...`."""
    ranks = [(f"class_{rank}", f"probability_{rank}") for rank in range(1, top + 1)]
    fields = ["path", "error", "gradcam", *(name for pair in ranks for name in pair)]
    writer = csv.DictWriter(sys.stdout, fields, restval="", lineterminator="\n")
    writer.writeheader()

    def show(row: dict[str, Any]) -> None:
        flat = {name: value for name, value in row.items() if name != "predictions"}
        for (name, probability), one in zip(ranks, row.get("predictions", ()), strict=False):
            flat |= {name: one["class"], probability: one["probability"]}
        writer.writerow(flat)
        sys.stdout.flush()

    return show


def predict(
    workdir: str | None,
    paths: Sequence[str],
    top: int = 5,
    step: int | None = None,
    checkpoint: str | None = None,
    gradcam: str | None = None,
    stage: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields a row an image, in order.

    Args:
      workdir: of a training run; None: `checkpoint` is used.
      paths: files, folders (searched through for .jpg, .png, .webp) and shell patterns.
      top: how many classes, most probable first.
      step: of a workdir's checkpoint; None: the newest that is intact.
      checkpoint: a weight file, or `hf:organisation/repository` on the Hugging Face hub.
      gradcam: a folder for a PNG file of each image, as the network sees it, beside it under Grad-CAM of its first class; the
        row says which one as `gradcam`.
      stage: that Grad-CAM looks at, see `resflax.viz.grad_cam`; None: the last one.

    Yields:
      `{"path", "predictions": [{"class", "probability"}, ...]}`, or `{"path", "error"}` for a file that is no readable
      image, or an image whose logits are not finite; probabilities are the softmax of the logits. The network runs as
      `evaluate` runs it; `resflax.weights.inference` makes the form for one image after another, which compiles longer and
      rounds otherwise.

    Raises:
      ConfigError: the network has no classes to tell apart, or no such stage.
      InputError: a folder or pattern holds no image.
      StorageError: there is no such checkpoint or file, or it is damaged.
      DataError: the file holds something else than the weights of a network.
    """
    from resflax.data.decode import find_images

    files = find_images(list(paths))
    prepare_jax()
    import numpy as np

    from resflax.build import open_run, open_weights

    if workdir is None:
        assert checkpoint is not None
        network = open_weights(checkpoint)
    else:
        network = open_run(workdir, step, lambda text: print(text, file=sys.stderr))
    names, probabilities, read = network.class_names, network.probabilities, network.read

    for start in range(0, len(files), BATCH):
        part: list[Path] = files[start : start + BATCH]
        # Always whole batches: one compilation, and an image's result does not depend on how many there are.
        images: list[Any] = [None] * BATCH
        errors: dict[int, str] = {}
        for index, path in enumerate(part):
            try:
                images[index] = read(path)
            except InputError as error:
                errors[index] = str(error)
        blank = next((np.zeros_like(image) for image in images if image is not None), None)
        if blank is not None:
            batch = np.stack([blank if image is None else image for image in images])
            values = np.asarray(probabilities(batch))
            if gradcam is not None:
                seen, heats = network.explain(batch, values.argmax(axis=1), stage)
        for index, path in enumerate(part):
            if index in errors:
                yield {"path": str(path), "error": errors[index]}
                continue
            if not np.isfinite(values[index]).all():
                reason = f"the network must give finite numbers for {path}, but it does not; its weights are unusable"
                yield {"path": str(path), "error": reason}
                continue
            order = np.argsort(-values[index], kind="stable")[:top]
            predictions = [{"class": names[one], "probability": float(values[index, one])} for one in order]
            row: dict[str, Any] = {"path": str(path), "predictions": predictions}
            if gradcam is not None:
                row["gradcam"] = _write_overlay(gradcam, start + index, path, seen[index], heats[index], predictions[0])
            yield row


def _write_overlay(folder: str, number: int, path: Path, image: Any, heat: Any, prediction: dict[str, Any]) -> str:
    """Writes one picture and returns its path; the number before its name tells files of one name apart."""
    from etils import epath

    from resflax.viz.attribution import plot_overlay
    from resflax.viz.style import save

    name = re.sub(r"[^\w.-]", "_", path.stem, flags=re.ASCII)[:60]  # which every file system takes
    picture = epath.Path(folder) / f"{number:05}-{name}.png"
    save(plot_overlay(image, heat, f"{prediction['class']}, {100 * prediction['probability']:.1f} %"), picture)
    return str(picture)


if __name__ == "__main__":
    run(main)
