"""python -m resflax.evaluate: scores a trained network on a split; the last line of stdout is one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Literal

from resflax.cli import Parser, prepare_jax, run
from resflax.errors import ConfigError, nearest

Views = Literal["single", "mirror", "mirror_shift", "ten_crop"]
VIEWS: dict[int, Views] = {1: "single", 2: "mirror", 6: "mirror_shift", 10: "ten_crop"}


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    parser = Parser(prog="python -m resflax.evaluate", description=__doc__)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of a training run")
    parser.add_argument("--split", metavar="NAME", help="default: the run's evaluation split")
    parser.add_argument("--step", type=int, metavar="N", help="default: the newest intact checkpoint")
    parser.add_argument("--views", type=int, choices=sorted(VIEWS), help="of each image, averaged; default: those of the run")
    parser.add_argument("--shift", action="store_true", help="also under 15 corruptions of 5 severities")
    parser.add_argument("--corruptions", metavar="NAME,...", help="with --shift: some of the 15")
    arguments = parser.parse_args(argv)
    names = None if arguments.corruptions is None else arguments.corruptions.split(",")
    if names is not None and not arguments.shift:
        parser.error("--corruptions needs --shift")
    views = None if arguments.views is None else VIEWS[arguments.views]
    settings = (arguments.workdir, arguments.split, arguments.step, views)
    print(json.dumps(evaluate_workdir(*settings, corruptions=(names or "all") if arguments.shift else None)))
    return 0


def evaluate_workdir(
    workdir: str,
    split: str | None = None,
    step: int | None = None,
    views: Views | None = None,
    corruptions: Sequence[str] | Literal["all"] | None = None,
) -> dict[str, Any]:
    """Scores the checkpoint of a workdir.

    Args:
      workdir: of a training run.
      split: of the run's data set; None: its evaluation split.
      step: of the checkpoint; None: the newest that is intact.
      views: of each image, see `resflax.data.views`; None: `data.eval_views` of the run.
      corruptions: names of `resflax.data.corruptions`, `all` of them, or None.

    Returns:
      `split`, `step`, `images_scored`, `accuracy`, `top5_accuracy`, `loss`, `evaluation`, ...; with corruptions `shift`,
      `{name: [accuracy of severity 1, ..., 5]}`, and `mean_corruption_error`, the mean error over all of them.

    Raises:
      ConfigError: there is no such split or corruption, or ten crops are asked for of images that are not larger files.
      DataError: the data set's classes are not those of the run.
      StorageError: there is no such checkpoint, or it is damaged.
    """
    prepare_jax()
    from resflax.build import evaluate_shift, make_evaluate, open_trained
    from resflax.data.corruptions import CORRUPTIONS
    from resflax.results.record import describe_evaluation

    names = list(CORRUPTIONS) if corruptions == "all" else list(corruptions or ())
    for name in names:
        if name not in CORRUPTIONS:
            raise ConfigError(f"there is no corruption {name!r}; did you mean {nearest(name, CORRUPTIONS)[0]}?")
    trained = open_trained(workdir, split, step, lambda text: print(text, file=sys.stderr), views=views)
    config, images = trained.config, trained.images
    settings = config.data.eval_views, config.precision.deterministic
    evaluate = make_evaluate(trained.model, trained.pipeline, trained.mesh, len(images.class_names), *settings)
    evaluation = evaluate(trained.variables)
    shift: dict[str, list[float]] = {name: [] for name in names}
    for name, severity, corrupted in evaluate_shift(trained, names):
        shift[name].append(corrupted.accuracy)
        print(f"{name} {severity}: accuracy {100 * corrupted.accuracy:.2f} %", file=sys.stderr)
    every = [accuracy for accuracies in shift.values() for accuracy in accuracies]
    return {
        "workdir": workdir,
        "model": config.model.name,
        "dataset": config.data.name,
        "dataset_fingerprint": images.fingerprint(),
        "split": trained.split,
        "step": trained.saved.step,
        "images_scored": evaluation.images_scored,
        "accuracy": evaluation.accuracy,
        "top5_accuracy": evaluation.top5_accuracy,
        "loss": evaluation.loss,
        "expected_calibration_error": evaluation.expected_calibration_error,
        "evaluation": describe_evaluation(config, trained.saved.metadata),
        **({"shift": shift, "mean_corruption_error": 1 - sum(every) / len(every)} if every else {}),
    }


if __name__ == "__main__":
    run(main)
