"""python -m resflax.visualize: pictures of a trained network, and of what it gets wrong."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from resflax.cli import Parser, prepare_jax, run
from resflax.errors import ConfigError, nearest

FIGURES = {
    "curves": "loss and error over the steps; of several --workdir in one figure",
    "confusion": "which class is taken for which",
    "classes": "precision, recall and F1 of each class",
    "reliability": "accuracy by confidence, with the expected calibration error",
    "mistakes": "the examples of the greatest loss, with Grad-CAM",
    "attribution": "Grad-CAM and integrated gradients of an example of each class",
    "filters": "the kernel of the first convolution",
    "features": "what each stage makes of the first image",
    "gradients": "how much of the gradient reaches each convolution",
    "embedding": "what the classifier is given, by PCA and t-SNE",
}


def main(argv: Sequence[str]) -> int:
    """The command; the last line of stdout is one JSON object. Returns the exit code."""
    listed = "\n".join(f"  {name:12} {text}" for name, text in FIGURES.items())
    parser = Parser(
        prog="python -m resflax.visualize",
        description=f"{__doc__}\n\nfigures:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, action="append", metavar="DIR", help="of a training run; may be repeated")
    parser.add_argument("--split", metavar="NAME", help="default: the run's evaluation split")
    parser.add_argument("--step", type=int, metavar="N", help="default: the newest intact checkpoint")
    parser.add_argument("--output", metavar="DIR", help="default: figures/ in the first workdir")
    parser.add_argument("--only", metavar="NAME,...", help="some of the figures")
    parser.add_argument("--stage", metavar="NAME", help="that Grad-CAM looks at; default: the last one before the pool")
    arguments = parser.parse_args(argv)
    names = None if arguments.only is None else arguments.only.split(",")
    for name in names or ():
        if name not in FIGURES:
            parser.error(f"--only must name figures, got {name!r}; did you mean {nearest(name, FIGURES)[0]}?")
    print(json.dumps(visualize(arguments.workdir, names, arguments.split, arguments.step, arguments.output, arguments.stage)))
    return 0


def visualize(
    workdirs: Sequence[str],
    names: Sequence[str] | None = None,
    split: str | None = None,
    step: int | None = None,
    output: str | None = None,
    stage: str | None = None,
) -> dict[str, Any]:
    """Draws figures as PNG files, and writes the numbers behind them to `scores.json`.

    Args:
      workdirs: of training runs. Curves are drawn of all of them, everything else of the first.
      names: of `FIGURES`; None: all that can be made of the network, others are left out with the reason on stderr.
      split: of the first run's data set; None: its evaluation split.
      step: of its checkpoint; None: the newest that is intact.
      output: a folder; None: `figures` in the first workdir.
      stage: that Grad-CAM looks at, see `resflax.viz.grad_cam`.

    Returns:
      `{"written": paths, "accuracy", "expected_calibration_error", ...}`, the scores where there is a figure of them.

    Raises:
      ConfigError: there is no such split, or a figure cannot be made of this network.
      DataError: a logit is not finite, or the data set's classes are not those of the run.
      StorageError: there is no such checkpoint, or it is damaged; or a figure cannot be written.
    """
    prepare_jax()
    from etils import epath

    from resflax.build.pictures import Pictures, draw_curves
    from resflax.build.trained import open_trained
    from resflax.files import Workdir, write_json
    from resflax.viz.style import save

    folder = epath.Path(output) if output else Workdir(epath.Path(workdirs[0])).figures
    chosen = list(FIGURES) if names is None else names
    written: list[str] = []
    scores: dict[str, Any] = {}

    def write(name: str, figure: Any) -> None:
        save(figure, folder / f"{name}.png")
        written.append(str(folder / f"{name}.png"))
        print(written[-1], file=sys.stderr)

    if "curves" in chosen:
        write("curves", draw_curves(workdirs))
    rest = [name for name in chosen if name != "curves"]
    if rest:
        trained = open_trained(workdirs[0], split, step, lambda text: print(text, file=sys.stderr))
        pictures = Pictures(trained, workdirs[0], stage)
        for name in rest:
            try:
                write(name, getattr(pictures, f"draw_{name}")())
            except ConfigError as error:
                if names is not None:
                    raise
                print(f"resflax: {error}", file=sys.stderr)
        if {"confusion", "classes", "reliability", "mistakes"} & {*rest}:
            scores = pictures.scores()
            write_json(folder / "scores.json", scores)
            written.append(str(folder / "scores.json"))
    brief = ("split", "step", "images_scored", "accuracy", "expected_calibration_error", "mean_f1")
    return {"written": written, **{key: scores[key] for key in brief if key in scores}}


if __name__ == "__main__":
    run(main)
