import numpy as np
import pytest

from resflax.data.arrays import load_split
from resflax.data.pipeline import ResidentPipeline
from resflax.data.preprocess import fit_preprocessing


@pytest.fixture(scope="module")
def pipeline():
    arrays = load_split("digits", "train[:60]")
    return ResidentPipeline(
        fit_preprocessing("per_channel", arrays, None), 16, seed=3, augment=("pad_crop:2", "flip"), arrays=arrays
    )


def test_labels_and_ids_belong_to_the_images(pipeline):
    plain = ResidentPipeline(pipeline.preprocessing, 16, seed=3, arrays=pipeline.arrays)
    host = plain.training_batches()(2)
    batch = plain.materialise(host, plain.resident)
    np.testing.assert_array_equal(batch["id"], host["id"])
    np.testing.assert_array_equal(batch["label"], pipeline.arrays.labels[host["id"]])
    np.testing.assert_allclose(batch["image"], pipeline.preprocessing(pipeline.arrays.images[host["id"]]), atol=1e-6)


def test_an_example_is_augmented_alike_in_any_batch(pipeline):
    host = pipeline.training_batches()(1)
    whole = np.asarray(pipeline.materialise(host, pipeline.resident)["image"])
    backwards = {name: value[::-1] for name, value in host.items()}
    np.testing.assert_array_equal(np.asarray(pipeline.materialise(backwards, pipeline.resident)["image"])[::-1], whole)
    for row in (0, 7):
        alone = {name: value[row : row + 1] for name, value in host.items()}
        np.testing.assert_array_equal(pipeline.materialise(alone, pipeline.resident)["image"][0], whole[row])


def test_augmentation_differs_between_epochs(pipeline):
    def images(epoch):
        ids = np.arange(60, dtype=np.int32)
        host = {"id": ids, "epoch": np.full(60, epoch, np.int32), "mask": np.ones(60, bool)}
        return np.asarray(pipeline.materialise(host, pipeline.resident)["image"])

    changed = (images(0) != images(1)).any(axis=(1, 2, 3)).mean()
    assert changed > 0.9  # 25 offsets x 2 mirrorings leave 2 % equal by chance
