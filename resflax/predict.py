"""python -m resflax.predict: names what is on images; files, folders and patterns."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from resflax.cli import Parser, prepare_jax, run
from resflax.errors import InputError

BATCH = 64


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code: 3 when some of the images could not be used."""
    parser = Parser(prog="python -m resflax.predict", description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image files, folders, or patterns in quotes")
    of = parser.add_mutually_exclusive_group(required=True)
    of.add_argument("--workdir", metavar="DIR", help="of a training run")
    of.add_argument("--checkpoint", metavar="FILE", help="a weight file, or hf:ORGANISATION/REPOSITORY on the Hugging Face hub")
    parser.add_argument("--step", type=int, metavar="N", help="of a workdir; default: the newest intact checkpoint")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes shown an image (default: 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    arguments = parser.parse_args(argv)
    if arguments.top < 1:
        parser.error(f"--top must be at least 1, got {arguments.top}")
    failed = 0
    if arguments.step is not None and arguments.checkpoint:
        parser.error("--step needs --workdir, a weight file has one step")
    for row in predict(arguments.workdir, arguments.paths, arguments.top, arguments.step, arguments.checkpoint):
        failed += "error" in row
        if arguments.json:
            print(json.dumps(row), flush=True)
        elif "error" in row:
            print(f"resflax: {row['error']}", file=sys.stderr)
        else:
            shown = "  ".join(f"{one['class']} {100 * one['probability']:.1f} %" for one in row["predictions"])
            print(f"{row['path']}  {shown}", flush=True)
    return InputError.exit_code if failed else 0


def predict(
    workdir: str | None, paths: Sequence[str], top: int = 5, step: int | None = None, checkpoint: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yields a row an image, in order.

    Args:
      workdir: of a training run; None: `checkpoint` is used.
      paths: files, folders (searched through for .jpg, .png, .webp) and shell patterns.
      top: how many classes, most probable first.
      step: of a workdir's checkpoint; None: the newest that is intact.
      checkpoint: a weight file, or `hf:organisation/repository` on the Hugging Face hub.

    Yields:
      `{"path", "predictions": [{"class", "probability"}, ...]}`, or `{"path", "error"}` for a file that is no readable
      image, or an image whose logits are not finite; probabilities are the softmax of the logits. The network runs as
      `evaluate` runs it; `resflax.weights.inference` makes the form for one image after another, which compiles longer and
      rounds otherwise.

    Raises:
      ConfigError: the network has no classes to tell apart.
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
            values = np.asarray(probabilities(np.stack([blank if image is None else image for image in images])))
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
            yield {"path": str(path), "predictions": predictions}


if __name__ == "__main__":
    run(main)
