"""python -m resflax.probe: what the frozen features of a network are worth: a linear classifier and nearest neighbours on them.

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from resflax.cli import Parser, prepare_jax, run
from resflax.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from resflax.build.outputs import Outputs
    from resflax.build.trained import Trained


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    parser = Parser(prog="python -m resflax.probe", description=__doc__)
    of = parser.add_mutually_exclusive_group(required=True)
    of.add_argument("--workdir", metavar="DIR", help="of a training run")
    of.add_argument("--checkpoint", metavar="FILE", help="a weight file, or hf:ORGANISATION/REPOSITORY on the Hugging Face hub")
    parser.add_argument("--step", type=int, metavar="N", help="of a workdir; default: the newest intact checkpoint")
    parser.add_argument("--data", metavar="NAME", help="another data set than the run's, of the same kind of images")
    parser.add_argument("--data_dir", metavar="DIR", help="where it lies")
    parser.add_argument("--train", default="train", metavar="SPLIT", help="whose features are learned from (default: train)")
    parser.add_argument("--test", default="test", metavar="SPLIT", help="whose are classified (default: test)")
    parser.add_argument("--neighbours", type=int, default=20, metavar="K", help="default: 20")
    parser.add_argument("--temperature", type=float, default=0.07, metavar="T", help="of their votes (default: 0.07)")
    parser.add_argument("--output", metavar="FILE.npz", help="also writes the features")
    arguments = parser.parse_args(argv)
    if arguments.neighbours < 1:
        parser.error(f"--neighbours must be at least 1, got {arguments.neighbours}")
    if not arguments.temperature > 0:
        parser.error(f"--temperature must be above 0, got {arguments.temperature:g}")
    if arguments.step is not None and arguments.checkpoint:
        parser.error("--step needs --workdir, a weight file has one step")
    if arguments.data_dir is not None and arguments.data is None:
        parser.error("--data_dir needs --data")
    print(json.dumps(probe(**vars(arguments))))
    return 0


def probe(
    workdir: str | None,
    step: int | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    train: str = "train",
    test: str = "test",
    neighbours: int = 20,
    temperature: float = 0.07,
    output: str | None = None,
    checkpoint: str | None = None,
) -> dict[str, Any]:
    """Classifies the examples of one split by the features of another's; the network stays as it is.

    Args:
      workdir: of a training run; None: `checkpoint` is used.
      step: of its checkpoint; None: the newest that is intact.
      data: name of a data set, as `config.data.name` has it, whose classes may be any and whose images are read as `predict`
        reads files; None: the run's.
      data_dir: where it lies.
      train: the split that is learned from.
      test: the split that is classified.
      neighbours, temperature: see `vote`.
      checkpoint: a weight file, or `hf:organisation/repository` on the Hugging Face hub; a classifier it need not have.
      output: an `.npz` for `{train,test}_features` float32[N, C], `_labels` and `_ids` int32[N], and `class_names`.

    Returns:
      `linear_accuracy`, `neighbour_accuracy`, `images_learned_from`, `images_scored`, ...

    Raises:
      ConfigError: there is no such data set or split, its images have another number of channels, or none is named for a weight
        file that was not made of a run.
      DataError: the splits have different classes, or fewer than two.
      StorageError: there is no such checkpoint, or the features cannot be written.
    """
    prepare_jax()
    import numpy as np

    from resflax.build.outputs import split_outputs
    from resflax.build.trained import open_trained, open_trained_file
    from resflax.files import write_bytes

    other = None if data is None else (data, data_dir)

    def open_at(split: str) -> Trained:
        classes: Literal["same", "any"] = "same" if other is None else "any"
        if workdir is None:
            assert checkpoint is not None
            return open_trained_file(checkpoint, split, other, classes=classes)
        return open_trained(workdir, split, step, lambda text: print(text, file=sys.stderr), other, classes=classes)

    opened = [open_at(split) for split in (train, test)]
    names = [trained.images.class_names for trained in opened]
    if names[0] != names[1]:
        raise DataError(
            f"splits {train} and {test} must have the same classes, got {len(names[0])} and {len(names[1])}; name others"
        )
    known, asked = (split_outputs(trained) for trained in opened)
    if len(np.unique(known.labels)) < 2:
        raise DataError(f"split {train} must hold examples of at least two classes to learn from; name another --train")
    if output is not None:
        parts, splits = ("features", "labels", "ids"), (("train", known), ("test", asked))
        arrays = {f"{name}_{part}": getattr(outputs, part) for name, outputs in splits for part in parts}
        content = io.BytesIO()
        np.savez(content, class_names=np.array(names[0]), **arrays)
        write_bytes(output, content.getvalue())
    return {
        **({"checkpoint": checkpoint} if workdir is None else {"workdir": workdir}),
        "step": opened[0].step,
        "dataset": opened[0].config.data.name,
        "train": train,
        "test": test,
        "images_learned_from": len(known.ids),
        "images_scored": len(asked.ids),
        "features": known.features.shape[1],
        "linear_accuracy": float(np.mean(linear(known, asked.features) == asked.labels)),
        "neighbour_accuracy": float(np.mean(vote(known, asked.features, neighbours, temperature) == asked.labels)),
        "neighbours": min(neighbours, len(known.ids)),
        "temperature": temperature,
    }


def linear(known: Outputs, features: np.ndarray) -> np.ndarray:
    """int[N], the classes that a logistic regression on standardised features gives float[N, C]; scikit-learn's, C = 1."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return classifier.fit(known.features, known.labels).predict(features)


def vote(known: Outputs, features: np.ndarray, neighbours: int, temperature: float) -> np.ndarray:
    """int[N], the classes that the nearest neighbours of float[N, C] vote for.

    Each of the most similar by the cosine has a weight of `exp(cosine / temperature)` (Wu et al. 2018, Sec. 3.4).
    """
    import numpy as np
    from sklearn.neighbors import KNeighborsClassifier

    def weights(distances: np.ndarray) -> np.ndarray:
        # Relative to the nearest: the same shares of the vote, and nothing overflows or vanishes.
        return np.exp((distances.min(axis=1, keepdims=True) - distances) / temperature)

    count = min(neighbours, len(known.ids))
    classifier = KNeighborsClassifier(count, weights=weights, metric="cosine", algorithm="brute")
    return classifier.fit(known.features, known.labels).predict(features)


if __name__ == "__main__":
    run(main)
