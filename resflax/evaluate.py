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
    from resflax.build import (
        evaluation_pipeline,
        find_checkpoint,
        make_evaluate,
        open_split,
        restore_variables,
        without_unreadable,
    )
    from resflax.data.preprocess import Preprocessing
    from resflax.errors import DataError
    from resflax.results.record import describe_evaluation
    from resflax.training.sharding import make_mesh, put, replicated

    saved = find_checkpoint(workdir, step, lambda text: print(text, file=sys.stderr))
    config, model, variables = restore_variables(saved)
    split = split or config.data.eval_split
    images = open_split(config, split)
    if list(images.class_names) != saved.metadata["class_names"]:
        raise DataError(
            f"the classes of {config.data.name} must be those the network was trained on, got {list(images.class_names)[:5]} "
            f"for {saved.metadata['class_names'][:5]}; restore the data set"
        )
    if config.data.unreadable == "skip":
        images = without_unreadable(config, images, {})
    mesh = make_mesh()
    preprocessing = Preprocessing.from_dict(saved.metadata["preprocessing"])
    pipeline = evaluation_pipeline(config, images, preprocessing, mesh)
    evaluate = make_evaluate(model, pipeline, mesh, len(images.class_names), config.data.eval_views)
    evaluation = evaluate(put(variables, replicated(mesh)))  # they were read onto the first device
    return {
        "workdir": workdir,
        "model": config.model.name,
        "dataset": config.data.name,
        "dataset_fingerprint": images.fingerprint(),
        "split": split,
        "step": saved.step,
        "images_scored": evaluation.images_scored,
        "accuracy": evaluation.accuracy,
        "top5_accuracy": evaluation.top5_accuracy,
        "loss": evaluation.loss,
        "evaluation": describe_evaluation(config, saved.metadata),
    }


if __name__ == "__main__":
    run(main)
