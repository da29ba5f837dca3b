"""What `data.name=cifar100` trains on."""

import pytest


def test_the_labels_are_the_hundred_fine_ones(tmp_path):
    """tfds' set has coarse labels too; `resflax.data.tfds_source` reads the feature `label`."""
    tfds = pytest.importorskip("tensorflow_datasets")
    from resflax.data.datasets import DATASETS

    info, known = tfds.builder("cifar100", data_dir=str(tmp_path)).info, DATASETS["cifar100"]
    assert info.features["label"].num_classes == known.classes == 100
    assert info.features["coarse_label"].num_classes == 20
    assert info.features["image"].shape == known.image_shape
