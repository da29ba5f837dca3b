"""python -m resflax.evaluate: scores a trained network on a split; the last line of stdout is one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from resflax.cli import Parser, prepare_jax, run


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    parser = Parser(prog="python -m resflax.evaluate", description=__doc__)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of a training run")
    parser.add_argument("--split", metavar="NAME", help="default: the run's evaluation split")
    parser.add_argument("--step", type=int, metavar="N", help="default: the newest intact checkpoint")
    arguments = parser.parse_args(argv)
    print(json.dumps(evaluate_workdir(arguments.workdir, arguments.split, arguments.step)))
    return 0


def evaluate_workdir(workdir: str, split: str | None = None, step: int | None = None) -> dict[str, Any]:
    """Scores the checkpoint of a workdir.

    Args:
      workdir: of a training run.
      split: of the run's data set; None: its evaluation split.
      step: of the checkpoint; None: the newest that is intact.

    Returns:
      `split`, `step`, `images_scored`, `accuracy`, `top5_accuracy`, `loss`, `evaluation`, ...

    Raises:
      ConfigError: there is no such split.
      DataError: the data set's classes are not those of the run.
      StorageError: there is no such checkpoint, or it is damaged.
    """
    prepare_jax()
    from resflax.build import make_evaluate, open_trained
    from resflax.results.record import describe_evaluation

    trained = open_trained(workdir, split, step, lambda text: print(text, file=sys.stderr))
    config, images = trained.config, trained.images
    settings = config.data.eval_views, config.precision.deterministic
    evaluate = make_evaluate(trained.model, trained.pipeline, trained.mesh, len(images.class_names), *settings)
    evaluation = evaluate(trained.variables)
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
        "evaluation": describe_evaluation(config, trained.saved.metadata),
    }


if __name__ == "__main__":
    run(main)
