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
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of a training run")
    parser.add_argument("--step", type=int, metavar="N", help="default: the newest intact checkpoint")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes shown an image (default: 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    arguments = parser.parse_args(argv)
    if arguments.top < 1:
        parser.error(f"--top must be at least 1, got {arguments.top}")
    failed = 0
    for row in predict(arguments.workdir, arguments.paths, arguments.top, arguments.step):
        failed += "error" in row
        if arguments.json:
            print(json.dumps(row), flush=True)
        elif "error" in row:
            print(f"resflax: {row['error']}", file=sys.stderr)
        else:
            shown = "  ".join(f"{one['class']} {100 * one['probability']:.1f} %" for one in row["predictions"])
            print(f"{row['path']}  {shown}", flush=True)
    return InputError.exit_code if failed else 0


def predict(workdir: str, paths: Sequence[str], top: int = 5, step: int | None = None) -> Iterator[dict[str, Any]]:
    """Yields a row an image, in order.

    Args:
      workdir: of a training run.
      paths: files, folders (searched through for .jpg, .png, .webp) and shell patterns.
      top: how many classes, most probable first.
      step: of the checkpoint; None: the newest that is intact.

    Yields:
      `{"path", "predictions": [{"class", "probability"}, ...]}`, or `{"path", "error"}` for a file that is no readable
      image; probabilities are the softmax of the logits.

    Raises:
      InputError: a folder or pattern holds no image.
      StorageError: there is no such checkpoint, or it is damaged.
    """
    from resflax.data.decode import find_images

    files = find_images(list(paths))
    prepare_jax()
    import numpy as np

    from resflax.build import find_checkpoint, make_probabilities, make_reader, restore_variables

    saved = find_checkpoint(workdir, step, lambda text: print(text, file=sys.stderr))
    config, model, variables = restore_variables(saved)
    names = saved.metadata["class_names"]
    probabilities = make_probabilities(config, model, variables, saved.metadata["preprocessing"])
    read = make_reader(config, saved.metadata)

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
            values = probabilities(np.stack([blank if image is None else image for image in images]))
        for index, path in enumerate(part):
            if index in errors:
                yield {"path": str(path), "error": errors[index]}
                continue
            order = np.argsort(-values[index], kind="stable")[:top]
            predictions = [{"class": names[one], "probability": float(values[index, one])} for one in order]
            yield {"path": str(path), "predictions": predictions}


if __name__ == "__main__":
    run(main)
