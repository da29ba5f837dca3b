"""`python -m tests.golden.make`: the golden checkpoint of this version, to be made and committed once with each release.

`tests/golden/<version>/` holds the newest checkpoint of a finished micro run and, in `logits.npz`, what its network says of a
few images. Later versions must read it and say the same: tests/training/test_golden.py.
"""

import contextlib
import dataclasses
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from resflax import load
from resflax.data.preprocess import Preprocessing
from resflax.files import sha256
from resflax.train import train_and_evaluate
from resflax.training.checkpoint_files import MANIFEST, manifest_digest
from resflax.version import __version__
from tests import micro

FOLDER = Path(__file__).parent


def logits(workdir, images):
    """float32[B, classes] of uint8[B, H, W, C]."""
    model, variables, metadata = load(str(workdir))
    return np.asarray(model.apply(variables, Preprocessing.from_dict(metadata["preprocessing"])(images), train=False))


def forget_the_folder(checkpoint):
    """Takes the temporary folder's name out of Orbax' note of its success, and signs the manifest again."""
    note = checkpoint / "state" / "commit_success.txt"
    note.write_text("Checkpoint commit was successful")
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    manifest["files"]["state/commit_success.txt"] = {"size": note.stat().st_size, "sha256": sha256(note)}
    (checkpoint / MANIFEST).write_text(json.dumps({**manifest, "sha256": manifest_digest(manifest)}, indent=1) + "\n")


def main():
    """Trains in a temporary folder; the data set's name, which the checkpoint keeps, is a relative path."""
    target = FOLDER / __version__
    if target.exists():
        sys.exit(f"{target} must be made once and stay as it is, but it is there; raise resflax/version.py first")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        data = micro.write_npz(Path())
        config = micro.config(data)
        # With averages and momentum; what accumulates gradients would only add to the size.
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, accumulate=1, learning_rate=0.2))
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, kwargs={"width": 2}))
        train_and_evaluate(config, "run")
        images = np.load(data)["test_images"][:5]
        newest = max(Path("run/checkpoints").iterdir(), key=lambda path: int(path.name))
        forget_the_folder(shutil.copytree(newest, target / "checkpoints" / newest.name))
        np.savez(target / "logits.npz", images=images, logits=logits("run", images))
    print(f"{target}: {sum(file.stat().st_size for file in target.rglob('*') if file.is_file()):,} bytes")


if __name__ == "__main__":
    main()
