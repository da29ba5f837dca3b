"""python -m resflax.evaluate: scores a trained network on a split; the last line of stdout is one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from resflax.cli import Parser, prepare_jax, run
from resflax.errors import ConfigError, nearest

if TYPE_CHECKING:
    from resflax.build import Trained
    from resflax.data.views import Views

VIEWS: dict[int, Views] = {1: "single", 2: "mirror", 6: "mirror_shift", 10: "ten_crop"}


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    parser = Parser(prog="python -m resflax.evaluate", description=__doc__)
    of = parser.add_mutually_exclusive_group(required=True)
    of.add_argument("--workdir", metavar="DIR", help="of a training run")
    of.add_argument("--checkpoint", metavar="FILE", help="a weight file, or hf:ORGANISATION/REPOSITORY on the Hugging Face hub")
    parser.add_argument("--data", metavar="NAME", help="another data set of the same classes; default: that of the run")
    parser.add_argument("--data_dir", metavar="DIR", help="where it lies")
    parser.add_argument("--split", metavar="NAME", help="default: the run's evaluation split; where there is no run test")
    parser.add_argument("--step", type=int, metavar="N", help="of a workdir; default: the newest intact checkpoint")
    parser.add_argument("--views", type=int, choices=sorted(VIEWS), help="of each image, averaged; default: those of the run")
    parser.add_argument("--shift", action="store_true", help="also under 15 corruptions of 5 severities")
    parser.add_argument("--corruptions", metavar="NAME,...", help="with --shift: some of the 15")
    arguments = parser.parse_args(argv)
    if arguments.step is not None and arguments.checkpoint:
        parser.error("--step needs --workdir, a weight file has one step")
    if arguments.data_dir is not None and arguments.data is None:
        parser.error("--data_dir needs --data")
    names = None if arguments.corruptions is None else arguments.corruptions.split(",")
    if names is not None and not arguments.shift:
        parser.error("--corruptions needs --shift")
    views = None if arguments.views is None else VIEWS[arguments.views]
    corruptions: Sequence[str] | Literal["all"] | None = (names or "all") if arguments.shift else None
    other = None if arguments.data is None else (arguments.data, arguments.data_dir)
    if arguments.checkpoint:
        scores = evaluate_checkpoint(arguments.checkpoint, arguments.split, views, corruptions, other)
    else:
        scores = evaluate_workdir(arguments.workdir, arguments.split, arguments.step, views, corruptions, other)
    print(json.dumps(scores))
    return 0


def evaluate_workdir(
    workdir: str,
    split: str | None = None,
    step: int | None = None,
    views: Views | None = None,
    corruptions: Sequence[str] | Literal["all"] | None = None,
    other: tuple[str, str | None] | None = None,
) -> dict[str, Any]:
    """Scores the checkpoint of a workdir.

    Args:
      workdir: of a training run.
      split: of the data set; None: the run's evaluation split.
      step: of the checkpoint; None: the newest that is intact.
      views: of each image, see `resflax.data.views`; None: `data.eval_views` of the run.
      corruptions: names of `resflax.data.corruptions`, `all` of them, or None.
      other: name and folder, as `data.name` and `data.data_dir` have them, of another data set of the same classes, whose
        images are read as `predict` reads files; None: that of the run.

    Returns:
      `split`, `step`, `images_scored`, `accuracy`, `top5_accuracy`, `loss`, `evaluation`, ...; with corruptions `shift`,
      `{name: [accuracy of severity 1, ..., 5]}`, and `mean_corruption_error`, the mean error over all of them.

    Raises:
      ConfigError: there is no such split or corruption, or ten crops are asked for of images that are not larger files.
      DataError: the data set's classes are not those of the run.
      StorageError: there is no such checkpoint, or it is damaged.
    """
    prepare_jax()
    from resflax.build import open_trained

    names = _corruptions(corruptions)
    trained = open_trained(workdir, split, step, lambda text: print(text, file=sys.stderr), other, views)
    return {"workdir": workdir, **_score(trained, names)}


def evaluate_checkpoint(
    path: str,
    split: str | None = None,
    views: Views | None = None,
    corruptions: Sequence[str] | Literal["all"] | None = None,
    other: tuple[str, str | None] | None = None,
) -> dict[str, Any]:
    """Scores a weight file, or a repository on the Hugging Face hub; in single precision.

    Arguments are those of `evaluate_workdir`; `other` may be None for a file that was exported from a run. Without a run `step`
    is None. Classes that have no names in the file must be as many as those of the data. Raises the errors of
    `evaluate_workdir`, and `ConfigError` for a network without a classifier or where no data set is named.
    """
    prepare_jax()
    from resflax.build import open_trained_file

    names = _corruptions(corruptions)
    return {"checkpoint": path, **_score(open_trained_file(path, split, other, views), names)}


def _corruptions(chosen: Sequence[str] | Literal["all"] | None) -> list[str]:
    from resflax.data.corruptions import CORRUPTIONS

    names = list(CORRUPTIONS) if chosen == "all" else list(chosen or ())
    for name in names:
        if name not in CORRUPTIONS:
            raise ConfigError(f"there is no corruption {name!r}; did you mean {nearest(name, CORRUPTIONS)[0]}?")
    return names


def _score(trained: Trained, names: Sequence[str]) -> dict[str, Any]:
    from resflax.build import evaluate_shift, make_evaluate
    from resflax.build.parts import program_options
    from resflax.results.record import describe_evaluation

    config, images = trained.config, trained.images
    settings = config.data.eval_views, program_options(config.precision, trained.mesh)
    evaluate = make_evaluate(trained.model, trained.pipeline, trained.mesh, len(images.class_names), *settings)
    evaluation = evaluate(trained.variables)
    shift: dict[str, list[float]] = {name: [] for name in names}
    for name, severity, corrupted in evaluate_shift(trained, names):
        shift[name].append(corrupted.accuracy)
        print(f"{name} {severity}: accuracy {100 * corrupted.accuracy:.2f} %", file=sys.stderr)
    every = [accuracy for accuracies in shift.values() for accuracy in accuracies]
    return {
        "model": config.model.name,
        "dataset": config.data.name,
        "dataset_fingerprint": images.fingerprint(),
        "split": trained.split,
        "step": trained.step,
        "images_scored": evaluation.images_scored,
        "accuracy": evaluation.accuracy,
        "top5_accuracy": evaluation.top5_accuracy,
        "loss": evaluation.loss,
        "expected_calibration_error": evaluation.expected_calibration_error,
        "evaluation": describe_evaluation(config, trained.metadata),
        **({"shift": shift, "mean_corruption_error": 1 - sum(every) / len(every)} if every else {}),
    }


if __name__ == "__main__":
    run(main)
